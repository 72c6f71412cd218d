package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
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
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
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

// relayed waits until the stream ends where the log ends.
func relayed(t testing.TB, log *estest.Log, js jetstream.JetStream) {
	t.Helper()
	want := expected(t, log)
	eventually(t, "the stream reaches the end of the log", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s, err := js.Stream(ctx, StreamName)
		if err != nil {
			return false
		}
		tail, err := readTail(ctx, s)
		return err == nil && tail.position == want[len(want)-1]
	})
}

func TestThreeRelays(t *testing.T) {
	t.Parallel()
	const events = 3000 * scale
	n, log := startNATS(t), estest.NewLog()
	rng := rand.New(rand.NewPCG(7, events))
	var relays []*Relay
	start := func() func() {
		r := NewRelay(log, n.connect(), RelayOptions{})
		relays = append(relays, r)
		return background(t, r.Run)
	}
	stops := []func(){start(), start(), start()}
	js := n.connect()
	kills := 0
	for i := 0; i < events; i += 50 {
		writeMany(t, log, i, i+50)
		if k := rng.IntN(6); k < 3 {
			stops[k]()
			stops[k] = start()
			kills++
		}
	}
	relayed(t, log, js)
	var conflicts uint64
	for _, r := range relays {
		conflicts += r.Status().Conflicts
	}
	want, got := expected(t, log), stored(t, js)
	lost, doubled, reordered := faultsIn(want, got)
	t.Logf("three relays: events=%d stored=%d kills=%d fenced=%d lost=%d doubled=%d reordered=%d", len(want), len(got), kills, conflicts, lost, doubled, reordered)
	if len(want) != events || len(got) != events || lost+doubled+reordered != 0 {
		t.Error("the fence did not hold")
	}
	if kills < 15 { // that the fence is met at all, TestZombies makes sure of
		t.Errorf("too little was tried: %d kills", kills)
	}
	if r := scrub(t, log, js); r.Damaged() || r.Verified != events {
		t.Errorf("scrub: %+v", r)
	}
}

// TestZombies pauses two relays in the middle of a publish until a third has
// done the work and the server has forgotten the message ids. Behind the fence
// nothing happens; relays that trust message ids double everything they held.
func TestZombies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		unsafe bool
	}{{"fenced", false}, {"control trusting message ids", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const events = 200
			n, log := startNATS(t), estest.NewLog()
			js := n.connect()
			ctx := context.Background()
			cfg := streamConfig()
			cfg.Duplicates = 100 * time.Millisecond // stands for a pause longer than two minutes
			if _, err := js.CreateStream(ctx, cfg); err != nil {
				t.Fatal(err)
			}
			writeMany(t, log, 0, events)

			paused, wake := make(chan struct{}, 2), make(chan struct{})
			var zombies []*Relay
			for range 2 {
				z := NewRelay(log, n.connect(), RelayOptions{})
				z.unsafe = c.unsafe
				var once sync.Once
				z.publish = func(p *publisher) publishMessages {
					return func(ctx context.Context, last uint64, msgs []*nats.Msg) error {
						once.Do(func() { paused <- struct{}{}; <-wake })
						return p.publish(ctx, last, msgs)
					}
				}
				zombies = append(zombies, z)
				background(t, z.Run)
			}
			<-paused
			<-paused
			healthy := NewRelay(log, js, RelayOptions{})
			healthy.unsafe = c.unsafe
			if err := healthy.run(ctx, true); err != nil {
				t.Fatal(err)
			}
			want := expected(t, log)
			if c.unsafe {
				eventually(t, "the server forgets message ids", func() bool {
					// The last event again, until it is taken for a new one: one doubled.
					last := fmt.Sprint(want[events-1])
					ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: Subject("X", "y", "Z"), Header: nats.Header{
						nats.MsgIdHdr: {last}, HeaderPosition: {last}, HeaderPrevious: {"0"}}})
					return err == nil && !ack.Duplicate
				})
			}
			close(wake)
			eventually(t, "the zombies are through", func() bool {
				for _, z := range zombies {
					if s := z.Status(); s.Conflicts == 0 && s.Published < events {
						return false
					}
				}
				return true
			})
			lost, doubled, reordered := faultsIn(want, stored(t, js))
			t.Logf("zombies, %s: events=%d fenced=%d lost=%d doubled=%d reordered=%d", c.name, events, zombies[0].Status().Conflicts+zombies[1].Status().Conflicts, lost, doubled, reordered)
			if lost > 0 || !c.unsafe && doubled+reordered > 0 || c.unsafe && (doubled < events-1 || reordered == 0) {
				t.Errorf("doubled %d, reordered %d", doubled, reordered)
			}
		})
	}
}

