package pathway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// tapped counts what a subscriber is given, and can be put in the place of
// another log while it is followed.
type tapped struct {
	es.Log
	mu     sync.Mutex
	events []es.Position
}

func (c *tapped) inner() es.Log {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Log
}

func (c *tapped) Head(ctx context.Context) (es.Position, error) { return c.inner().Head(ctx) }

func (c *tapped) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	return c.inner().Read(ctx, stream, from, yield)
}

func (c *tapped) Subscribe(ctx context.Context, after es.Position, f es.Filter, handle func(es.Message) error) error {
	return c.inner().Subscribe(ctx, after, f, func(m es.Message) error {
		if m.Event != nil {
			c.mu.Lock()
			c.events = append(c.events, m.Event.Position)
			c.mu.Unlock()
		}
		return handle(m)
	})
}

// opened is the model in a folder, followed as far as at, with what it logged
// and which events it was given.
func opened(t *testing.T, log es.Log, fs vfs.FS, at es.Position) (m *model, given []es.Position, told string) {
	t.Helper()
	var b bytes.Buffer
	c := &tapped{Log: log}
	m, err := openModel(c, slog.New(slog.NewTextHandler(&b, nil)), "m", fs)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.begin(t.Context()); err != nil { // so that until does not see where it stood before
		t.Fatal(err)
	}
	until(t, m, at)
	return m, c.events, b.String()
}

// TestRestartGoesOnFromTheCheckpoint: of what was taken in before, only the last
// is known again, and nothing is folded twice.
func TestRestartGoesOnFromTheCheckpoint(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 3, 5)
	fs := vfs.NewMem()
	m, given, told := opened(t, w, fs, head)
	if len(given) != len(w.Events()) || told != "" {
		t.Fatalf("given %d of %d events, told %q", len(given), len(w.Events()), told)
	}
	before := dump(t, m)
	m.close()

	behind := func(at es.Position) (n int) {
		for _, e := range w.Events() {
			if e.Position > at {
				n++
			}
		}
		return n
	}
	stands := m.last.position
	m, given, told = opened(t, w, fs, head)
	if len(given) != behind(stands) || told != "" || dump(t, m) != before {
		t.Errorf("a restart was given %d events, told %q", len(given), told)
	}
	m.close()
	id := uuid.NewString()
	w.record(t, "neighbourhood-x", time.Time{}, &careleadv1.ManagerChanged{})
	head = w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	m, given, _ = opened(t, w, fs, head)
	defer m.close()
	if len(given) != behind(stands) || len(given) > 4 {
		t.Errorf("after two more events a restart was given %d", len(given))
	}
	if dump(t, m) != rebuilt(t, w, head) {
		t.Error("the model differs from a fresh one")
	}
}

// TestReplacedLogIsFoldedAnew: whatever log stands in the place of the one that a
// model was made of, the model becomes that of the new log, and says so.
func TestReplacedLogIsFoldedAnew(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, old *world) (*world, es.Position){
		"another log, longer":  func(t *testing.T, _ *world) (*world, es.Position) { return someHistory(t, 99, 12) },
		"another log, shorter": func(t *testing.T, _ *world) (*world, es.Position) { return someHistory(t, 98, 1) },
		"an empty log":         func(t *testing.T, _ *world) (*world, es.Position) { return newWorld(), 0 },
		"a restored backup": func(t *testing.T, old *world) (*world, es.Position) {
			return restored(t, old, len(old.Events())/2, false)
		},
		"a restored backup that went on elsewhere": func(t *testing.T, old *world) (*world, es.Position) {
			return restored(t, old, len(old.Events())/2, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, head := someHistory(t, 5, 6)
			// Behind the last event that is taken in are some that are passed over, which a backup may lack.
			head = max(head, w.record(t, "pathway-"+uuid.NewString(), time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID}))
			fs := vfs.NewMem()
			m, _, _ := opened(t, w, fs, head)
			m.close()
			next, at := replace(t, w)
			m, _, told := opened(t, next, fs, at)
			defer m.close()
			if !strings.Contains(told, "log_replaced") {
				t.Errorf("told %q", told)
			}
			if got, want := contents(t, m), contentsOf(t, next, at); got != want {
				t.Errorf("the model has %d keys, the log makes %d, or others", strings.Count(got, "\n"), strings.Count(want, "\n"))
			}
		})
	}
}

