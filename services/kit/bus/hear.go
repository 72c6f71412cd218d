package bus

import (
	"fmt"

	"waymark/services/kit/es"
)

// Hear returns what services hear of a stored event, as if it had gone over
// NATS: through the same message, without the fields that it does not carry.
// It reports false for an event that is not relayed. It is for harnesses that
// bring events to services themselves.
func (m Mapping) Hear(e es.Recorded) (Event, bool, error) { return m.Ear()(e) }

// Ear returns Hear for many events, which it shares its preparation between. It
// belongs to one goroutine.
func (m Mapping) Ear() func(es.Recorded) (Event, bool, error) {
	one := newMapper(m)
	return func(e es.Recorded) (Event, bool, error) {
		if !one.relays(&e) {
			return Event{}, false, nil
		}
		msg, err := one.message(&e, 0)
		if err != nil {
			return Event{}, false, err
		}
		p, err := placeOf(1, msg.Header)
		if err != nil {
			return Event{}, false, err
		}
		heard, err := decode(one.types, p, msg.Subject, msg.Data)
		if err != nil {
			return Event{}, false, fmt.Errorf("%s: %w", e.Type, err)
		}
		return heard, true, nil
	}
}
