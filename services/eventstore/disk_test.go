package eventstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A nearly full disk: appends are refused in time, reads go on, and appends do
// when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, guarded := range []bool{true, false} {
		var free atomic.Uint64
		free.Store(1 << 40)
		var seconds atomic.Int64 // each look at the clock is a second later, so the disk is looked at each time
		cfg := Config{FreeBytes: func() (uint64, error) { return free.Load(), nil }, MinFree: 1 << 20,
			Clock: func() time.Time { return time.Unix(seconds.Add(1), 0) }}
		if !guarded { // the control
			cfg.MinFree = 1
		}
		_, client := serveClient(t, cfg)
		add := func() codes.Code {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := client.AppendToStream(ctx, "stream", esdb.AppendToStreamOptions{},
				esdb.EventData{EventID: uuid.New(), EventType: "T", Data: []byte("x")})
			return grpcCode(err)
		}
		if code := add(); code != codes.OK {
			t.Fatalf("append with room: %v", code)
		}
		free.Store(1<<20 - 1)
		switch code := add(); {
		case guarded && code != codes.ResourceExhausted:
			t.Errorf("append without room: %v", code)
		case !guarded && code != codes.OK:
			t.Errorf("the control has a guard: %v", code)
		}
		stream, err := client.ReadStream(t.Context(), "stream", esdb.ReadStreamOptions{}, 10)
		if err == nil {
			_, err = stream.Recv()
			stream.Close()
		}
		if err != nil {
			t.Errorf("read without room: %v", err)
		}
		free.Store(1 << 40)
		if code := add(); code != codes.OK {
			t.Errorf("append with room again: %v", code)
		}
	}
}

// grpcCode finds the status in what the client has made of it.
func grpcCode(err error) codes.Code {
	for e := err; e != nil; {
		if s, ok := status.FromError(e); ok {
			return s.Code()
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return codes.Unknown
		}
		e = u.Unwrap()
	}
	return codes.OK
}

// An error at each of the first writes and syncs of the log, and then a power
// cut: what was acknowledged is there, and after a fatal error nothing is
// acknowledged any more. TestFailedDiskEndsProcess lets all kinds of files fail.
func TestDiskErrors(t *testing.T) {
	t.Parallel()
	got := diskErrors(t, 24, false)
	control := diskErrors(t, 24, true)
	report(t, got, control, 500)
}

func diskErrors(t *testing.T, ops int, noSync bool) tally {
	y := tally{name: "disk-errors"}
	for _, kind := range []string{"log sync", "log write"} {
		for at := 1; at <= ops; at++ {
			y.cycles++
			diskError(t, fmt.Sprintf("%s %d", kind, at), faultyOps[kind], int32(at), noSync, &y)
		}
	}
	return y
}

// faultyFS is errorfs with recycled files, which are logs, not left out. Their
// operations have no path.
type faultyFS struct {
	*errorfs.FS
	inject errorfs.Injector
}

func newFaultyFS(fs vfs.FS, inject errorfs.Injector) faultyFS {
	return faultyFS{errorfs.Wrap(fs, inject), inject}
}

func (f faultyFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, category)
	if err != nil {
		return nil, err
	}
	return errorfs.WrapFile(file, f.inject), nil
}

// faultyOps are the kinds of operation that tests let fail.
var faultyOps = map[string]func(errorfs.Op) bool{
	"log sync": func(op errorfs.Op) bool {
		return isLog(op) && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo)
	},
	"log write":   func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite },
	"table write": func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".sst") && isWrite(op) },
	"manifest":    func(op errorfs.Op) bool { return strings.Contains(op.Path, "MANIFEST") && isWrite(op) },
	"create":      func(op errorfs.Op) bool { return op.Kind == errorfs.OpCreate },
	"folder sync": func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileSync && !strings.Contains(op.Path, ".") },
}

func isLog(op errorfs.Op) bool   { return strings.HasSuffix(op.Path, ".log") || op.Path == "" }
func isWrite(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite }

func diskError(t *testing.T, name string, is func(errorfs.Op) bool, at int32, noSync bool, y *tally) {
	base := vfs.NewCrashableMem()
	var armed atomic.Bool
	var seen atomic.Int32
	faulty := newFaultyFS(base, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if armed.Load() && is(op) && seen.Add(1) == at {
			return errorfs.ErrInjected
		}
		return nil
	}))
	fatal := make(chan struct{})
	n, err := Open(Config{Dir: "d", FS: faulty, NoSync: noSync, FreeBytes: plenty, Fatal: func(string) { close(fatal) }})
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	l := newLedger(2)
	l.limit = 80
	stop := l.load(inProcess{n}, rand.New(rand.NewPCG(7, uint64(at))))
	l.until(l.limit, fatal)
	dead := false
	select {
	case <-fatal:
		dead = true
		before := l.acked.Load()
		stop()
		if after := l.acked.Load(); after > before+8 { // answers that were on their way
			t.Errorf("%s: %d events were acknowledged after a fatal error", name, after-before)
		}
	default:
		stop()
	}
	promised := l.promised()
	crashed := base.CrashClone(vfs.CrashCloneCfg{})
	// A node that met a fatal error is left as it is: a process would have ended.
	if !dead {
		_ = n.Close()
	}
	again, err := Open(Config{Dir: "d", FS: crashed, FreeBytes: plenty})
	if err != nil {
		t.Fatalf("%s: open on the sound disk: %v", name, err)
	}
	if err := l.check(inProcess{again}, promised, y); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if err := (inProcess{again}).consistent(); err != nil {
		y.torn++
		t.Errorf("%s: %v", name, err)
	}
	y.ops += int(l.ops.Load())
	y.acked += int(l.acked.Load())
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// One bit flipped anywhere in the tables, or in the log but for its last sync: it
// is found, or it does no harm. Never is a wrong event served, and never is one
// missing unnoticed.
func TestBitRot(t *testing.T) {
	t.Parallel()
	bitRot(t, 40)
}

