package es

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waymark/services/kit/fault"
)

// EventStore-Client-Go v4.2.0 does not survive an outage. Its one goroutine that
// owns the connection ends for good when a rediscovery fails, callers that wait
// for it hang whatever their context says, and the connection before a
// rediscovery is never closed. So here one esdb.Client, a session, is used for
// one connection and is never left to rediscover:
//
//   - supervise makes sessions one after the other and proves each by a read
//     before anybody gets it;
//   - the first call that finds a session broken retires it; a call that ran out
//     of time makes supervise probe it;
//   - while there is none, calls wait a second at most and fail with UNAVAILABLE;
//   - each call of the library runs in a goroutine of its own, so that its caller
//     leaves on time whatever the library does. Closing a retired session frees
//     goroutines that hang in it: they panic on its closed channel, and guard
//     recovers;
//   - a store at one address is appended to by a call of our own that stands as
//     long as the session, see writer.
type session struct {
	client *esdb.Client
	writer *writer       // nil for a cluster: append by client
	gone   chan struct{} // closed when retired

	// Guarded by Client.mu.
	users   int // callers that still wait for a call on it
	retired bool
	closed  bool
}

// patience is how long a call waits for a session.
const patience = time.Second

// closePatience is how long Close lets a call in progress end by itself.
const closePatience = 200 * time.Millisecond

// probeTimeout is how long a healthy store may take to answer a probe.
const probeTimeout = 1500 * time.Millisecond

// supervise owns the making of sessions, until Close.
func (c *Client) supervise() {
	defer c.work.Done()
	wait := 20 * time.Millisecond
	for down := false; ; {
		s, err := c.connect()
		if err != nil {
			if !down {
				c.logger.Warn("event store is away", slog.String("error", err.Error()))
				down = true
			}
			select {
			case <-time.After(wait):
			case <-c.closing:
				return
			}
			wait = min(2*wait, 400*time.Millisecond)
			continue
		}
		if down {
			c.logger.Info("event store is back")
		}
		down, wait = false, 20*time.Millisecond
		c.publish(s)
		var ended <-chan struct{}
		if s.writer != nil {
			ended = s.writer.ended
		}
		for serving := true; serving; {
			select {
			case <-c.closing:
				c.retire(s)
				return
			case <-s.gone:
				c.logger.Warn("event store connection lost")
				down, serving = true, false
			case <-ended:
				c.retire(s)
			case <-c.suspected:
				if err := c.probe(s); err != nil {
					c.retire(s)
				}
			}
		}
	}
}

// connect makes a session and proves it.
func (c *Client) connect() (*session, error) {
	config := *c.config
	client, err := esdb.NewClient(&config)
	if err != nil {
		return nil, err
	}
	s := &session{client: client, gone: make(chan struct{})}
	err = c.probe(s)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		s.writer, err = c.dialWriter(ctx)
	}
	if err != nil {
		s.retired, s.closed = true, true
		client.Close()
		return nil, err
	}
	return s, nil
}

// probe reads the newest event of the log, and has the writer answered, whatever
// the answer is.
func (c *Client) probe(s *session) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	err := c.guard(ctx, func(ctx context.Context) error {
		_, err := newest(ctx, s.client, func(*esdb.RecordedEvent) bool { return true })
		return err
	})
	if err == nil && s.writer != nil {
		err = s.writer.probe(ctx, c.closing)
	}
	return err
}

func (c *Client) publish(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = s
	close(c.up)
}

// retire takes a session out of use; its last caller closes it.
func (c *Client) retire(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.retired {
		return
	}
	s.retired = true
	close(s.gone)
	if c.current == s {
		c.current, c.up = nil, make(chan struct{})
	}
	c.closeUnused(s)
}

// closeUnused closes a session that nobody will use again. The caller holds mu.
func (c *Client) closeUnused(s *session) {
	if s.retired && s.users == 0 && !s.closed {
		s.closed = true
		s.client.Close()
		if s.writer != nil {
			s.writer.close()
		}
	}
}