// TestRelayFaults relays while NATS is stopped and started, while publishes are
// stored but reported as failed or not sent at all, and while the log is away.
func TestRelayFaults(t *testing.T) {
	t.Parallel()
	const events = 2000 * scale
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	relay := NewRelay(log, n.connect(), RelayOptions{PublishTimeout: time.Second})
	rng := rand.New(rand.NewPCG(3, 3)) // used by the relay's goroutine only
	var hidden, dropped atomic.Int64
	relay.publish = func(p *publisher) publishMessages {
		return func(ctx context.Context, last uint64, msgs []*nats.Msg) error {
			switch k := rng.IntN(20); {
			case k < 3:
				if p.publish(ctx, last, msgs) == nil {
					hidden.Add(1)
				}
				return context.DeadlineExceeded
			case k < 4:
				dropped.Add(1)
				return context.DeadlineExceeded
			}
			return p.publish(ctx, last, msgs)
		}
	}
	background(t, relay.Run)

	var mu sync.Mutex
	var heard []es.Position
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "all"}, func(_ context.Context, e Event) error {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, e.Position)
			return nil
		})
	})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(heard) }
	const restarts = 4
	for i := range restarts {
		for k := range events / restarts / 20 {
			first := i*events/restarts + k*20
			eventually(t, "most of it is heard", func() bool { return count() >= first-40 })
			writeMany(t, log, first, first+20)
		}
		n.stop()
		log.SetFaults(estest.Faults{Down: i%2 == 1})
		n.start()
		log.SetFaults(estest.Faults{})
	}
	eventually(t, "everything is heard", func() bool { return count() >= events })
	relayed(t, log, js)
	want := expected(t, log)
	lost, doubled, reordered := faultsIn(want, stored(t, js))
	mu.Lock()
	lostHeard, doubledHeard, reorderedHeard := faultsIn(want, heard)
	mu.Unlock()
	t.Logf("relay faults: events=%d restarts=%d stored_but_failed=%d dropped=%d sessions=%d lost=%d doubled=%d reordered=%d; consumer: lost=%d doubled=%d reordered=%d",
		len(want), restarts, hidden.Load(), dropped.Load(), relay.Status().Sessions, lost, doubled, reordered, lostHeard, doubledHeard, reorderedHeard)
	if lost+doubled+reordered+lostHeard+doubledHeard+reorderedHeard != 0 {
		t.Error("not every event once and in order")
	}
	if hidden.Load() == 0 || hidden.Load()+dropped.Load() < 5 {
		t.Error("too little was tried")
	}
}

// TestRelayRefuses looks at streams that are not a copy of the log.
func TestRelayRefuses(t *testing.T) {
	t.Parallel()
	n, log, other := startNATS(t), estest.NewLog(), estest.NewLog()
	js := n.connect()
	writeMany(t, other, 0, 20)
	writeMany(t, log, 0, 10)
	fill(t, other, js)
	relay := NewRelay(log, js, RelayOptions{})
	stop := background(t, relay.Run)
	eventually(t, "the relay says why it waits", func() bool {
		return strings.Contains(relay.Status().LastError, "not an event of this log")
	})
	stop()
	if got := len(stored(t, js)); got != 20 {
		t.Errorf("%d messages, 20 before", got)
	}
	if r := scrub(t, log, js); !r.Damaged() || r.Altered != 10 || r.Unknown != 10 {
		t.Errorf("scrub: %+v", r)
	}
	rebuild(t, log, js)
	if r := scrub(t, log, js); r.Damaged() || r.Verified != 10 {
		t.Errorf("scrub: %+v", r)
	}

	t.Run("an event type from the future", func(t *testing.T) {
		log.Append(context.Background(), "referral-1", es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "waymark.referral.v9.NotYetInvented"}})
		relay := NewRelay(log, js, RelayOptions{})
		background(t, relay.Run)
		eventually(t, "the relay waits for a newer one", func() bool {
			return strings.Contains(relay.Status().LastError, "not known to this build")
		})
	})
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	js := startNATS(t).connect()
	ctx := context.Background()
	cfg := streamConfig()
	cfg.MaxAge, cfg.AllowDirect, cfg.AllowAtomicPublish = time.Hour, true, false
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	s, err := Ensure(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config; got.MaxAge != 0 || got.AllowDirect || !got.AllowAtomicPublish {
		t.Errorf("not corrected: %+v", got)
	}
	if err := s.Purge(ctx); err == nil {
		t.Error("a purge was allowed")
	}
	if err := js.DeleteStream(ctx, StreamName); err != nil {
		t.Fatal(err)
	}
	cfg.Storage = jetstream.MemoryStorage
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	var unsafe *UnsafeStream
	if _, err := Ensure(ctx, js); !errors.As(err, &unsafe) {
		t.Errorf("memory storage: %v", err)
	}
}

// TestBatchRefusals makes sure that the server refuses what the relay relies on.
func TestBatchRefusals(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, 40)
	fill(t, log, js)
	p, err := newPublisher(js.Conn(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	m := newMapper(Mapping{})
	var msgs []*nats.Msg
	for _, e := range log.Events()[:20] {
		if m.relays(&e) {
			msg, err := m.message(&e, 0)
			if err != nil {
				t.Fatal(err)
			}
			msgs = append(msgs, msg)
		}
	}
	ctx := context.Background()
	for _, wrong := range []uint64{0, 39, 41} {
		for _, n := range []int{1, len(msgs)} {
			if err := p.publish(ctx, wrong, msgs[:n]); !errors.Is(err, errFenced) {
				t.Errorf("%d messages expecting %d: %v", n, wrong, err)
			}
		}
	}
	s, err := Ensure(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.AllowAtomicPublish = false
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	var refusal *ServerRefusal
	if err := p.publish(ctx, 40, msgs); !errors.As(err, &refusal) || !refusal.fatal() {
		t.Errorf("a batch where batches are off: %v", err)
	}
	if got := len(stored(t, js)); got != 40 {
		t.Errorf("%d messages stored, 40 before", got)
	}
}
