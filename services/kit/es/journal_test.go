package es_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// heard counts what a log's subscriptions hand on, and where they begin.
type heard struct {
	es.Log
	events int
	after  es.Position
}

func (h *heard) Subscribe(ctx context.Context, after es.Position, f es.Filter, handle func(es.Message) error) error {
	h.after = after
	return h.Log.Subscribe(ctx, after, f, func(m es.Message) error {
		if m.Event != nil {
			h.events++
		}
		return handle(m)
	})
}

// kept follows a log with a journal until it has caught up, and returns what was
// applied and how much of it came from the log.
func kept(t rapid.TB, log es.Log, dir string, change ...func(*es.Follower)) (applied []string, fromLog int) {
	h := &heard{Log: log}
	f := es.Follow(h, "test.behind", func(e es.Recorded) error {
		applied = append(applied, fmt.Sprintf("%+v", e))
		return nil
	}, "a", "b")
	f.Only("waymark.One", "waymark.many.")
	f.Keep(dir)
	for _, change := range change {
		change(f)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	if err := f.Wait(ctx, 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return applied, h.events
}

func expected(t rapid.TB, log es.Log, bare bool) (all []string) {
	err := log.ReadAll(context.Background(), 0, func(e es.Recorded) error {
		category, _, _ := strings.Cut(e.Stream, "-")
		if category != "a" && category != "b" {
			return nil
		}
		if bare {
			e.Data, e.Metadata = nil, nil
		}
		if e.Type == "waymark.One" || strings.HasPrefix(e.Type, "waymark.many.") {
			all = append(all, fmt.Sprintf("%+v", e))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFollowerKeeps starts followers again and again on one journal, while the log
// grows or is replaced and the file is torn, damaged or filled with something
// else: each applies what a follower without a journal would, all of it, once and
// in order.
func TestFollowerKeeps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "test.behind.journal")
		log, revisions := estest.NewLog(), map[string]es.Revision{}
		var how []func(*es.Follower)
		bare := rapid.Bool().Draw(t, "bare")
		if bare {
			how = append(how, (*es.Follower).Bare)
		}
		grow := func(t *rapid.T) {
			for range rapid.IntRange(1, 8).Draw(t, "events") {
				stream := rapid.SampledFrom([]string{"a-1", "a-2", "b-1", "other-1"}).Draw(t, "stream")
				at, begun := revisions[stream]
				if !begun {
					at = es.NoStream
				}
				e := es.NewEvent{ID: uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")), Type: rapid.SampledFrom([]string{"waymark.One", "waymark.OneMore", "waymark.many.A"}).Draw(t, "type"),
					Data: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data"), Metadata: []byte("{}")}
				done, err := log.Append(context.Background(), stream, at, []es.NewEvent{e})
				if err != nil {
					t.Fatal(err)
				}
				revisions[stream] = done.Revision
			}
		}
		clean := false // the last follower ended in order, and nothing changed since
		damage := func(change func(content []byte) []byte) func(*rapid.T) {
			return func(t *rapid.T) {
				content, err := os.ReadFile(file)
				if err != nil || len(content) == 0 {
					return
				}
				clean = false
				if err := os.WriteFile(file, change(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"grow": func(t *rapid.T) { clean = false; grow(t) },
			"replace": func(t *rapid.T) {
				clean, log, revisions = false, estest.NewLog(), map[string]es.Revision{}
				grow(t)
			},
			"tear": func(t *rapid.T) {
				damage(func(c []byte) []byte { return c[:rapid.IntRange(0, len(c)).Draw(t, "at")] })(t)
			},
			"spoil": func(t *rapid.T) {
				damage(func(c []byte) []byte { c[rapid.IntRange(0, len(c)-1).Draw(t, "at")] ^= 1; return c })(t)
			},
			"add": func(t *rapid.T) {
				damage(func(c []byte) []byte { return append(c, rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, "more")...) })(t)
			},
			"repeat": func(t *rapid.T) { // as two processes would, that both add
				damage(func(c []byte) []byte {
					head := slices.Index(c, '\n') + 1
					return append(c, c[min(head, len(c)):]...)
				})(t)
			},
			"follow": func(t *rapid.T) {
				want := expected(t, log, bare)
				got, fromLog := kept(t, log, dir, how...)
				if !slices.Equal(got, want) {
					t.Fatalf("applied\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if clean && fromLog > 0 {
					t.Fatalf("%d events came from the log again", fromLog)
				}
				clean = true
			},
		})
	})
}

// TestFollowerKeepsOfThisLog: a journal of another log is not believed. The control
// believes it, and takes in what this log does not hold.
func TestFollowerKeepsOfThisLog(t *testing.T) {
	t.Parallel()
	for _, planted := range []bool{false, true} {
		dir := t.TempDir()
		var log es.Log
		for _, size := range []int{2, 3} {
			log = estest.NewLog()
			for i := range size {
				if _, err := log.Append(t.Context(), "a-1", es.Revision(i)-1, []es.NewEvent{{ID: uuid.New(), Type: "waymark.One", Metadata: []byte("{}")}}); err != nil {
					t.Fatal(err)
				}
			}
			var how []func(*es.Follower)
			if planted {
				how = append(how, es.Unchecked)
			}
			got, _ := kept(t, log, dir, how...)
			if right := slices.Equal(got, expected(t, log, false)); right == (planted && size == 3) {
				t.Errorf("planted %v, a log of %d events: applied\n%s", planted, size, strings.Join(got, "\n"))
			}
		}
	}
}

// TestFollowerKeepsWhatItFollows: a journal of other categories or types is not used.
func TestFollowerKeepsWhatItFollows(t *testing.T) {
	t.Parallel()
	log, dir := estest.NewLog(), t.TempDir()
	for i, typ := range []string{"waymark.One", "waymark.Two"} {
		if _, err := log.Append(t.Context(), "a-1", es.Revision(i)-1, []es.NewEvent{{ID: uuid.New(), Type: typ, Metadata: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, types := range [][]string{{"waymark.One"}, {"waymark.One", "waymark.Two"}} {
		n := 0
		f := es.Follow(log, "test.behind", func(es.Recorded) error { n++; return nil }, "a")
		f.Only(types...)
		f.Keep(dir)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		if err := f.Wait(ctx, 0); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-ended
		if n != len(types) {
			t.Errorf("%v: %d events applied", types, n)
		}
	}
}

// TestFollowerPassesOver: one who finds nothing of its own does not look at the same
// events at each start; in another log it looks at all.
func TestFollowerPassesOver(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), estest.NewLog()
	size := 0 // of the log
	grow := func(n int, stream string) {
		t.Helper()
		for range n {
			if _, err := log.Append(t.Context(), fmt.Sprint(stream, "-", size), es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "waymark.One", Metadata: []byte("{}")}}); err != nil {
				t.Fatal(err)
			}
			size++
		}
	}
	start := func(what string, looks, applies int) {
		t.Helper()
		h := &heard{Log: log}
		applied, _ := kept(t, h, dir)
		n := 0
		if err := log.ReadAll(t.Context(), h.after, func(es.Recorded) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		if n != looks || len(applied) != applies {
			t.Errorf("%s: of %d events %d were looked at and %d applied; want %d and %d", what, size, n, len(applied), looks, applies)
		}
	}
	grow(100, "other")
	start("at first", 100, 0)
	start("again", 0, 0)
	grow(10, "other")
	start("grown", 10, 0)
	grow(1, "a")
	grow(20, "other")
	start("with one of its own", 21, 1)
	start("and again", 0, 1)
	log, size = estest.NewLog(), 0
	grow(1, "a")
	grow(200, "other")
	start("another log", 201, 1)
	start("the same log", 0, 1)
	log, size = estest.NewLog(), 0
	start("an empty log", 0, 0)
	grow(3, "a")
	start("that grew", 3, 3)
}

// TestFollowerWithoutItsFolder: where the journal cannot be kept, it is done without.
func TestFollowerWithoutItsFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := estest.NewLog()
	if _, err := log.Append(t.Context(), "a-1", es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "waymark.One", Metadata: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if applied, _ := kept(t, log, file); len(applied) != 1 {
		t.Errorf("%d events applied", len(applied))
	}
}
