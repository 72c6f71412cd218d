package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// expected returns the positions that belong on the bus.
func expected(t testing.TB, log *estest.Log) []es.Position {
	t.Helper()
	m := newMapper(Mapping{})
	var out []es.Position
	for _, e := range log.Events() {
		if m.relays(&e) {
			out = append(out, e.Position)
		}
	}
	return out
}

// stored reads the stream as it is.
func stored(t testing.TB, js jetstream.JetStream) []es.Position {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, StreamName)
	if err != nil {
		t.Fatal(err)
	}
	last := s.CachedInfo().State.LastSeq
	if last == 0 {
		return nil
	}
	r, err := open(ctx, js, "test", nil, from{sequence: 1}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var out []es.Position
	for {
		m, seq, err := r.next(ctx, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		p, err := placeOf(seq, m.Headers())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.position)
		if seq == last {
			return out
		}
	}
}

// faultsIn compares what was delivered with what should have been.
func faultsIn(want, got []es.Position) (lost, doubled, reordered int) {
	count := map[es.Position]int{}
	for i, p := range got {
		count[p]++
		if i > 0 && p < got[i-1] {
			reordered++
		}
	}
	for _, p := range want {
		if count[p] == 0 {
			lost++
		}
		doubled += max(count[p]-1, 0)
	}
	return lost, doubled, reordered
}

// eventually waits until ok, asking again each time something may have changed.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// background runs f until the test or the returned stop ends it.
func background(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended by itself: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestRelayAndConsume(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, 100)
	relay := NewRelay(log, js, RelayOptions{})
	background(t, relay.Run)

	var mu sync.Mutex
	var all, some []es.Position
	hear := func(into *[]es.Position) func(context.Context, Event) error {
		return func(_ context.Context, e Event) error {
			mu.Lock()
			defer mu.Unlock()
			*into = append(*into, e.Position)
			return nil
		}
	}
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "all", Checkpoint: LogCheckpoint(log, "all")}, hear(&all))
	})
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "some", Categories: []string{"appointment"}}, hear(&some))
	})
	writeMany(t, log, 100, 120)
	eventually(t, "everything heard", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(all) >= 120 && len(some) >= 30
	})
	mu.Lock()
	defer mu.Unlock()
	want := expected(t, log)
	if lost, doubled, reordered := faultsIn(want, all); lost+doubled+reordered != 0 || len(all) != 120 || len(some) != 30 {
		t.Errorf("%d and %d heard, %d lost, %d doubled, %d reordered", len(all), len(some), lost, doubled, reordered)
	}
	if s := relay.Status(); s.Position != want[len(want)-1] || s.Published != 120 {
		t.Errorf("status %+v", s)
	}
}

// race runs three relays over one log while it is written, kills and restarts
// them at random, and returns what the stream holds in the end.
func race(t *testing.T, events int, unsafe bool) (want, got []es.Position, kills int, conflicts uint64) {
	n, log := startNATS(t), estest.NewLog()
	rng := rand.New(rand.NewPCG(7, uint64(events)))
	var relays []*Relay
	start := func() func() {
		r := NewRelay(log, n.connect(), RelayOptions{})
		r.unsafe = unsafe
		relays = append(relays, r)
		return background(t, r.Run)
	}
	stops := []func(){start(), start(), start()}
	js := n.connect()
	for i := 0; i < events; i += 100 {
		writeMany(t, log, i, min(i+100, events))
		if unsafe {
			continue
		}
		k := rng.IntN(3)
		if rng.IntN(3) > 0 {
			stops[k]()
			stops[k] = start()
			kills++
		}
	}
	want = expected(t, log)
	last := want[len(want)-1]
	eventually(t, "the stream reaches the end of the log", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, StreamName)
		if err != nil {
			return false
		}
		tail, err := readTail(ctx, s)
		return err == nil && tail.position == last
	})
	for _, stop := range stops {
		stop()
	}
	for _, r := range relays {
		conflicts += r.Status().Conflicts
	}
	return want, stored(t, js), kills, conflicts
}

func TestThreeRelays(t *testing.T) {
	t.Parallel()
	const events = 3000
	want, got, kills, conflicts := race(t, events, false)
	lost, doubled, reordered := faultsIn(want, got)
	t.Logf("relays=3 events=%d stored=%d kills=%d fenced=%d lost=%d doubled=%d reordered=%d", len(want), len(got), kills, conflicts, lost, doubled, reordered)
	if len(want) != events || len(got) != events || lost+doubled+reordered != 0 {
		t.Error("the fence did not hold")
	}
	if kills < 5 || conflicts == 0 {
		t.Errorf("nothing was tried: %d kills, %d conflicts", kills, conflicts)
	}
}
