package eventstore

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Crashes at random moments under load, after which a random part of what was
// not synced is there: nothing acknowledged may be missing.
func TestCrashInMemory(t *testing.T) {
	t.Parallel()
	got := crashInMemory(t, 30, false)
	control := crashInMemory(t, 10, true)
	report(t, got, control, 5_000)
}

func crashInMemory(t *testing.T, cycles int, noSync bool) tally {
	y := tally{name: "crash-memory", cycles: cycles}
	rng := rand.New(rand.NewPCG(3, uint64(cycles)))
	fs := vfs.NewCrashableMem()
	open := func() inProcess {
		n, err := Open(Config{Dir: "d", FS: fs, NoSync: noSync, FreeBytes: plenty})
		if err != nil {
			t.Fatalf("open after %d events: %v", y.acked, err)
		}
		return inProcess{n}
	}
	n, l := open(), newLedger(8)
	for range cycles {
		stop := l.load(n, rng)
		l.until(100+rng.Int64N(900), nil)
		promised := l.promised()
		clone := vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 0))}
		if rng.IntN(3) == 0 {
			clone.UnsyncedDataPercent = 0
		}
		crashed := fs.CrashClone(clone)
		stop()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		fs = crashed
		n = open()
		if err := l.check(n, promised, &y); err != nil {
			t.Fatal(err)
		}
		if err := n.consistent(); err != nil {
			y.torn++
			t.Error(err)
		}
		if position, _ := n.log.position(); position > 5_000 { // a young store is quick to check
			y.ops, y.acked = y.ops+int(l.ops.Load()), y.acked+int(l.acked.Load())
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			fs = vfs.NewCrashableMem()
			n, l = open(), newLedger(8)
		}
	}
	y.ops, y.acked = y.ops+int(l.ops.Load()), y.acked+int(l.acked.Load())
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return y
}

func plenty() (uint64, error) { return 1 << 40, nil }