// TestBackupThatLacksOnlyWhatIsPassedOver: the checkpoint stands, but what the
// log now has at the positions behind it is not skipped.
func TestBackupThatLacksOnlyWhatIsPassedOver(t *testing.T) {
	t.Parallel()
	w, _ := someHistory(t, 6, 3)
	w.record(t, "pathway-"+uuid.NewString(), time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	kept := len(w.Events())
	var head es.Position
	for range 5 {
		head = w.record(t, "neighbourhood-x", time.Time{}, &careleadv1.ManagerChanged{})
	}
	fs := vfs.NewMem()
	m, _, _ := opened(t, w, fs, head)
	m.close()
	next, at := restored(t, w, kept, true)
	m, _, told := opened(t, next, fs, at)
	defer m.close()
	if told != "" {
		t.Errorf("told %q", told)
	}
	if contents(t, m) != contentsOf(t, next, at) {
		t.Error("events at positions that the old log had given to others were skipped")
	}
}

// restored is a log with the first events of another, and with more of its own.
func restored(t *testing.T, old *world, keep int, more bool) (*world, es.Position) {
	t.Helper()
	w := newWorld()
	var at es.Position
	for _, e := range old.Events()[:keep] {
		w.advance(e.Recorded.Sub(w.clock()))
		got, err := w.Append(t.Context(), e.Stream, e.Revision-1, []es.NewEvent{{ID: e.ID, Type: e.Type, Data: e.Data, Metadata: e.Metadata}})
		if err != nil {
			t.Fatal(err)
		}
		if at = got.Position; at != e.Position {
			t.Fatalf("restored to position %d, not %d", at, e.Position)
		}
	}
	w.n = 10_000 // commands of its own
	for i := 0; more && i < 60; i++ {
		at = w.record(t, "pathway-"+uuid.NewSHA1(uuid.Nil, fmt.Append(nil, "more", i)).String(), time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	}
	return w, at
}

// contents are what a model holds, without how far it has read.
func contents(t testing.TB, m *model) string {
	var kept []string
	for _, line := range strings.Split(dump(t, m), "\n") {
		if !strings.HasPrefix(line, fmt.Sprintf("%x=", "m")) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

func contentsOf(t *testing.T, log es.Log, at es.Position) string {
	m, err := openModel(log, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	until(t, m, at)
	return contents(t, m)
}

// TestLogReplacedUnderARunningModel: the model notices, stops, and begins anew.
func TestLogReplacedUnderARunningModel(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 8, 4)
	c := &tapped{Log: w}
	m, err := openModel(c, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	now := func() time.Time { return monday }
	go func() { done <- m.follow(ctx, now) }()
	if err := m.wait(ctx, head); err != nil {
		t.Fatal(err)
	}
	next, at := someHistory(t, 9, 1)
	c.mu.Lock()
	c.Log = next
	c.mu.Unlock()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "ends before") || m.fault() == nil {
		t.Fatalf("follow ended with %v, fault %v", err, m.fault())
	}
	m.fail(nil)
	if err := m.begin(ctx); err != nil { // as the process starts it again
		t.Fatal(err)
	}
	until(t, m, at)
	if contents(t, m) != contentsOf(t, next, at) {
		t.Error("the model is not that of the new log")
	}
}

// TestDamagedModelIsMadeAgain: it is a cache, and no reason not to start.
func TestDamagedModelIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld()
	_, _, _ = w.handOver(t, pathwayID)
	dir := t.TempDir()
	serveOnce := func(t *testing.T) {
		t.Helper()
		deps := w.deps()
		deps.Dir = dir
		part, err := New(deps)
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, part)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		head, _ := w.Head(ctx)
		got, err := c.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "lead-1", MinPosition: uint64(head)})
		if err != nil || len(got.Rows) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
	}
	t.Run("first", serveOnce)
	manifests, err := filepath.Glob(filepath.Join(dir, "model-*", "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("%v, %v", manifests, err)
	}
	for _, name := range manifests {
		if err := os.WriteFile(name, []byte("no manifest at all"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("second", serveOnce)
}

// TestSpoiledModelIsMadeAgain: damage in a file ends nobody's process; at the next start
// the model is made again.
func TestSpoiledModelIsMadeAgain(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 5, 6)
	fs := vfs.NewMem()
	ms, err := openModels(w, discard, "m", fs, modelVersion)
	if err != nil {
		t.Fatal(err)
	}
	until(t, ms.newest, head)
	want := contents(t, ms.newest)
	if err := ms.close(); err != nil {
		t.Fatal(err)
	}
	folder := fs.PathJoin("m", fmt.Sprintf("model-%d", modelVersion))
	spoil(t, fs, folder, ".sst")
	for range 2 { // to open it may meet the damage, or leave it to who reads
		if ms, err = openModels(w, discard, "m", fs, modelVersion); err != nil {
			t.Fatal(err)
		}
		if ms.newest.at() > 0 {
			_, _ = ms.newest.each(func(counts) error { return nil })
		}
		_ = ms.close() // of what is damaged
	}
	if ms, err = openModels(w, discard, "m", fs, modelVersion); err != nil {
		t.Fatal(err)
	}
	defer ms.close()
	until(t, ms.newest, head)
	if contents(t, ms.newest) != want {
		t.Error("the model differs from what it was")
	}
}

// TestLiveModelIsMadeAgain: damage that a reader meets in the model that answers is
// mended without a restart. Until it is, nobody gets half a list.
func TestLiveModelIsMadeAgain(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 5, 6)
	want := contentsOf(t, w, head)
	fs := vfs.NewMem()
	gate := &shut{Log: w, open: make(chan struct{})}
	ms, err := openModels(gate, discard, "m", fs, modelVersion)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{log: w, clock: w.clock, wall: w.clock, slog: discard, models: ms}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var runs sync.WaitGroup
	end := sync.OnceValue(func() error { cancel(); runs.Wait(); return ms.close() })
	defer end()
	ended := make(chan error)
	runs.Go(func() {
		for ctx.Err() == nil { // as the process starts it again
			err := s.run(ctx)
			select {
			case ended <- err:
			case <-ctx.Done():
			}
		}
	})
	close(gate.open)
	first := ms.following()
	if err := first.wait(ctx, head); err != nil {
		t.Fatal(err)
	}
	if err := first.keep(); err != nil {
		t.Fatal(err)
	}
	gate.open = make(chan struct{}) // nothing is read again until this one opens
	names, _ := fs.List(ms.path())
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite(fs.PathJoin(ms.path(), name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		if _, err := f.WriteAt(make([]byte, info.Size()-100), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	all := func() error { _, err := s.each(ctx, 0, func(counts) error { return nil }); return err }
	if err := all(); !errors.Is(err, errDamaged) {
		t.Fatalf("damage was met, and a reader got %v", err)
	}
	if err := <-ended; !errors.Is(err, errDamaged) {
		t.Fatalf("the model went on: %v", err)
	}
	if _, err := s.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "lead-1"}); !errors.Is(err, errDamaged) {
		t.Errorf("half a list: %v", err)
	}
	if _, err := s.LookUpPathway(ctx, &pb.LookUpPathwayRequest{PathwayId: pathwayID}); !errors.Is(err, errDamaged) {
		t.Errorf("half a pathway: %v", err)
	}
	close(gate.open)
	m := ms.following()
	for moved := m.changed(); m.ready() != nil; moved = m.changed() {
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatal("it was never made again")
		}
	}
	if err := all(); err != nil || contents(t, ms.serving()) != want {
		t.Errorf("the model differs from what it was: %v", err)
	}
	_ = end() // of one that is damaged
	again, err := openModels(w, discard, "m", fs, modelVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if names, _ := fs.List("m"); len(names) != 1 || contents(t, again.newest) != want {
		t.Errorf("after a restart there are %v", names)
	}
}

// shut is a log that subscribers read once it is open.
type shut struct {
	es.Log
	open chan struct{}
}

func (g *shut) Subscribe(ctx context.Context, after es.Position, f es.Filter, handle func(es.Message) error) error {
	select {
	case <-g.open:
		return g.Log.Subscribe(ctx, after, f, handle)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spoil changes the content of the files of a folder that have this in their names.
func spoil(t *testing.T, fs vfs.FS, folder, kind string) {
	t.Helper()
	names, err := fs.List(folder)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, name := range names {
		if !strings.Contains(name, kind) {
			continue
		}
		path := fs.PathJoin(folder, name)
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		end := len(content)
		if kind == ".sst" {
			end -= 100 // all but the footer, by which it is a table
		}
		for i := range content[:end] {
			content[i] ^= 1
		}
		if f, err = fs.Create(path, vfs.WriteCategoryUnspecified); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if end > 0 {
			files++
		}
	}
	if files == 0 {
		t.Fatal("nothing was spoiled")
	}
}
