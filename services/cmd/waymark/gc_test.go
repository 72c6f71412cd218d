package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func TestGCPercent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 300}, {20 << 20, 300}, {128 << 20, 300}, {256 << 20, 200}, {512 << 20, 100}, {1 << 30, 50}, {8 << 30, 33}} {
		if got := gcPercent(c.live); got != c.want {
			t.Errorf("%d MiB live: %d %%, want %d", c.live>>20, got, c.want)
		}
	}
}

// TestPaceGC: what lives decides, after the collection that found it; who sets the
// percentage has the last word.
func TestPaceGC(t *testing.T) { // alone: there is one collector
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	paceGC()
	percent := func() int {
		now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(now)
		return int(now[0].Value.Uint64())
	}
	ballast := make([]byte, 2<<30)          // never touched: it takes no memory
	for n := 0; percent() != leastGC; n++ { // who paces may not have run yet
		if n == 1000 {
			t.Fatalf("%d %% after %d collections with 2 GiB alive, want %d", percent(), n, leastGC)
		}
		runtime.GC()
		runtime.Gosched()
	}
	runtime.KeepAlive(ballast)
	debug.SetGCPercent(77)
	for range 5 {
		runtime.GC()
		runtime.Gosched()
	}
	if got := percent(); got != 77 {
		t.Errorf("%d %%", got)
	}
}