func bitRot(t *testing.T, flips int) {
	fs := vfs.NewMem()
	n, err := Open(Config{Dir: "d", FS: fs, FreeBytes: plenty})
	if err != nil {
		t.Fatal(err)
	}
	write := func(from, to int) {
		for i := from; i < to; i++ {
			stream := fmt.Sprint("stream-", i%7)
			id := eventID{15: byte(i), 14: byte(i >> 8), 0: 1}
			if err := (inProcess{n}).append(t.Context(), stream, expectAny, []eventID{id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(0, 600)
	if err := n.store.db.Flush(); err != nil {
		t.Fatal(err)
	}
	write(600, 800) // these are in the log only
	want, err := contents(n)
	if err != nil {
		t.Fatal(err)
	}
	// What a crash leaves: the log is not empty.
	left := cloneFS(t, fs, "d", nil)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	fs = left

	rng := rand.New(rand.NewPCG(8, uint64(flips)))
	files := dataFiles(t, fs, "d")
	detected, harmless, wrong := 0, 0, 0
	for range flips {
		name := files[rng.IntN(len(files))]
		rotten := cloneFS(t, fs, "d", func(file string, b []byte) {
			if file == name {
				b[rng.IntN(provable(t, name, b))] ^= 1 << rng.IntN(8)
			}
		})
		switch got, err := reopened(rotten); {
		case err != nil:
			detected++
		case got == want:
			harmless++
		default:
			wrong++
			t.Errorf("a flipped bit in %s went unnoticed and changed what is served", name)
		}
	}
	// The control: an event is changed with checksums that fit.
	planted := cloneFS(t, fs, "d", nil)
	db, err := pebble.Open("d", &pebble.Options{FS: planted, FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{log: n.cfg.Logger}})
	if err != nil {
		t.Fatal(err)
	}
	v, closer, err := db.Get(positionKey(300))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(v)
	bad[len(bad)-1] ^= 1
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Set(positionKey(300), bad, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	control := "caught"
	if report, err := Fsck(t.Context(), FsckConfig{Dir: "d", FS: planted}); err != nil || report.OK() {
		control = "MISSED"
		t.Errorf("fsck did not see an event that was changed: %+v, %v", report, err)
	}
	fmt.Printf("bit-rot cycles=%d detected=%d harmless=%d wrong=%d control=%s\n", flips, detected, harmless, wrong, control)
}

// provable is how much of a file can be known to be damaged: all of a table, and
// of a log what was synced before its last chunk was written.
func provable(t *testing.T, name string, b []byte) int {
	number, ok := strings.CutSuffix(name, ".log")
	if !ok {
		return len(b)
	}
	log, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	most := uint64(0)
	for at := range b {
		if _, synced, whole := logChunk(b, at, uint32(log)); whole {
			most = max(most, synced)
		}
	}
	if most == 0 {
		t.Errorf("%s holds no chunk: has Pebble another format?", name)
		return len(b)
	}
	return int(most)
}

// reopened returns the contents of a store that a crash or decay has left, or
// what was found to be wrong with it.
func reopened(fs vfs.FS) (sum [32]byte, err error) {
	n, err := Open(Config{Dir: "d", FS: fs, FreeBytes: plenty, Fatal: func(string) {}})
	if err != nil {
		return sum, err
	}
	defer n.Close()
	return contents(n)
}

// contents is a hash of all that a store serves, in both orders. Ids and times
// of events that the node makes itself are left out.
func contents(n *Node) (sum [32]byte, err error) {
	h := sha256.New()
	streams := map[string]bool{}
	add := func(r record) bool {
		ev, decodeErr := decodeEvent(r)
		if decodeErr != nil {
			err = decodeErr
			return false
		}
		streams[string(r.stream())] = true
		fmt.Fprintf(h, "%d %d %q %q %v ", r.position(), r.revision(), r.stream(), r.typ(), r.json())
		if r.typ()[0] != '$' {
			fmt.Fprintf(h, "%x %v", r.id(), ev.GetId())
		}
		fmt.Fprintf(h, "%q %q\n", ev.GetCustomMetadata(), ev.GetData())
		return true
	}
	if scan := n.store.all(0, math.MaxUint64, false, add); scan != nil || err != nil {
		return sum, fmt.Errorf("all: %w", cmp.Or(scan, err))
	}
	names := make([]string, 0, len(streams))
	for name := range streams {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if scan := n.store.stream(name, 0, math.MaxInt64-1, false, add); scan != nil || err != nil {
			return sum, fmt.Errorf("%s: %w", name, cmp.Or(scan, err))
		}
		head, headErr := n.store.head(name, math.MaxUint64)
		if headErr != nil {
			return sum, headErr
		}
		_ = binary.Write(h, binary.BigEndian, []int64{head.last, head.first()})
	}
	return [32]byte(h.Sum(nil)), nil
}

// dataFiles lists the tables and the newest write-ahead log. Older logs wait to
// be used again.
func dataFiles(t *testing.T, fs vfs.FS, dir string) (files []string) {
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := ""
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".sst"):
			files = append(files, name)
		case strings.HasSuffix(name, ".log"):
			log = max(log, name)
		}
	}
	return append(files, log)
}

// cloneFS copies a flat folder to a new file system, each file through change.
func cloneFS(t *testing.T, from vfs.FS, dir string, change func(name string, b []byte)) *vfs.MemFS {
	to := vfs.NewMem()
	names, err := from.List(dir)
	if err == nil {
		err = to.MkdirAll(dir, 0o755)
	}
	for _, name := range names {
		if err != nil {
			break
		}
		var in, out vfs.File
		if in, err = from.Open(from.PathJoin(dir, name)); err != nil {
			break
		}
		var b []byte
		if b, err = io.ReadAll(in); err != nil {
			break
		}
		if change != nil {
			change(name, b)
		}
		if out, err = to.Create(to.PathJoin(dir, name), vfs.WriteCategoryUnspecified); err != nil {
			break
		}
		if _, err = out.Write(b); err == nil {
			err = cmp.Or(out.Close(), in.Close())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}
