package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// populated makes a store in memory with a few streams of every kind, flushed
// into tables, and returns it closed.
func populated(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	w := serve(t, Config{FS: fs})
	for i := range 40 {
		w.append(fmt.Sprint("s-", i%4), expectAny, fmt.Sprint("e", i))
	}
	w.setMetadata("s-1", `{"$maxCount":1}`)
	w.delete("s-2", expectAny)
	w.tombstone("s-3", expectAny)
	if err := errors.Join(w.node.store.db.Flush(), w.node.Close()); err != nil {
		t.Fatal(err)
	}
	return fs
}

// tamper changes a closed store behind the node's back.
func tamper(t *testing.T, fs vfs.FS, change func(*pebble.DB) error) {
	t.Helper()
	db, err := pebble.Open("store", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{nil, func(s string) { t.Error(s) }}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFsckIsEnded: at the next record, wherever it is, and not as a fault.
func TestFsckIsEnded(t *testing.T) {
	t.Parallel()
	fs := populated(t)
	for _, inLog := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		each := func(CheckedEvent) error {
			if n++; n == 3 {
				cancel()
			}
			return nil
		}
		cfg := FsckConfig{Dir: "store", FS: fs, Each: each}
		if inLog {
			cfg.Log, cfg.Each = each, nil
		}
		if r, err := Fsck(ctx, cfg); !errors.Is(err, context.Canceled) || r.Faults != 0 || n != 3 {
			t.Errorf("in the log %v: ended with %v after %d events, %d faults", inLog, err, n, r.Faults)
		}
	}
}

func TestFsck(t *testing.T) {
	t.Parallel()
	var events []string
	r, err := Fsck(t.Context(), FsckConfig{Dir: "store", FS: populated(t), Each: func(e CheckedEvent) error {
		events = append(events, fmt.Sprintf("%s/%d", e.Stream, e.Revision))
		if strings.HasPrefix(e.Stream, "s-0") && e.ID != testID(string(e.Data)) {
			return errors.New("another event")
		}
		return nil
	}})
	if err != nil || !r.OK() || r.Events != 44 || r.Streams != 7 || r.LastPosition != 44 || len(events) != 44 {
		t.Errorf("%+v %v, %d events handed on", r, err, len(events))
	}
	r, err = Fsck(t.Context(), FsckConfig{Dir: "store", FS: populated(t), Each: func(e CheckedEvent) error {
		if e.Stream == "s-1" && e.Revision == 3 {
			return errors.New("chain is broken")
		}
		return nil
	}})
	if err != nil || fmt.Sprint(r.First) != `[stream "s-1" revision 3: chain is broken]` {
		t.Errorf("the caller's own fault: %+v %v", r, err)
	}
	var last uint64
	r, err = Fsck(t.Context(), FsckConfig{Dir: "store", FS: populated(t), Log: func(e CheckedEvent) error {
		if last++; e.Position != last {
			t.Errorf("position %d is handed on as the %dth", e.Position, last)
		}
		if e.Position == 7 {
			return errors.New("breaks a rule")
		}
		return nil
	}})
	if err != nil || last != 44 || r.Faults != 1 || !strings.Contains(fmt.Sprint(r.First), "breaks a rule") {
		t.Errorf("in the order of the log: %+v %v, %d events", r, err, last)
	}
	if _, err := Fsck(t.Context(), FsckConfig{Dir: "none", FS: vfs.NewMem()}); err == nil {
		t.Error("no store is no fault")
	}
}

// TestFsckFinds plants one fault each.
func TestFsckFinds(t *testing.T) {
	t.Parallel()
	get := func(db *pebble.DB, key []byte) []byte {
		v, closer, err := db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		defer closer.Close()
		return append([]byte(nil), v...)
	}
	cases := []struct {
		name, want string
		change     func(*pebble.DB) error
	}{
		{"lost in log order", "position 6: follows position 4", func(db *pebble.DB) error {
			return db.Delete(positionKey(5), pebble.Sync)
		}},
		{"lost in stream order", `stream "s-1" revision 4: follows revision 2`, func(db *pebble.DB) error {
			return db.Delete(streamKey("s-1", 3), pebble.Sync)
		}},
		{"last of a stream lost", `position 39: stream order has another record or none (error: <nil>)`, func(db *pebble.DB) error {
			return db.Delete(streamKey("s-1", 9), pebble.Sync)
		}},
		{"orders disagree", `position 2: stream order has another record or none (error: <nil>)`, func(db *pebble.DB) error {
			ev := proposed{id: eventID(testID("forged")), typ: "T", data: []byte("forged")}
			return db.Set(streamKey("s-0", 0), ev.record("s-0", 2, 0, 17952534000000000), pebble.Sync)
		}},
		{"swapped", "position 2: the record is of position 3", func(db *pebble.DB) error {
			return db.Set(positionKey(2), get(db, positionKey(3)), pebble.Sync)
		}},
		{"header against frame", `stream "s-0" revision 0: the frame disagrees with the header`, func(db *pebble.DB) error {
			v := get(db, streamKey("s-0", 0))
			v[30] ^= 1 // the id
			return errors.Join(db.Set(streamKey("s-0", 0), v, pebble.Sync), db.Set(positionKey(2), v, pebble.Sync))
		}},
		{"torn", "position 44: record of 10 bytes is too short", func(db *pebble.DB) error {
			return db.Set(positionKey(44), make([]byte, 10), pebble.Sync)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fs := populated(t)
			tamper(t, fs, c.change)
			r, err := Fsck(t.Context(), FsckConfig{Dir: "store", FS: fs})
			if err != nil || r.OK() || r.First[0].String() != c.want {
				t.Errorf("got %v %v, want %s", r.First, err, c.want)
			}
		})
	}
}

// TestFsckFindsFlippedByte flips one byte in each of the tables' blocks.
func TestFsckFindsFlippedByte(t *testing.T) {
	t.Parallel()
	fs := populated(t)
	names, err := fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	flips := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		info, err := fs.Stat("store/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(16); at < min(info.Size(), 4096); at += 128 {
			flip(t, fs, "store/"+name, at)
			r, err := Fsck(t.Context(), FsckConfig{Dir: "store", FS: fs})
			if err == nil && r.OK() {
				t.Errorf("byte %d of %s: not found", at, name)
			}
			flip(t, fs, "store/"+name, at)
			flips++
		}
	}
	if flips == 0 {
		t.Error("no table to flip a byte of")
	}
	if r, err := Fsck(t.Context(), FsckConfig{Dir: "store", FS: fs}); err != nil || !r.OK() {
		t.Errorf("all flipped back: %v %v", r, err)
	}
	fmt.Printf("fsck-flips=%d missed=0\n", flips)
}

// flip changes one byte of a file.
func flip(t *testing.T, fs vfs.FS, name string, at int64) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x40
	out, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFrame: what is put together by hand is the event, whatever its size.
func TestFrame(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100, 127, 128, 20_000} {
		id := eventID(uuid.New())
		ev := proposed{id: id, typ: "T", json: size%2 == 1, metadata: make([]byte, size), data: make([]byte, size)}
		for _, position := range []uint64{1, 127, 128, 1 << 40} {
			r := ev.record("s", position, int64(position-1), 17952534000000000)
			c := &checker{}
			if err := errors.Join(r.check(), c.event(r, nil)); err != nil {
				t.Errorf("size %d position %d: %v", size, position, err)
			}
			if r.id() != id || r.position() != position || string(r.stream()) != "s" || string(r.typ()) != "T" || cap(r) > len(r)+32 {
				t.Errorf("size %d position %d: header says otherwise", size, position)
			}
		}
	}
}
