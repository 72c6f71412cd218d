package bus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/bus"
)

// What to subscribe to, from everything to one event of one trust.
func ExampleSubject() {
	fmt.Println(bus.Subject("", "", ""))
	fmt.Println(bus.Subject("RJ1", "", ""))
	fmt.Println(bus.Subject("", "carelead", ""))
	fmt.Println(bus.Subject("RJ1", "carelead", "HandoverAccepted"))
	// Output:
	// waymark.v1.>
	// waymark.v1.RJ1.*.*
	// waymark.v1.*.carelead.*
	// waymark.v1.RJ1.carelead.HandoverAccepted
}

// A dashboard that counts the handovers of one trust since a moment, needs
// nothing of Waymark but the subject, and keeps no state on the server.
func Example_dashboard() {
	watch := func(ctx context.Context, js jetstream.JetStream, since time.Time) error {
		consumer, err := js.OrderedConsumer(ctx, "EVENTS", jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{"waymark.v1.RJ1.carelead.HandoverOffered", "waymark.v1.RJ1.carelead.HandoverAccepted"},
			DeliverPolicy:  jetstream.DeliverByStartTimePolicy,
			OptStartTime:   &since,
		})
		if err != nil {
			return err
		}
		seen := map[string]bool{} // by id: a rebuild of the stream shows events again
		_, err = consumer.Consume(func(m jetstream.Msg) {
			var event struct{ ID, Type, Subject, Time string }
			if json.Unmarshal(m.Data(), &event) == nil && !seen[event.ID] {
				seen[event.ID] = true
				fmt.Println(event.Time, event.Type, event.Subject)
			}
		})
		return err
	}
	_ = watch
}
