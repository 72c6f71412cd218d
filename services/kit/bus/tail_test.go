package bus

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

func TestTail(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	writeMany(t, log, 0, 40)
	fill(t, log, js)

	collect := func(opts TailOptions) (out []Delivery) {
		t.Helper()
		if err := Tail(ctx, js, opts, func(d Delivery) error { out = append(out, d); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := collect(TailOptions{Sequence: 1, Once: true})
	if len(all) != 40 || !strings.Contains(string(all[3].Data), `"specversion":"1.0"`) || all[3].Subject != "waymark.v1.RJ1.appointment.AppointmentBooked" {
		t.Fatalf("%d deliveries, %+v", len(all), all[3])
	}
	for _, c := range []struct {
		name string
		opts TailOptions
		want int
	}{
		{"category", TailOptions{Sequence: 1, Categories: []string{"appointment"}}, 10},
		{"categories", TailOptions{Sequence: 1, Categories: []string{"appointment", "carelead"}}, 40},
		{"trust", TailOptions{Sequence: 1, Tenant: "RJ1"}, 40},
		{"other trust", TailOptions{Sequence: 1, Tenant: "RJ2"}, 0},
		{"event", TailOptions{Sequence: 1, Event: "HandoverOffered"}, 30},
		{"from a sequence", TailOptions{Sequence: 31}, 10},
		{"since the beginning", TailOptions{Since: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}, 40},
		{"new", TailOptions{}, 0},
	} {
		c.opts.Once = true
		if got := len(collect(c.opts)); got != c.want {
			t.Errorf("%s: %d deliveries, want %d", c.name, got, c.want)
		}
	}

	stop := errors.New("enough")
	if err := Tail(ctx, js, TailOptions{Sequence: 1}, func(Delivery) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if !slices.IsSortedFunc(all, func(a, b Delivery) int { return int(a.Position) - int(b.Position) }) {
		t.Error("not in order")
	}
}

// TestTailGoesOn follows the stream through a restart of NATS and a rebuild.
func TestTailGoesOn(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, 20)
	background(t, NewRelay(log, n.connect(), RelayOptions{}).Run)
	relayed(t, log, js)
	var mu sync.Mutex
	var got []es.Position
	background(t, func(ctx context.Context) error {
		return Tail(ctx, js, TailOptions{Sequence: 1}, func(d Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, d.Position)
			return nil
		})
	})
	seen := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= n }
	}
	eventually(t, "20 seen", seen(20))
	n.stop()
	n.start()
	writeMany(t, log, 20, 40)
	eventually(t, "40 seen", seen(40))
	rebuild(t, log, js)
	writeMany(t, log, 40, 60)
	eventually(t, "60 seen", seen(60))
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, expected(t, log)) {
		t.Errorf("%d seen, not each once and in order", len(got))
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	ctx := context.Background()
	writeMany(t, log, 0, 20)
	r, err := Inspect(ctx, log, js, Mapping{})
	if err != nil || !r.Absent || r.Lag != 20 || !r.LagExact {
		t.Errorf("without a stream: %+v, %v", r, err)
	}
	fill(t, log, js)
	writeMany(t, log, 20, 25)
	var h hearing
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "plan", Categories: []string{"carelead", "appointment"}}, h.handle)
	})
	eventually(t, "the consumer reads", func() bool { return len(h.heard()) == 20 })
	r, err = Inspect(ctx, log, js, Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	want := expected(t, log)
	if r.Absent || r.Lag != 5 || r.Messages != 20 || r.Sequence != 20 || r.Relayed != want[19] || r.Head != want[24] || r.Created.IsZero() ||
		len(r.Consumers) != 1 || !strings.HasPrefix(r.Consumers[0].Name, "waymark-plan-") || len(r.Consumers[0].Filters) != 2 {
		t.Errorf("%+v", r)
	}
}
