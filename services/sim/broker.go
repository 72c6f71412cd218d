package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/bus"
)

// broker is NATS with JetStream over its lives. Its files are real ones: NATS
// has no other storage that outlives it.
type broker struct {
	w   *world
	dir string

	mu     sync.Mutex
	server *server.Server // under mu; nil while it is down
	stores int            // under mu: how many there were
	conns  []net.Conn     // under mu: of this life
}

// Outside prepares what must not begin in a bubble: NATS keeps a clock for the
// whole process, which would stop with the first bubble.
func Outside() error {
	ats.Register()
	_, err := rules()
	return err
}

func (b *broker) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := server.NewServer(&server.Options{
		ServerName: "waymark", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: filepath.Join(b.dir, fmt.Sprint(b.stores)), JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 40,
	})
	if err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(5 * time.Second) {
		return errors.New("NATS does not start")
	}
	b.server = s
	return nil
}

// stop ends the broker; what it was told and stored is there at the next start,
// unless the store is lost too.
func (b *broker) stop(lost bool) {
	b.mu.Lock()
	s := b.server
	b.server = nil
	b.conns = nil
	if lost {
		b.stores++
	}
	b.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// port is where the connections of an actor begin.
type port struct {
	*broker
	life context.Context // of the actor
}

// InProcessConn implements nats.InProcessConnProvider.
func (p port) InProcessConn() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil, errors.New("sim: NATS is down")
	}
	c, err := p.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	p.conns = append(p.conns, c)
	return &socket{c, p.life}, nil
}

// socket is a connection of which nothing leaves once its process is dead. What
// the process still did at that instant (it tells NATS to forget its consumers)
// came before the connection was closed or after it, by chance: NATS kept the
// consumers or did not, and so took 50 ms longer or not to stop.
type socket struct {
	net.Conn
	life context.Context
}

func (s *socket) Write(b []byte) (int, error) {
	if s.life.Err() != nil {
		return 0, net.ErrClosed
	}
	return s.Conn.Write(b)
}

// cut breaks one connection.
func (b *broker) cut(n int) {
	b.mu.Lock()
	var c net.Conn
	if len(b.conns) > 0 {
		c = b.conns[n%len(b.conns)]
	}
	b.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// connect returns a connection that never gives up.
func (b *broker) connect(a *actor) (*nats.Conn, jetstream.JetStream, error) {
	reconnect := a.jitter("reconnect")
	conn, err := nats.Connect("", nats.InProcessServer(port{b, a.life}), nats.Name(a.name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectBufSize(-1), nats.ReconnectJitter(0, 0), nats.CustomReconnectDelay(func(int) time.Duration { return reconnect(250*time.Millisecond) + 1 }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(conn)
	return conn, js, err
}

// outages stops NATS, breaks its connections and loses its store, until ctx ends.
func (b *broker) outages(ctx context.Context, a *actor) {
	for a.wait(ctx, "gap", 6*time.Second) == nil {
		if a.draw("kind").IntN(2) == 0 {
			b.cut(a.draw("conn").IntN(16))
			continue
		}
		lost := chance(a.draw("lost"), 25)
		b.w.count(func(r *Result) {
			r.Outages++
			if lost {
				r.StoresLost++
			}
		})
		b.stop(lost)
		_ = a.wait(context.Background(), "down", 500*time.Millisecond)
		if err := b.start(); err != nil {
			b.w.fail("%v", err)
			return
		}
	}
}

// scrub compares the stream with the log, message by message.
func (b *broker) scrub(ctx context.Context, a *actor, log *link) error {
	conn, js, err := b.connect(a)
	if err != nil {
		return err
	}
	defer conn.Close()
	report, err := bus.Scrub(ctx, log, js, bus.Mapping{}, nil)
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	b.w.count(func(r *Result) {
		r.Relayed += int(report.Verified)
		r.Doubled += int(report.Doubled)
		r.Reordered += int(report.Reordered)
		if bad := report.Doubled + report.Reordered; bad > 0 {
			r.note("on the bus are messages twice or out of order: %+v", report)
		}
		if bad := report.Missing + report.Altered + report.Unknown + report.Behind; bad > 0 || report.Absent || report.Verified != report.Events {
			r.unexplained("the bus is no copy of the log: %+v", report)
		}
	})
	return nil
}

// remove deletes the stores.
func (b *broker) remove() { os.RemoveAll(b.dir) }