// enter returns the session in use, waiting for one up to patience.
func (c *Client) enter(ctx context.Context, patience time.Duration) (*session, error) {
	var late <-chan time.Time
	for {
		c.mu.Lock()
		s, up := c.current, c.up
		if s != nil {
			s.users++
		}
		c.mu.Unlock()
		if s != nil {
			return s, nil
		}
		if late == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, outage(ctx, ctx.Err())
		case <-late:
			return nil, errUnavailable
		case <-c.closing:
			return nil, errUnavailable
		}
	}
}

func (c *Client) leave(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.users--
	c.closeUnused(s)
}

// judge turns the outcome of a call into the errors of Log and draws the
// consequences for the session.
func (c *Client) judge(ctx context.Context, s *session, err error) error {
	var own *fault.Error
	var wrong *WrongRevision
	if err == nil || errors.As(err, &own) || errors.As(err, &wrong) {
		return err
	}
	if ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.suspect()
		}
		return outage(ctx, ctx.Err())
	}
	c.logger.Debug("event store call failed", slog.String("error", err.Error()))
	kind := esdb.ErrorCodeUnknown
	if e := (*esdb.Error)(nil); errors.As(err, &e) {
		kind = e.Code()
	}
	switch code := status.Code(err); {
	case code == codes.ResourceExhausted:
		return fault.Exhausted("log.full", "the event store has no room for new events", time.Minute)
	case code == codes.DeadlineExceeded:
		c.suspect()
		return outage(ctx, context.DeadlineExceeded)
	case code == codes.Unauthenticated, code == codes.PermissionDenied, kind == esdb.ErrorCodeUnauthenticated, kind == esdb.ErrorCodeAccessDenied:
		return fault.Unavailable("log.denied", "the event store refuses the credentials of this service", time.Minute)
	case kind == esdb.ErrorCodeStreamDeleted:
		return errDeleted
	case kind == esdb.ErrorCodeNotLeader: // the library goes to the leader by itself
	case code == codes.Unavailable, kind == esdb.ErrorUnavailable, kind == esdb.ErrorCodeConnectionClosed:
		c.retire(s)
	default:
		c.suspect()
	}
	return errUnavailable
}

// suspect makes supervise probe the session.
func (c *Client) suspect() {
	select {
	case c.suspected <- struct{}{}:
	default:
	}
}

var errDeleted = fault.Lost("log.stream_deleted", "the stream was deleted for ever")

var errUnavailable = fault.Unavailable("log.unavailable", "the event store is away: repeat the request", time.Second)

// guard runs call in a goroutine and leaves when ctx ends, whatever call does. A
// panic in call is its error. The context of call ends when guard returns.
func (c *Client) guard(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	if !c.spawn(func() { done <- recovered(ctx, call) }) {
		return errUnavailable
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select { // an answer that came at the last moment is still the answer
		case err := <-done:
			return err
		default:
			return ctx.Err()
		}
	case <-c.closing:
		// Closing a library client under a call makes the call panic: let those that
		// heed their context leave it first.
		cancel()
		select {
		case err := <-done:
			if err == nil {
				return nil
			}
		case <-time.After(closePatience):
		}
		return errUnavailable
	}
}

func recovered(ctx context.Context, call func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("event store client panicked: %v", p)
		}
	}()
	return call(ctx)
}

// spawn runs f in a goroutine that Close waits for; false after Close.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
	}
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		f()
	}()
	return true
}

// sessions is the part of Client that this file owns.
type sessions struct {
	config    *esdb.Configuration
	logger    *slog.Logger
	closing   chan struct{} // closed by Close, under mu
	suspected chan struct{} // one token: probe the session
	work      sync.WaitGroup

	mu      sync.Mutex
	current *session      // nil while there is none
	up      chan struct{} // closed while there is one
}
