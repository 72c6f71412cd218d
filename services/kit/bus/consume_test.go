package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// hearing is what a consumer of a test has heard.
type hearing struct {
	mu        sync.Mutex
	positions []es.Position // under mu
	health    ConsumeHealth // under mu
	stuck     int           // health calls with an error; under mu
}

func (h *hearing) handle(_ context.Context, e Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.positions = append(h.positions, e.Position)
	return nil
}

func (h *hearing) hear(health ConsumeHealth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.health = health
	if health.Err != nil {
		h.stuck++
	}
}

func (h *hearing) heard() []es.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.positions)
}

func (h *hearing) state() (ConsumeHealth, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.health, h.stuck
}

// of keeps the positions of one category.
func of(log *estest.Log, category string) []es.Position {
	var out []es.Position
	for _, e := range log.Events() {
		if c, _ := splitStream(e.Stream); c == category {
			out = append(out, e.Position)
		}
	}
	return out
}

// TestRebuildUnderConsumers rebuilds the stream, with the same mapping and with
// another, under live relays, writers and consumers.
func TestRebuildUnderConsumers(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	stopRelay := background(t, NewRelay(log, n.connect(), RelayOptions{}).Run)
	var all, some hearing
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "all", Checkpoint: LogCheckpoint(log, "all")}, all.handle)
	})
	background(t, func(ctx context.Context) error {
		return Consume(ctx, n.connect(), ConsumeOptions{Name: "some", Categories: []string{"appointment"}}, some.handle)
	})
	const events = 1000
	written := make(chan struct{})
	halfway := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; i < events; i += 10 {
			writeMany(t, log, i, i+10)
			if i == events/2 {
				close(halfway)
			}
		}
	}()
	<-halfway
	rebuild(t, log, js)
	rebuild(t, log, js)
	<-written
	enough := func() bool { return len(all.heard()) >= events && len(some.heard()) >= events/4 }
	eventually(t, "everything heard", enough)
	rebuild(t, log, js)
	writeMany(t, log, events, events+40)
	relayed(t, log, js)
	eventually(t, "everything heard", func() bool { return len(all.heard()) >= events+40 })

	report := func(what string, want, got []es.Position) {
		lost, doubled, reordered := faultsIn(want, got)
		t.Logf("rebuild, %s: events=%d heard=%d lost=%d doubled=%d reordered=%d", what, len(want), len(got), lost, doubled, reordered)
		if lost+doubled+reordered != 0 || len(got) != len(want) {
			t.Error("a rebuild was noticed")
		}
	}
	report("whole stream", expected(t, log), all.heard())
	eventually(t, "everything heard", func() bool { return len(some.heard()) >= len(of(log, "appointment")) })
	report("one category", of(log, "appointment"), some.heard())

	// Another mapping has other sequences: 260 messages instead of 1040.
	stopRelay()
	mapping := Mapping{Exclude: append(DefaultExclude(), "carelead")}
	ctx := context.Background()
	if err := Rebuild(ctx, log, js, mapping, nil); err != nil {
		t.Fatal(err)
	}
	old := NewRelay(log, js, RelayOptions{})
	background(t, old.Run)
	eventually(t, "a relay with the old mapping keeps away", func() bool {
		s := old.Status()
		return strings.Contains(s.LastError, "was filled with mapping") && s.Published == 0
	})
	background(t, NewRelay(log, js, RelayOptions{Mapping: mapping}).Run)
	writeMany(t, log, events+40, events+80)
	eventually(t, "everything heard", func() bool { return len(some.heard()) >= len(of(log, "appointment")) })
	report("one category, other sequences", of(log, "appointment"), some.heard())
	if got := len(all.heard()); got < events+40 || got > events+50 {
		t.Errorf("%d heard of the whole stream", got)
	}
}

// TestConsumerCrash crashes a consumer between its steps many times. Its effects
// are a set of positions, as an idempotent handler's are.
func TestConsumerCrash(t *testing.T) {
	t.Parallel()
	const events = 400
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, events)
	fill(t, log, js)
	for _, c := range []struct {
		name    string
		planted bool
	}{{"mark after effect", false}, {"control mark before effect", true}} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			crash := errors.New("crash")
			effects := map[es.Position]int{}
			store := &memoryCheckpoint{}
			want := expected(t, log)
			crashes := 0
			for store.mark.Position < want[events-1] {
				if crashes > 20*events {
					t.Fatal("no progress")
				}
				ctx, cancel := context.WithCancelCause(context.Background())
				alive := true // used by the consumer's goroutine only
				die := func() error {
					alive = false
					crashes++
					cancel(crash)
					return crash
				}
				checkpoint := lifeOf{store, &alive}
				err := Consume(ctx, js, ConsumeOptions{Name: "crash", Checkpoint: checkpoint, SaveEvery: 7}, func(ctx context.Context, e Event) error {
					if c.planted {
						_ = checkpoint.Save(ctx, Mark{Position: e.Position})
					}
					if rng.IntN(20) == 0 {
						return die()
					}
					effects[e.Position]++
					if rng.IntN(20) == 0 {
						return die()
					}
					if e.Position == want[events-1] {
						cancel(nil)
					}
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
			lost, again := 0, 0
			for _, p := range want {
				switch effects[p] {
				case 0:
					lost++
				case 1:
				default:
					again++
				}
			}
			t.Logf("consumer crash, %s: events=%d crashes=%d lost=%d delivered_again=%d", c.name, events, crashes, lost, again)
			if c.planted != (lost > 0) || crashes < 10 {
				t.Errorf("lost %d with %d crashes", lost, crashes)
			}
		})
	}
}

