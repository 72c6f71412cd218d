package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
)

// TailOptions say what Tail shows and from where. The zero value is everything
// from now on.
type TailOptions struct {
	Tenant     string   // ODS code, "" is all
	Categories []string // nil is all
	Event      string   // "HandoverAccepted", "" is all
	// Sequence or, where that is 0, Since says where to begin; with neither it
	// begins with what comes next.
	Sequence uint64
	Since    time.Time
	// Once ends at the end of what is stored instead of waiting for more.
	Once bool
}

// Delivery is one message as it is on the bus.
type Delivery struct {
	Sequence uint64
	Position es.Position
	Subject  string
	Data     []byte // the CloudEvent, as JSON
}

// Tail calls fn for each message, in order and each once, through restarts of
// NATS and rebuilds of the stream, until ctx ends or fn fails, and returns that
// error.
func Tail(ctx context.Context, js jetstream.JetStream, opts TailOptions, fn func(Delivery) error) error {
	t := &tail{js: js, opts: opts, fn: fn, start: from{sequence: opts.Sequence, time: opts.Since}}
	wait := newBackoff(50*time.Millisecond, 2*time.Second, nil)
	for {
		err := t.session(ctx)
		var ended *tailEnded
		switch {
		case errors.As(err, &ended):
			return ended.err
		case ctx.Err() != nil:
			return ctx.Err()
		case t.seen.position == 0 && errors.Is(err, jetstream.ErrStreamNotFound) && opts.Once:
			return fmt.Errorf("tail: %w", err)
		}
		if !wait.sleep(ctx) {
			return ctx.Err()
		}
	}
}

// tailEnded is the end of a tail, as opposed to a fault on the way.
type tailEnded struct{ err error }

func (*tailEnded) Error() string { return "ended" }

// tail is one call of Tail. It belongs to one goroutine.
type tail struct {
	js         jetstream.JetStream
	opts       TailOptions
	fn         func(Delivery) error
	start      from
	seen       place     // last message handed on
	generation time.Time // of seen
}

func (t *tail) session(ctx context.Context) error {
	ctx, stop := whileConnected(ctx, t.js.Conn())
	defer stop()
	setup, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := t.js.Stream(setup, StreamName)
	if err != nil {
		return err
	}
	gen := generation(s.CachedInfo())
	switch {
	case t.seen.sequence > 0 && gen.Equal(t.generation):
		t.start = from{sequence: t.seen.sequence + 1}
	case t.seen.sequence > 0:
		n, err := sequenceAfter(setup, s, t.seen.position)
		if err != nil {
			return err
		}
		t.start = from{sequence: n}
	case t.start == from{}:
		t.start = from{sequence: s.CachedInfo().State.LastSeq + 1} // kept through restarts
	}
	var subjects []string
	for _, c := range t.opts.Categories {
		subjects = append(subjects, Subject(t.opts.Tenant, c, t.opts.Event))
	}
	if subjects == nil {
		subjects = []string{Subject(t.opts.Tenant, "", t.opts.Event)}
	}
	r, err := open(setup, t.js, "tail", subjects, t.start, gen)
	if err != nil {
		return err
	}
	defer r.close()
	for {
		if t.opts.Once && r.pending == 0 {
			return &tailEnded{}
		}
		m, sequence, err := r.next(ctx, 3*heartbeat)
		if errors.Is(err, errIdle) {
			continue
		}
		if err != nil {
			return err
		}
		p, err := placeOf(sequence, m.Headers())
		if err != nil {
			return err
		}
		if p.position <= t.seen.position {
			continue
		}
		if err := t.fn(Delivery{Sequence: sequence, Position: p.position, Subject: m.Subject(), Data: m.Data()}); err != nil {
			return &tailEnded{err}
		}
		t.seen, t.generation = p, r.generation
	}
}
