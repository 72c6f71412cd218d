package edge

import (
	"errors"
	"fmt"
	"strings"
	"time"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/es"
)

// Audit checks the streams of messages from their events alone: every message
// that was kept has one outcome or none yet, and a message that took the place of
// another is known by both. It shares no code with the fold and the decisions.
type Audit struct {
	messages map[string]*auditedMessage // by id
	post     func(es.Fact)
}

// auditedMessage is what is known of one message.
type auditedMessage struct {
	kept, applied bool
	outcome       string // the event that concluded it
	by            string // the message that repeats it
}

// NewAudit returns an audit of messages from their first events. What concerns
// two of them it posts, for a Meeting.
func NewAudit(post func(es.Fact)) *Audit { return &Audit{map[string]*auditedMessage{}, post} }

func (a *Audit) message(id string) *auditedMessage {
	m := a.messages[id]
	if m == nil {
		m = &auditedMessage{}
		a.messages[id] = m
	}
	return m
}

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	category, id, _ := strings.Cut(e.Stream, "-")
	if category != "message" {
		return nil
	}
	m := a.message(id)
	v, keeps := e.Event.(*pb.MessageReceived)
	switch {
	case keeps && m.kept:
		return errors.New("a message is kept twice")
	case !keeps && !m.kept:
		return errors.New("something becomes of a message that was never kept")
	}
	switch {
	case keeps:
		return a.keep(id, m, v, e)
	}
	switch v := e.Event.(type) {
	case *pb.MessageApplied:
		m.applied = true
		return m.conclude("applied")
	case *pb.MessageParked:
		if v.GetReason().GetCode() == "" {
			return errors.New("a message is parked without a reason")
		}
		return m.conclude("parked")
	case *pb.MessageRefused:
		if v.GetReason().GetCode() == "" {
			return errors.New("a message is refused without a reason")
		}
		return m.conclude("refused")
	case *pb.MessageRedriven:
		by := strings.ToLower(v.ByMessageId)
		switch {
		case by == "" || by == id:
			return errors.New("a message takes its own place, or nobody's does")
		case m.applied:
			return errors.New("a message is redriven that was applied")
		case m.by != "":
			return errors.New("two messages take the place of one")
		}
		m.by = by
		a.post(es.Fact{Key: by, Kind: "takes the place of", Args: []string{id}, At: e.Place()})
		a.post(es.Fact{Key: id, Kind: "is repeated by", Args: []string{by}, At: e.Place()})
	}
	return nil
}

func (a *Audit) keep(id string, m *auditedMessage, v *pb.MessageReceived, e es.Entry) error {
	m.kept = true
	of := strings.ToLower(v.RedriveOf)
	a.post(es.Fact{Key: id, Kind: "is kept", Args: []string{of}, At: e.Place()})
	switch {
	case strings.ToLower(v.MessageId) != id:
		return errors.New("a message is kept in the stream of another")
	case len(v.Raw) == 0:
		return errors.New("a message is kept without its bytes")
	case of != "":
		a.post(es.Fact{Key: of, Kind: "is claimed by", Args: []string{id}, At: e.Place()})
	}
	return nil
}

func (m *auditedMessage) conclude(outcome string) error {
	if m.outcome != "" {
		return fmt.Errorf("a message is %s that was %s already", outcome, m.outcome)
	}
	m.outcome = outcome
	return nil
}

// End finds what only the end of the log shows: nothing. A message without an
// outcome has none yet: its sender got no answer and sends it again.
func (a *Audit) End(time.Time) []error { return nil }

// Meeting checks that a message and the one that took its place know each other.
type Meeting struct{ messages map[string]*redriven }

// redriven is what two streams say of one message.
type redriven struct {
	kept   bool
	of, by string // the message that it repeats, and the one that repeats it
}

// NewMeeting returns an audit of what an Audit posts.
func NewMeeting() *Meeting { return &Meeting{map[string]*redriven{}} }

// Next takes the next fact about messages.
func (a *Meeting) Next(f es.Fact) error {
	m, other := a.messages[f.Key], f.Args[0]
	if m == nil {
		m = &redriven{}
		a.messages[f.Key] = m
	}
	switch f.Kind {
	case "is kept":
		m.kept, m.of = true, other
	case "is repeated by":
		m.by = other
	case "takes the place of":
		if m.kept && m.of != other {
			return fmt.Errorf("message-%s takes the place of this one and does not say so", f.Key)
		}
	case "is claimed by":
		if m.by != other {
			return fmt.Errorf("it takes the place of message-%s, which does not say so", f.Key)
		}
	}
	return nil
}

// End finds what only the end of the log shows: nothing.
func (a *Meeting) End(time.Time) []error { return nil }