// memoryCheckpoint survives the crashes of a test.
type memoryCheckpoint struct{ mark Mark }

// lifeOf is a checkpoint of one life: after a crash it saves nothing.
type lifeOf struct {
	*memoryCheckpoint
	alive *bool
}

func (c lifeOf) Load(context.Context) (Mark, error) { return c.mark, nil }

func (c lifeOf) Save(_ context.Context, m Mark) error {
	if *c.alive {
		c.mark = m
	}
	return nil
}

// TestConsumeInOrder looks at an event that cannot be handled for a while.
func TestConsumeInOrder(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, 30)
	fill(t, log, js)
	bad := expected(t, log)[10]
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	var h hearing
	attempts := 0
	background(t, func(ctx context.Context) error {
		return Consume(ctx, js, ConsumeOptions{Name: "order", Health: h.hear, Clock: func() time.Time { return at }, Backoff: time.Millisecond},
			func(ctx context.Context, e Event) error {
				if e.Position == bad {
					if attempts++; attempts < 5 {
						return errors.New("not now")
					}
				}
				return h.handle(ctx, e)
			})
	})
	eventually(t, "all heard", func() bool { return len(h.heard()) == 30 })
	if !slices.Equal(h.heard(), expected(t, log)) {
		t.Error("not in order")
	}
	eventually(t, "health is good again", func() bool { health, stuck := h.state(); return health.Err == nil && stuck == 4 })
}

// TestConsumeGap takes a message out of the stream by damaging the disk. Without
// categories the chain shows the hole, with them the revisions do.
func TestConsumeGap(t *testing.T) {
	t.Parallel()
	const events = 300
	n, log := startNATS(t), estest.NewLog()
	for i := range events {
		write(t, log, "carelead-1", es.Revision(i), &careleadv1.HandoverOffered{HandoverId: "h"})
	}
	fill(t, log, n.connect())
	n.stop()
	flipBit(t, n.dir)
	n.start()
	js := n.connect()
	var heard [2]hearing
	for i, categories := range [][]string{nil, {"carelead"}} {
		background(t, func(ctx context.Context) error {
			return Consume(ctx, js, ConsumeOptions{Name: "gap", Categories: categories, Health: heard[i].hear, Backoff: 10 * time.Millisecond}, heard[i].handle)
		})
	}
	var before [2]int
	for i := range heard {
		eventually(t, "the gap is noticed", func() bool {
			health, _ := heard[i].state()
			var gap *Gap
			return errors.As(health.Err, &gap)
		})
		before[i] = len(heard[i].heard())
	}
	rebuild(t, log, js)
	for i := range heard {
		eventually(t, "all heard after the rebuild", func() bool { return len(heard[i].heard()) == events })
		if !slices.Equal(heard[i].heard(), expected(t, log)) || before[i] >= events {
			t.Error("not whole, or not in order")
		}
	}
	t.Logf("events=%d, stopped at the hole after %d and %d, all heard after the rebuild", events, before[0], before[1])
}

// TestFind looks where consumers go on whose marks are of other times.
func TestFind(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	js := n.connect()
	writeMany(t, log, 0, 100)
	fill(t, log, js)
	ctx := context.Background()
	s, err := Ensure(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	gen := generation(s.CachedInfo())
	want := expected(t, log)
	for _, c := range []struct {
		name string
		mark Mark
		next uint64
	}{
		{"none", Mark{}, 1},
		{"exact", Mark{gen, 40, want[39]}, 41},
		{"other generation, other sequence", Mark{gen.Add(-time.Hour), 7, want[39]}, 41},
		{"same generation, wrong sequence", Mark{gen, 12, want[39]}, 41},
		{"sequence beyond the end", Mark{gen, 4000, want[39]}, 41},
		{"between two events", Mark{gen.Add(-1), 1, want[39] + 1}, 41},
		{"at the end", Mark{gen.Add(-1), 1, want[99]}, 101},
		{"beyond the end: the stream is being filled", Mark{gen.Add(-1), 1, want[99] + 1000}, 101},
	} {
		consumer := &consumer{js: js, mark: c.mark}
		if got, err := consumer.find(ctx, s); err != nil || got != c.next {
			t.Errorf("%s: sequence %d, %v; want %d", c.name, got, err, c.next)
		}
	}
}

// TestLogCheckpoint lets two instances share a checkpoint.
func TestLogCheckpoint(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	ctx := context.Background()
	a, b := LogCheckpoint(log, "x"), LogCheckpoint(log, "x")
	gen := time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC)
	for _, step := range []struct {
		who  Checkpoint
		mark Mark
		want es.Position
	}{
		{a, Mark{gen, 5, 50}, 50},
		{b, Mark{gen, 3, 30}, 50}, // behind: dropped
		{b, Mark{gen, 7, 70}, 70},
		{a, Mark{gen, 8, 80}, 80},
	} {
		if err := step.who.Save(ctx, step.mark); err != nil {
			t.Fatal(err)
		}
		got, err := LogCheckpoint(log, "x").Load(ctx)
		if err != nil || got.Position != step.want || !got.Generation.Equal(gen) {
			t.Errorf("%+v, %v after %+v", got, err, step.mark)
		}
	}
	for i := range 20 {
		if err := a.Save(ctx, Mark{gen, 9, es.Position(90 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	_ = log.Read(ctx, "checkpoint-x", 0, func(es.Recorded) error { seen++; return nil })
	if seen > 4 {
		t.Errorf("%d marks are visible", seen)
	}
	m, err := LogCheckpoint(estest.NewLog(), "y").Load(ctx)
	if m != (Mark{}) || err != nil {
		t.Errorf("an empty checkpoint: %+v, %v", m, err)
	}
}
