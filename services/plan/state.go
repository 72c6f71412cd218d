package plan

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// State is the fold of plan-<pathway id>. The messages in it are never changed:
// Evolve puts a changed copy in the place of one.
type State struct {
	events      int64      // so many were folded; the newest has revision events-1
	plans       []*pb.Plan // oldest first; only the last may be open
	published   []*pb.Plan // as they were at each publication
	assessments []*pb.Assessment
	summaries   []*pb.Summary
	schedules   []*pb.Schedule // oldest first; only the last may run
	results     []*pb.Result
	responses   []*pb.Response
	documents   []*pb.DocumentView
	notNeeded   string // why surveillance is not needed
	steps       []*pb.CareStep
	ended       map[string]string // what waits for nobody any more, by id, with the cause
	closedBy    string            // the fact that closed the pathway and ended it
	changed     bool              // the plan says something else than the version published last
}

func decider() es.Decider[State] { return es.Decider[State]{Category: "plan", Evolve: evolve} }

func evolve(s State, e proto.Message) State {
	s.events++
	s = takenUp(s, e)
	switch e.(type) {
	case *pb.ConcernRaised, *pb.ConcernDecided, *pb.ConcernResolved, *pb.GoalAgreed, *pb.GoalStatusChanged, *pb.ActionPlanned, *pb.ActionAssigned, *pb.SectionWritten:
		s.changed = true
	case *pb.PlanPublished, *pb.PlanOpened:
		s.changed = false
	}
	for _, part := range []func(State, proto.Message) (State, bool){evolvePlan, evolveAssessment, evolveSummary, evolveSurveillance, evolveResult, evolveResponse, evolveDocument, evolveCareStep, evolveEnding} {
		if next, ok := part(s, e); ok {
			return next
		}
	}
	panic(es.Unhandled(e))
}

// with returns list with each message that matches replaced by a changed copy.
func with[M proto.Message](list []M, match func(M) bool, change func(M)) []M {
	out := slices.Clone(list)
	for i, m := range out {
		if match(m) {
			c := proto.Clone(m).(M)
			change(c)
			out[i] = c
		}
	}
	return out
}

// withLast is with for the last message; an empty list stays so.
func withLast[M proto.Message](list []M, change func(M)) []M {
	n := 0
	return with(list, func(M) bool { n++; return n == len(list) }, change)
}

// add appends without touching what earlier states share.
func add[M any](list []M, m ...M) []M { return append(slices.Clip(list), m...) }

// find returns the first that matches, the zero M for none.
func find[M any](list []M, match func(M) bool) (m M, ok bool) {
	if i := slices.IndexFunc(list, match); i >= 0 {
		return list[i], true
	}
	return m, false
}

// last returns the last of a list, nil for an empty one.
func last[M any](list []*M) *M {
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}

// Env is what a decision knows besides the state and the request.
type Env struct {
	Command uuid.UUID
	User    string // of the actor
	Role    string // SDS job role code; "" for a system
	Now     time.Time
}

// Today is the civil date in England.
func (e Env) Today() nhs.Date { return nhs.DateOf(e.Now) }

// ID is the id of a thing that the command makes.
func (e Env) ID(of string) string { return uuid.NewSHA1(e.Command, []byte(of)).String() }

// happened refuses a day that has not come yet.
func (e Env) happened(field, on string) error {
	if on > e.Today().String() {
		return fault.Invalid("plan.date.in_future", field, "has not happened yet: it is after today")
	}
	return nil
}

// inOrder refuses a day before one on which an earlier step was taken.
func inOrder(field, earlier, on string) error {
	if on < earlier {
		return fault.Invalid("plan.date.order", field, "is before the day of the step that came first")
	}
	return nil
}

// date parses a date that was validated; anything else is no date.
func date(text string) nhs.Date {
	d, err := nhs.ParseDate(text)
	if err != nil {
		return nhs.Date{}
	}
	return d
}

// needed refuses an empty field.
func needed(code, field, value string) error {
	if value == "" {
		return fault.Invalid(code, field, "is needed here")
	}
	return nil
}

// events makes what Decide returns.
func events(e ...proto.Message) ([]proto.Message, error) { return e, nil }

func notAtStep(what string) error {
	return fault.Refused("plan.state", "the "+what+" is not at a step that allows this: read it again")
}

func unknown(what string) error {
	return fault.NotFound("plan."+what+".not_found", "no "+strings.ReplaceAll(what, "_", " ")+" on this pathway has this id")
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
