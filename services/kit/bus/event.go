// Package bus carries the log to NATS and from NATS to the services.
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
	Tenant        string        // ODS code
	CorrelationID string
	Occurred      time.Time
	Recorded      time.Time
}
