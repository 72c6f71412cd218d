package plan

import (
	"fmt"
	"strings"
	"time"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
)

// Audit checks that no plan is published with a concern that nobody decided
// about, from the events alone. It shares no code with the fold and the
// decisions.
type Audit struct {
	open map[string]map[string]bool // by stream: concerns without a decision
}

// NewAudit returns an audit of a log from its first event.
func NewAudit() *Audit { return &Audit{map[string]map[string]bool{}} }

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	if !strings.HasPrefix(e.Stream, "plan-") {
		return nil
	}
	switch v := e.Event.(type) {
	case *pb.PlanOpened:
		a.open[e.Stream] = map[string]bool{}
	case *pb.ConcernRaised:
		if a.open[e.Stream] == nil {
			return fmt.Errorf("a concern is raised before a plan was opened")
		}
		a.open[e.Stream][v.ConcernId] = true
	case *pb.ConcernDecided:
		delete(a.open[e.Stream], v.ConcernId)
	case *pb.ConcernResolved:
		delete(a.open[e.Stream], v.ConcernId)
	case *pb.PlanPublished:
		if n := len(a.open[e.Stream]); n > 0 {
			return fmt.Errorf("a plan is published with %d concerns that nobody decided about", n)
		}
	}
	return nil
}

// End finds what only the end of the log shows: nothing.
func (a *Audit) End(time.Time) []error { return nil }
