package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// Little of the heap lives long; collecting it a third as often as Go would
	// takes a fifth off a command's CPU.
	mostGC = 300
	// gcRoom is by how much the heap may grow between two collections: where much
	// lives, three times as much again would not fit into an ordinary machine.
	gcRoom  = 512 << 20
	leastGC = 33 // but not so little that collecting is all that happens
)

// gcPercent is by how many percent the heap may grow when so many bytes live.
func gcPercent(live uint64) int {
	return int(min(mostGC, max(leastGC, 100*gcRoom/max(live, 1))))
}

// pacer sets the garbage collector's percentage anew after each collection, until
// somebody else sets it.
type pacer struct{ set int }

// cycle is garbage at once, so that its finalizer runs after the next collection.
type cycle struct{ of *pacer }

func paceGC() {
	p := &pacer{set: mostGC}
	debug.SetGCPercent(p.set)
	runtime.SetFinalizer(&cycle{p}, (*cycle).over)
}

func (c *cycle) over() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	next := gcPercent(live[0].Value.Uint64())
	if was := debug.SetGCPercent(next); was != c.of.set {
		debug.SetGCPercent(was)
		return
	}
	c.of.set = next
	runtime.SetFinalizer(&cycle{c.of}, (*cycle).over)
}
