package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/mllp"
	"waymark/services/kit/run"
)

// ListenOptions are the bounds of an MLLP listener. Zero fields mean their
// defaults. A connection holds at most one message of 512 KiB, so that
// Connections bounds the memory: 64 MiB by default, and half as much again while
// messages grow.
type ListenOptions struct {
	TLS         *tls.Config   // nil takes connections without TLS
	Connections int           // at once; more are closed at once. Default 128
	Idle        time.Duration // between two messages. Default 10 minutes
	First       time.Duration // until the first byte of the first message. Default 30 s
	Frame       time.Duration // from the first byte of a message to its last. Default 20 s
	Answer      time.Duration // to apply a message. Default 9 s
}

func (o ListenOptions) withDefaults() ListenOptions {
	for _, d := range []struct {
		to *time.Duration
		is time.Duration
	}{{&o.Idle, 10 * time.Minute}, {&o.First, 30 * time.Second}, {&o.Frame, 20 * time.Second}, {&o.Answer, 9 * time.Second}} {
		if *d.to == 0 {
			*d.to = d.is
		}
	}
	if o.Connections == 0 {
		o.Connections = 128
	}
	return o
}

// Listener makes the part that takes HL7 v2 over MLLP on lis and hands it to the
// edge service. Messages of one connection are taken one after the other, in
// order. A message without an outcome gets no answer: the connection is closed,
// and its sender sends it again.
func Listener(deps run.Deps, lis net.Listener, opts ListenOptions) run.Part {
	l := &listener{edge: pb.NewEdgeServiceClient(deps.Dial("edge")), lis: lis, opts: opts.withDefaults(), slog: deps.Slog, clock: deps.Clock, conns: map[net.Conn]bool{}}
	return run.Part{Name: "mllp", Run: l.run, Close: func() error {
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}}
}

type listener struct {
	edge  pb.EdgeServiceClient
	lis   net.Listener
	opts  ListenOptions
	slog  *slog.Logger
	clock func() time.Time

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// run accepts until ctx ends, then waits for the messages in hand.
func (l *listener) run(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() {
		l.lis.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			c.SetReadDeadline(run.Clock()) // one in hand is still answered
		}
	})()
	for {
		conn, err := l.lis.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		if !l.enter(ctx, conn) {
			conn.Close()
			continue
		}
		serving.Go(func() {
			defer l.leave(conn)
			if err := l.serve(ctx, conn); err != nil && ctx.Err() == nil {
				l.slog.InfoContext(ctx, "an MLLP connection was closed", "event.name", "edge.mllp.closed", "error", err)
			}
		})
	}
}

func (l *listener) enter(ctx context.Context, conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.opts.Connections || ctx.Err() != nil {
		return false
	}
	l.conns[conn] = true
	return true
}

func (l *listener) leave(conn net.Conn) {
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
	conn.Close() // last: a sender that sees it may connect again at once
}

// errSlow says that a sender kept a connection without using it.
var errSlow = errors.New("the sender was too slow")

// serve takes the messages of one connection. What it returns is safe to log.
func (l *listener) serve(ctx context.Context, plain net.Conn) error {
	conn := plain
	if l.opts.TLS != nil {
		conn = tls.Server(plain, l.opts.TLS)
	}
	r := bufio.NewReaderSize(conn, 4096)
	wait := l.opts.First
	for ctx.Err() == nil {
		conn.SetDeadline(run.Clock().Add(wait))
		if _, err := r.Peek(1); err != nil {
			return unread(err)
		}
		conn.SetDeadline(run.Clock().Add(l.opts.Frame))
		raw, err := mllp.Read(r, mllp.MaxMessage)
		if errors.Is(err, mllp.ErrTooLarge) || errors.Is(err, mllp.ErrFrame) {
			conn.Write(mllp.Frame(l.reject(err)))
			return err
		}
		if err != nil {
			return unread(err)
		}
		if len(raw) == 0 {
			return mllp.ErrFrame
		}
		if err := l.answer(ctx, conn, raw); err != nil {
			return err
		}
		wait = l.opts.Idle
	}
	return nil
}

// answer takes what is in a frame and answers each message in a frame of its own,
// or a batch in one. That is written as it grows: no answer to a batch is held.
func (l *listener) answer(ctx context.Context, conn net.Conn, raw []byte) error {
	write := func(parts ...[]byte) error {
		conn.SetWriteDeadline(run.Clock().Add(l.opts.Frame))
		for _, p := range parts {
			if _, err := conn.Write(p); err != nil {
				return errSlow
			}
		}
		return nil
	}
	messages := batch(raw)
	around := batchOf(raw)
	differs, acks := "", 0
	if around != nil {
		if differs = around.differs(len(mllp.Split(raw))); differs != "" {
			l.slog.WarnContext(ctx, "the counts of a batch do not agree with what came", "event.name", "edge.batch.count", "difference", differs)
		}
		if err := write([]byte{mllp.Start}, around.head(l.clock(), differs)); err != nil {
			return err
		}
	}
	for _, one := range messages {
		answers, err := l.take(ctx, one)
		if err != nil {
			return err
		}
		for _, a := range answers {
			acks++
			if around == nil {
				a = mllp.Frame(a)
			}
			if err := write(a); err != nil {
				return err
			}
		}
	}
	if around == nil {
		return nil
	}
	return write(around.tail(acks, differs), []byte{mllp.End, '\r'})
}

// batch is the messages of a frame; a frame that has none is one message, which
// will be refused.
func batch(raw []byte) [][]byte {
	if messages := mllp.Split(raw); len(messages) > 0 {
		return messages
	}
	return [][]byte{raw}
}

// take hands one message on. The connection may be ending: one in hand is finished.
func (l *listener) take(ctx context.Context, raw []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.opts.Answer)
	defer cancel()
	reply, err := l.edge.TakeMessage(ctx, &pb.TakeMessageRequest{Raw: raw})
	if err != nil {
		return nil, err
	}
	return reply.Answers, nil
}

// reject answers what is no message.
func (l *listener) reject(why error) []byte {
	return acknowledge(message{}, "00000000-0000-0000-0000-000000000000", &pb.MessageRefused{
		UnknownKind: true, At: timestamppb.New(l.clock()), Reason: &pb.Reason{Code: "edge.frame", Text: why.Error()},
	})
}

func unread(err error) error {
	var slow net.Error
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &slow) && slow.Timeout():
		return errSlow
	}
	return err
}
