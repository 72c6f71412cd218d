package es_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"waymark/services/eventstore"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

// node is a real store that can be stopped and started again at its address.
type node struct {
	t    testing.TB
	dir  string
	addr string
	gate *sync.RWMutex // held by a test that freezes connections; may be nil
	full atomic.Bool   // the disk has no room
	node *eventstore.Node
	done chan error
}

func startNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	opened, err := eventstore.Open(eventstore.Config{Dir: n.dir, MinFree: 1, FreeBytes: func() (uint64, error) {
		if n.full.Load() {
			return 0, nil
		}
		return math.MaxInt64, nil
	}})
	if err != nil {
		n.t.Fatal(err)
	}
	lis, err := net.Listen("tcp", n.addr)
	for late := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(late); {
		// A client that looks for the store may hold the port as its own, for a moment.
		lis, err = net.Listen("tcp", n.addr)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.node, n.addr, n.done = opened, lis.Addr().String(), make(chan error, 1)
	if n.gate != nil {
		lis = freezer{lis, n.gate}
	}
	go func() { n.done <- opened.Serve(lis) }()
}

func (n *node) stop() {
	if n.node == nil {
		return
	}
	if err := n.node.Close(); err != nil {
		n.t.Errorf("close the node: %v", err)
	}
	if err := <-n.done; err != nil {
		n.t.Errorf("serve: %v", err)
	}
	n.node = nil
}

func (n *node) client() *es.Client { return n.dial("esdb") }

func (n *node) dial(scheme string) *es.Client {
	n.t.Helper()
	c, err := es.Open(es.Config{URL: scheme + "://" + n.addr + "?tls=false"})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	n.reached(c)
	return c
}

// reached waits until c has a connection. Calls wait a second for one, and on a busy
// machine it takes longer.
func (n *node) reached(c *es.Client) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := c.Head(ctx); err == nil {
			return
		} else if ctx.Err() != nil {
			n.t.Fatal(err)
		}
	}
}

func TestClientOfNode(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	// A cluster's leader is looked up, and appended to by the library.
	for _, scheme := range []string{"esdb", "esdb+discover"} {
		t.Run(scheme, func(t *testing.T) {
			c := n.dial(scheme)
			estest.LogSuite(t, func() es.Log { return c })
			estest.Audit(t, c)
		})
	}
}

