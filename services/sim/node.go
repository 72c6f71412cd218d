package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"waymark/services/eventstore"
)

// node is the event store over its lives.
type node struct {
	w    *world
	a    *actor
	dead sync.WaitGroup // lives that are being buried

	mu    sync.Mutex
	disk  *disk // under mu
	lives int   // under mu
	life  *life // under mu; nil while the node is down
}

// life is the node from one start to the next crash.
type life struct {
	peer
	node *eventstore.Node
}

func newNode(w *world) *node {
	n := &node{w: w, a: w.actor("node")}
	n.disk = newDisk(n.a)
	return n
}

// start opens the store and serves it.
func (n *node) start() error {
	n.mu.Lock()
	disk := n.disk
	n.mu.Unlock()
	skew := n.w.skew(n.a)
	opened, err := eventstore.Open(eventstore.Config{
		Dir: "/store", FS: disk, NoSync: n.w.opt.NoSync, FreeBytes: plenty,
		Clock: func() time.Time { return n.w.clock().Add(skew) },
		Fatal: func(reason string) { n.w.fail("the node's storage failed: %s", reason) },
	})
	if err != nil {
		return fmt.Errorf("the node does not start: %w", err)
	}
	lis := bufconn.Listen(64 << 10)
	go func() {
		if err := opened.Serve(lis); err != nil {
			n.w.fail("the node serves no more: %v", err)
		}
	}()
	l := &life{node: opened}
	if l.conn, err = dial(lis); err != nil {
		return err
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	disk.opens.Store(false)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life = l
	return nil
}

func plenty() (uint64, error) { return 1 << 40, nil }

// now returns who answers at this moment, nil while the node is down.
func (n *node) now() *peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return nil
	}
	return &n.life.peer
}

// crash takes the power away: of what was not synced a part is kept, nobody
// hears from this life again.
func (n *node) crash(percent int) {
	n.mu.Lock()
	l := n.life
	n.life = nil
	l.end()
	n.lives++
	after := n.disk.crashed(percent, n.a.draw("survive"), n.a.reborn(n.lives, context.Background()))
	n.disk.hurry()
	n.disk = after
	n.mu.Unlock()
	n.dead.Go(l.bury)
}

// bury lets go of what a dead process would have left to its kernel.
func (l *life) bury() {
	l.conn.Close()
	_ = l.node.Close() // it writes to a disk that is gone
}

// stop ends the node in order.
func (n *node) stop() {
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.disk.hurry()
	n.mu.Unlock()
	if l != nil {
		l.end()
		l.bury()
	}
	n.dead.Wait()
}
