// Package bus carries the log to NATS and from NATS to the services.
//
// The JetStream stream EVENTS is a copy of the log that can be thrown away and
// made again, never the record. It is kept exact by three things:
//
//   - One writer at a time, by fence and not by lock. The checkpoint of a Relay
//     is the log position in the last message of the stream itself, and every
//     publish carries the sequence it expects to follow. The server refuses a
//     stale, paused or doubled relay, so any number of relays may run.
//   - One identity: the log position. Sequences change when the stream is made
//     anew with another mapping; positions never do. Consumers keep both, find
//     their place again by position and skip what they have seen.
//   - One chain: each message names the position of the one before it, so that a
//     reader of the whole stream notices a hole, which the server does not.
//
// What is published is a pure function of the stored event (Mapping), so that
// Scrub can compute every message again and compare.
package bus

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"waymark/services/kit/es"
)

// Event is what a service hears: an event of the log without the fields above
// PSEUDONYMOUS. Whoever needs more asks the service that owns it.
type Event struct {
	ID            uuid.UUID
	Category      string // of the stream
	StreamID      string // what follows the category: the pathway id, the person id
	Revision      es.Revision
	Position      es.Position
	Message       proto.Message // never nil; fields up to PSEUDONYMOUS
	Tenant        string        // ODS code, "" where the event names none
	CorrelationID string
	CausationID   string
	Occurred      time.Time
	Recorded      time.Time
}
