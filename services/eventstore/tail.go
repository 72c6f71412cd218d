package eventstore

import "sync"

// tail is the newest durable part of the log in memory, and the durable
// position: the one up to which readers and subscriptions may look. Pebble shows
// a batch before its sync is done; what lies beyond the durable position could
// still be lost in a crash, so nobody sees it.
//
// Every subscription reads the same records. One that falls out of the tail
// scans the store until it is back in it.
type tail struct {
	mu      sync.Mutex
	durable uint64        // guarded by mu
	ring    []record      // guarded by mu; position p is at p % len
	count   int           // guarded by mu; records in ring, ending at durable
	bytes   int           // guarded by mu
	changed chan struct{} // guarded by mu; closed at the next publish
}

const (
	tailRecords = 1 << 13
	tailBytes   = 16 << 20
)

func newTail(records int) *tail {
	return &tail{ring: make([]record, records), changed: make(chan struct{})}
}

func (t *tail) start(durable uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.durable = durable
}

// publish makes records visible. Their positions follow the durable one.
func (t *tail) publish(records []record) {
	if len(records) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		if t.count == len(t.ring) {
			t.drop()
		}
		t.durable = r.position()
		t.ring[t.durable%uint64(len(t.ring))] = r
		t.count++
		t.bytes += len(r)
	}
	for t.bytes > tailBytes && t.count > 1 {
		t.drop()
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// drop forgets the oldest record. Callers hold mu.
func (t *tail) drop() {
	at := (t.durable - uint64(t.count) + 1) % uint64(len(t.ring))
	t.bytes -= len(t.ring[at])
	t.ring[at] = nil
	t.count--
}

// position returns the durable position, and a channel that is closed when it
// has grown.
func (t *tail) position() (uint64, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.durable, t.changed
}

// after appends to dst the records that follow position, at most max, up to the
// durable position. ok is false when the tail no longer reaches back that far.
func (t *tail) after(position uint64, max int, dst []record) (_ []record, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if position < t.durable-uint64(t.count) {
		return dst, false
	}
	for p := position + 1; p <= t.durable && len(dst) < max; p++ {
		dst = append(dst, t.ring[p%uint64(len(t.ring))])
	}
	return dst, true
}
