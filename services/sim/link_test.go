package sim

import (
	"testing"
	"time"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// TestLinkIsALog holds the link, without faults, to the promises of es.Log.
func TestLinkIsALog(t *testing.T) {
	w := newWorld(1, Options{Delay: time.Microsecond})
	w.healed = true
	if err := w.node.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.end(); w.node.stop() })
	log := w.link(w.actor("suite"))
	estest.LogSuite(t, func() es.Log { return log })
}
