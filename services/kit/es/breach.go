package es

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Breach is a rule of the domain that the log breaks, at the first event with
// which it does. Auditors return it: they read the log and share no code with
// the folds that wrote it, so that one is checked by the other.
type Breach struct {
	Stream   string   `json:"stream"`
	Revision Revision `json:"revision"`
	Position Position `json:"position"`
	Type     string   `json:"type"`
	Text     string   `json:"text"` // the rule and how it is broken, without patient data
}

// BreachAt returns the breach of a rule at e.
func BreachAt(e Recorded, format string, args ...any) *Breach {
	return &Breach{e.Stream, e.Revision, e.Position, e.Type, fmt.Sprintf(format, args...)}
}

func (b *Breach) Error() string {
	return fmt.Sprintf("stream %s, revision %d, position %d, %s: %s", b.Stream, b.Revision, b.Position, b.Type, b.Text)
}

// Place returns e without its data and metadata: what an auditor keeps to name it.
func (e Recorded) Place() Recorded {
	e.Data, e.Metadata = nil, nil
	return e
}

// Fact is what an auditor of streams with one id says to the audit of a rule
// between several: that a person has a number, an appointment stands in a slot.
// Facts with one key meet, in the order of the log, wherever their streams were
// audited; facts with different keys need not know of each other. So a log can be
// audited in parts.
type Fact struct {
	Key  string
	Kind string
	Args []string
	At   Recorded // the event that says it, a Place
}

// Entry is one event as an auditor reads it.
type Entry struct {
	Recorded
	Event    proto.Message // the decoded data
	Metadata Metadata
}
