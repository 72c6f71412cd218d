package eventstore

import (
	"cmp"
	"hash/maphash"
	"slices"

	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
)

// consumer is one client that reads from a group.
type consumer struct {
	id        string
	address   string
	user      string
	name      string
	size      int                         // how many messages it takes unacknowledged
	out       chan *persistentpb.ReadResp // has room for size
	dropped   chan struct{}               // closed after err is set
	err       error
	inFlight  map[eventID]*delivery // owned by the group's run
	delivered int64                 // owned by the group's run
	measured  int64                 // owned by the group's run
}

// takes says whether the consumer can have the message now. Two events with one
// id cannot be told apart in an acknowledgement, so never both are in flight.
func (c *consumer) takes(m *delivery) bool {
	return c.free() && c.inFlight[m.id] == nil
}

func (c *consumer) free() bool { return len(c.inFlight) < c.size && len(c.out) < c.size }

// choose picks the consumer for a message, nil when it has to wait.
func (g *consumerGroup) choose(m *delivery) *consumer {
	switch g.cfg.Strategy {
	case dispatchToSingle:
		for _, c := range g.consumers {
			if c.takes(m) {
				return c
			}
		}
	case pinned, pinnedByCorrelation:
		// The highest of one hash per consumer: when one comes or goes, only the
		// keys that it gains or loses move.
		best := slices.MaxFunc(g.consumers, func(a, b *consumer) int {
			return cmp.Compare(maphash.String(g.seed, a.id+m.key), maphash.String(g.seed, b.id+m.key))
		})
		if best.takes(m) {
			return best
		}
	default: // round robin
		for i := range g.consumers {
			c := g.consumers[(g.turn+i)%len(g.consumers)]
			if c.takes(m) {
				g.turn = (g.turn + i + 1) % len(g.consumers)
				return c
			}
		}
	}
	return nil
}
