package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The same writes leave the same contents, whatever Pebble's settings are and
// wherever the node was started again or crashed in between.
func TestMetamorphic(t *testing.T) {
	t.Parallel()
	metamorphic(t, 2, 300)
}

// A variant is a way to run a list of writes.
type variant struct {
	name    string
	tune    func(*pebble.Options)
	restart float64 // probability after each write
	crash   bool    // restart by a power cut
	flush   float64 // probability after each write
}

func metamorphic(t *testing.T, lists, writes int) {
	small := func(o *pebble.Options) {
		o.MemTableSize = 16 << 10
		o.L0CompactionThreshold, o.LBaseMaxBytes = 1, 1<<10
		o.Levels[0].BlockSize = 64
	}
	variants := []variant{
		{name: "plain"},
		{name: "small tables", tune: small},
		{name: "flushes", flush: 0.05},
		{name: "restarts", restart: 0.03},
		{name: "restarts, small tables", tune: small, restart: 0.03, flush: 0.02},
		{name: "crashes", restart: 0.03, crash: true},
		{name: "crashes, small tables", tune: small, restart: 0.02, crash: true},
		{name: "many restarts", restart: 0.3},
	}
	compared := 0
	for list := range lists {
		var want [32]byte
		var answers []string
		for i, v := range variants {
			got, gotAnswers := runVariant(t, v, uint64(list), writes, -1)
			if i == 0 {
				want, answers = got, gotAnswers
				continue
			}
			compared++
			if got != want {
				t.Errorf("list %d: %q leaves other contents than %q", list, v.name, variants[0].name)
			}
			for n := range answers {
				if gotAnswers[n] != answers[n] {
					t.Fatalf("list %d: %q answers write %d with %q, %q with %q", list, v.name, n, gotAnswers[n], variants[0].name, answers[n])
				}
			}
		}
		// The control: one write is left out.
		if got, _ := runVariant(t, variants[0], uint64(list), writes, writes/2); got == want {
			t.Error("the control is not seen: a write that was left out makes no difference")
		}
	}
	fmt.Printf("metamorphic lists=%d writes=%d variants=%d compared=%d control=caught\n", lists, writes, len(variants), compared)
}

// runVariant runs list number seed, without the write number skip, and returns
// the hash of the contents and what each write was answered.
func runVariant(t *testing.T, v variant, seed uint64, writes, skip int) ([32]byte, []string) {
	fs := vfs.NewCrashableMem()
	open := func() *Node {
		n, err := Open(Config{Dir: "d", FS: fs, FreeBytes: plenty, tune: v.tune})
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		return n
	}
	n := open()
	list := rand.New(rand.NewPCG(13, seed)) // what is written
	own := rand.New(rand.NewPCG(seed, 13))  // what happens in between
	answers := make([]string, 0, writes)
	for i := range writes {
		w := randomWrite(list)
		if i == skip {
			w = &write{stream: "nothing", expected: 1 << 40, kind: appendEvents}
		} else if i == writes/2 { // one that is never refused, for the control to leave out
			w = &write{stream: "always", expected: expectAny, events: []proposed{{id: eventID{9}, typ: "T"}}}
		}
		w.ctx = context.Background()
		o, err := n.seq.do(w)
		answers = append(answers, fmt.Sprintf("%v %d@%d %v", w.kind, o.revision, o.position, err))
		if own.Float64() < v.flush {
			if err := n.store.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case own.Float64() >= v.restart:
		case v.crash:
			crashed := fs.CrashClone(vfs.CrashCloneCfg{})
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			fs = crashed
			n = open()
		default:
			n = restart(t, n, open)
		}
	}
	if err := (inProcess{n}).consistent(); err != nil {
		t.Errorf("%s: %v", v.name, err)
	}
	sum, err := contents(n)
	if err := errors.Join(err, n.Close()); err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
	return sum, answers
}

func restart(t *testing.T, n *Node, open func() *Node) *Node {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return open()
}

// randomWrite makes any kind of write to one of few streams, often one that is
// refused or repeats an earlier one.
func randomWrite(rng *rand.Rand) *write {
	stream := fmt.Sprint("s", rng.IntN(6))
	w := &write{stream: stream, expected: []int64{expectAny, expectNoStream, expectExists, rng.Int64N(20), rng.Int64N(60)}[rng.IntN(5)]}
	switch k := rng.IntN(40); {
	case k == 0:
		w.kind = tombstone
		w.stream += "-short" // not all are soon gone
	case k < 3:
		w.kind = softDelete
	case k < 7:
		w.stream = metastreamOf(stream)
		w.expected = expectAny
		data := []string{`{"$maxCount":3}`, `{"$tb":5}`, `{"a":"b"}`, `no JSON`}[rng.IntN(4)]
		w.events = []proposed{{id: eventID{1, byte(rng.IntN(256)), byte(rng.IntN(256))}, typ: "$metadata", json: true, data: []byte(data)}}
	default:
		if rng.IntN(8) == 0 {
			w.stream += "-short"
		}
		for range rng.IntN(4) {
			id := eventID{2, byte(rng.IntN(64))} // ids repeat
			w.events = append(w.events, proposed{id: id, typ: "T", json: true, metadata: []byte("m"), data: slices.Repeat([]byte("d"), rng.IntN(300))})
		}
	}
	return w
}