// TestSubscribeAfterTheEnd: a subscription that came too late leaves nothing in use
// that Close would wait for.
func TestSubscribeAfterTheEnd(t *testing.T) {
	t.Parallel()
	c := startNode(t).dial("esdb")
	if _, err := c.Head(t.Context()); err != nil { // there is a session
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := c.Subscribe(ended, 0, es.Filter{}, func(es.Message) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a session that nobody uses")
	}
}

func TestTwoWritersOnNode(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // 3400 synced appends to one stream
	defer cancel()
	for name, a := range map[string]attack{
		"1 caller each":        {callers: 1, commands: 500},
		"8 callers each":       {callers: 8, commands: 100},
		"each command to both": {callers: 8, commands: 50, twice: true},
	} {
		a.logs = []es.Log{n.client(), n.client()}
		a.patient = true
		a.stream = "hot" + uuid.NewString()[:4]
		r := a.run(ctx, a.logs[0])
		t.Logf("%s: %v", name, r)
		if r.broken() {
			t.Error("a promise was broken")
		}
	}
	events := estest.Audit(t, n.client())
	t.Logf("%d events audited", events)
}

// An outage: calls answer in time, health tells, and everything goes on by itself
// when the store is back.
func TestOutage(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	c := n.client()
	streams := newTallies(c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// A subscription lives through all of it.
	var heard []es.Recorded
	heardAll := make(chan struct{})
	subscribed := make(chan error, 1)
	var want atomic.Int64
	go func() {
		subscribed <- c.Subscribe(ctx, 0, es.Filter{Categories: []string{"tally"}}, func(m es.Message) error {
			if m.Event != nil {
				if heard = append(heard, *m.Event); int64(len(heard)) == want.Load() {
					close(heardAll)
				}
			}
			return nil
		})
	}()
	acked := make(map[string]es.Position)
	do := func(id string) {
		t.Helper()
		state, err := streams.Do(ctx, id, newRequest(), add(1))
		if err != nil {
			t.Fatal(err)
		}
		acked[id] = state.Position
	}
	do("before")

	for round := range 3 {
		n.stop()
		const callers, limit = 64, 2 * time.Second
		var wg sync.WaitGroup
		var hung, wrong atomic.Int64
		for i := range callers {
			wg.Go(func() {
				each, cancel := context.WithTimeout(ctx, limit)
				defer cancel()
				var err error
				switch i % 4 {
				case 0:
					_, err = streams.Do(each, fmt.Sprintf("during-%d-%d", round, i), newRequest(), add(1))
				case 1:
					_, err = streams.Load(each, "before")
				case 2:
					_, err = c.Head(each)
				case 3:
					err = c.ReadAll(each, 0, func(es.Recorded) error { return nil })
				}
				if deadline, _ := each.Deadline(); time.Until(deadline) < -time.Second {
					hung.Add(1)
				}
				var f *fault.Error
				if !errors.As(err, &f) || f.GRPC != codes.Unavailable && f.GRPC != codes.DeadlineExceeded {
					wrong.Add(1)
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if read, write := c.Health(ctx); read == nil || write == nil {
			t.Errorf("health during the outage: read %v, write %v", read, write)
		}
		t.Logf("outage %d: %d callers, %d hung, %d wrong", round, callers, hung.Load(), wrong.Load())
		if hung.Load() > 0 {
			t.Fatal("a call outlived its deadline")
		}
		n.start()
		do(fmt.Sprintf("after-%d", round))
		if read, write := c.Health(ctx); read != nil || write != nil {
			t.Errorf("health after the outage: read %v, write %v", read, write)
		}
	}

	want.Store(int64(len(acked)) + 1)
	do("last")
	select {
	case <-heardAll:
	case err := <-subscribed:
		t.Fatalf("subscription ended: %v", err)
	case <-ctx.Done():
		t.Fatalf("heard %d of %d events", len(heard), want.Load())
	}
	cancel()
	if err := <-subscribed; err != context.Canceled {
		t.Errorf("subscription ended with %v", err)
	}
	last := es.Position(0)
	for _, e := range heard {
		if e.Position <= last || acked[strings.TrimPrefix(e.Stream, "tally-")] != e.Position {
			t.Errorf("heard %s at %d after %d", e.Stream, e.Position, last)
		}
		last = e.Position
	}
}

// A full disk: commands are refused as such at once, reads go on, and writes
// resume by themselves.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	c := n.client()
	streams, ctx := newTallies(c), t.Context()
	if _, err := streams.Do(ctx, "a", newRequest(), add(1)); err != nil {
		t.Fatal(err)
	}
	n.full.Store(true)
	for range 20 {
		_, err := streams.Do(ctx, "a", newRequest(), add(2, 3, 4))
		wantCode(t, err, "log.full", codes.ResourceExhausted)
	}
	if read, write := c.Health(ctx); read != nil || fault.CodeOf(write) != "log.full" {
		t.Errorf("health on a full disk: read %v, write %v", read, write)
	}
	if got, err := newTallies(c).Load(ctx, "a"); err != nil || got.Revision != 0 {
		t.Errorf("read on a full disk: %+v, %v", got, err)
	}
	n.full.Store(false)
	if got, err := streams.Do(ctx, "a", newRequest(), add(5)); err != nil || got.Revision != 1 {
		t.Errorf("after room was made: %+v, %v", got, err)
	}
	if read, write := c.Health(ctx); read != nil || write != nil {
		t.Errorf("health after room was made: read %v, write %v", read, write)
	}
}

// Events are handed over in batches: whatever the length of a stream, all come,
// once and in order, and none after yield has failed.
func TestReadsOfEveryLength(t *testing.T) {
	t.Parallel()
	c := startNode(t).client()
	enough := errors.New("enough")
	for _, length := range []int{0, 1, 63, 64, 65, 128, 200} {
		stream := fmt.Sprint("length-", length)
		var events []es.NewEvent
		for range length {
			events = append(events, es.NewEvent{ID: uuid.New(), Type: "test", Data: []byte("x"), Metadata: []byte("{}")})
		}
		if length > 0 {
			if _, err := c.Append(t.Context(), stream, es.NoStream, events); err != nil {
				t.Fatal(err)
			}
		}
		next := 0
		err := c.Read(t.Context(), stream, 0, func(e es.Recorded) error {
			if e.ID != events[next].ID || e.Revision != es.Revision(next) {
				t.Errorf("of %d events number %d is %+v", length, next, e)
			}
			next++
			return nil
		})
		if err != nil || next != length {
			t.Errorf("read %d of %d events: %v", next, length, err)
		}
		for _, stop := range []int{1, 64, 65, length} {
			if stop > length || stop == 0 {
				continue
			}
			n := 0
			err := c.Read(t.Context(), stream, 0, func(es.Recorded) error {
				if n++; n == stop {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) || n != stop {
				t.Errorf("stopped at %d of %d events: %d, %v", stop, length, n, err)
			}
		}
	}
}

// All appends share one call: what goes in several messages is stored whole, and
// what the store refuses as too large harms no other.
func TestLargeAppends(t *testing.T) {
	t.Parallel()
	c := startNode(t).client()
	events := func(n int) (all []es.NewEvent) {
		for range n {
			all = append(all, es.NewEvent{ID: uuid.New(), Type: "test", Data: make([]byte, 300<<10), Metadata: []byte("{}")})
		}
		return all
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			stream, whole := fmt.Sprint("large-", i), events(3)
			if done, err := c.Append(t.Context(), stream, es.NoStream, whole); err != nil || done.Revision != 2 {
				t.Errorf("900 KiB: %+v, %v", done, err)
			}
			if _, err := c.Append(t.Context(), stream, 2, events(9)); err == nil {
				t.Error("2.7 MiB were taken")
			}
			if done, err := c.Append(t.Context(), stream, 2, events(1)); err != nil || done.Revision != 3 {
				t.Errorf("after a refusal: %+v, %v", done, err)
			}
			n := 0
			err := c.Read(t.Context(), stream, 0, func(e es.Recorded) error {
				if n < 3 && e.ID != whole[n].ID || len(e.Data) != 300<<10 {
					t.Errorf("event %d is %s of %d bytes", n, e.ID, len(e.Data))
				}
				n++
				return nil
			})
			if err != nil || n != 4 {
				t.Errorf("read %d events: %v", n, err)
			}
		})
	}
	wg.Wait()
}

// A store that takes calls and never answers, as a stopped process does: calls
// end in time, and Close frees what hangs.
func TestSilentStore(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	c, err := es.Open(es.Config{URL: "esdb://" + lis.Addr().String() + "?tls=false"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := c.Head(ctx)
			wantTimeout(t, err)
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if read, write := c.Health(ctx); read == nil || write == nil {
		t.Errorf("health: read %v, write %v", read, write)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	_, err = c.Head(t.Context())
	wantCode(t, err, "log.unavailable", codes.Unavailable)
}

func TestOpenRefusesBadAddress(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "http://127.0.0.1:2113", "esdb://", "esdb://host:port"} {
		if c, err := es.Open(es.Config{URL: url}); err == nil {
			c.Close()
			t.Errorf("%q: opened", url)
		}
	}
}

// freezer is a listener whose connections stand still while it is frozen, as
// those of a stopped process do: open, and silent.
type freezer struct {
	net.Listener
	gate *sync.RWMutex // write-locked while frozen
}

func (f freezer) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	return frozenConn{c, f.gate}, err
}

type frozenConn struct {
	net.Conn
	gate *sync.RWMutex
}

func (c frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.RLock()
	defer c.gate.RUnlock()
	return n, err
}

func (c frozenConn) Write(b []byte) (int, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.Conn.Write(b)
}

// A store that falls silent on open connections.
func TestFrozenStore(t *testing.T) {
	t.Parallel()
	n := &node{t: t, dir: t.TempDir(), addr: "127.0.0.1:0", gate: new(sync.RWMutex)}
	n.start()
	t.Cleanup(n.stop)
	c := n.client()
	streams := newTallies(c)
	if _, err := streams.Do(t.Context(), "a", newRequest(), add(1)); err != nil {
		t.Fatal(err)
	}
	n.gate.Lock()
	var wg sync.WaitGroup
	repeated := newRequest()
	for i := range 64 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			req := newRequest()
			if i == 0 {
				req = repeated
			}
			_, err := streams.Do(ctx, "a", req, add(2))
			wantTimeout(t, err)
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	if read, write := c.Health(ctx); read == nil || write == nil {
		t.Errorf("health: read %v, write %v", read, write)
	}
	cancel()
	n.gate.Unlock()

	// What was on its way may have arrived; a repeat settles it, once. The probes
	// that the silence caused may still take a session away, so that any of the
	// calls may have to be repeated.
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	settle := func() es.State[tally] {
		for {
			state, err := streams.Do(ctx, "a", repeated, add(2))
			if err == nil {
				return state
			}
			wantTimeout(t, err)
			if ctx.Err() != nil {
				t.Fatal("no recovery")
			}
		}
	}
	if state, again := settle(), settle(); again.Revision != state.Revision || again.Position != state.Position {
		t.Errorf("answered %+v, then %+v", state, again)
	}
	estest.Audit(t, n.client())
}

// Outages and Close leave no goroutine behind.
func TestClientLeaksNothing(t *testing.T) {
	n := startNode(t)
	n.stop()
	before := runtime.NumGoroutine()
	for range 3 {
		n.start()
		c := n.client()
		ctx, cancel := context.WithCancel(t.Context())
		subscribed := make(chan error, 1)
		go func() { subscribed <- c.Subscribe(ctx, 0, es.Filter{}, func(es.Message) error { return nil }) }()
		for range 2 {
			n.reached(c)
			n.stop()
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					each, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
					defer cancel()
					_, err := c.Head(each)
					wantTimeout(t, err)
				})
			}
			wg.Wait()
			n.start()
		}
		c.Close()
		cancel()
		<-subscribed
		n.stop()
	}
	// Goroutines of closed connections end a moment later. It is measured in ticks,
	// which are lost while the machine runs others.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ticks := 0; runtime.NumGoroutine() > before; ticks++ {
		if ticks == 1000 {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
		<-tick.C
	}
}
