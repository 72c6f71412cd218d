package eventstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
)

// Event is a stored event, as code in the process of the node reads it. Data and
// Metadata must not be changed.
type Event struct {
	ID             uuid.UUID
	Stream, Type   string
	Revision       int64
	Position       uint64
	Data, Metadata []byte
	Created        time.Time
}

// What code in the node's own process reads goes by the same scans as the calls of
// clients, in the same order and up to the same durable position, but neither over
// the network nor past any access control list. yield is called with some events
// at a time; it may keep them, but not the slice.

// ReadStream calls yield with the events of a stream from a revision on, oldest
// first, up to its end. A stream that does not exist has none.
func (n *Node) ReadStream(ctx context.Context, stream string, from int64, yield func([]Event) error) error {
	return n.direct(ctx, yield, func(ctx context.Context, d *direct) error {
		return n.readStream(ctx, &readRequest{stream: stream, at: uint64(max(from, 0)), count: math.MaxUint64}, d)
	})
}

// ReadAll does the same for all streams whose name does not begin with "$", in
// log order, with the events after a position.
func (n *Node) ReadAll(ctx context.Context, after uint64, yield func([]Event) error) error {
	return n.direct(ctx, yield, func(ctx context.Context, d *direct) error {
		return n.readAll(ctx, &readRequest{at: after + 1, count: math.MaxUint64}, d)
	})
}

// Head is the position of the last event that ReadAll yields, 0 when there is none.
func (n *Node) Head(ctx context.Context) (head uint64, err error) {
	enough := errors.New("enough")
	err = n.direct(ctx, func(events []Event) error {
		head = events[0].Position
		return enough
	}, func(ctx context.Context, d *direct) error {
		return n.readAll(ctx, &readRequest{backwards: true, end: true, count: math.MaxUint64}, d)
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return head, err
}

// Subscribe yields what ReadAll does, of the streams whose name begins with one of
// the prefixes where any are given, and then what is appended, without end. It
// yields no events each time it has come to the end of the log. Events come without
// their metadata where that is not wanted.
func (n *Node) Subscribe(ctx context.Context, after uint64, prefixes []string, metadata bool, yield func([]Event) error) error {
	r := &readRequest{at: after, subscribe: true}
	if len(prefixes) > 0 {
		r.filter = &filter{interval: math.MaxInt64}
		for _, p := range prefixes {
			r.filter.prefixes = append(r.filter.prefixes, []byte(p))
		}
	}
	return n.direct(ctx, yield, func(ctx context.Context, d *direct) error {
		d.bare = !metadata
		return n.subscribe(ctx, r, d)
	})
}

// direct runs a read, which Close ends and waits for. It returns the error of
// yield as it is, and any other as clients get it.
func (n *Node) direct(ctx context.Context, yield func([]Event) error, read func(context.Context, *direct) error) error {
	n.mu.Lock()
	if n.ctx.Err() != nil {
		n.mu.Unlock()
		return refuse(context.Background(), errClosed)
	}
	n.readers.Add(1)
	n.mu.Unlock()
	defer n.readers.Done()
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	d := &direct{yield: yield}
	err := ctx.Err()
	if err == nil {
		err = read(within, d)
	}
	switch {
	case d.failed != nil:
		return d.failed
	case err != nil && ctx.Err() == nil && n.ctx.Err() != nil:
		err = errClosed
	}
	return refuse(context.Background(), err) // no trailers: ctx may be of a call to another server
}

// direct is the outlet of such a read.
type direct struct {
	yield   func([]Event) error
	bare    bool  // metadata is left out
	failed  error // of yield
	damaged error // a record that could not be read
	found   []Event
	stream  string            // of the event before: the next is often of the same
	types   map[string]string // those met
}

func (d *direct) page() page { return page{direct: d} }

// add takes up an event. keep copies the parts of its record that are to be kept;
// nil where the whole is.
func (d *direct) add(r record, keep func([]byte) []byte) {
	name := r.stream()
	if bytes.HasPrefix(name, []byte("$")) {
		return
	}
	if string(name) != d.stream {
		d.stream = string(name)
	}
	typ, ok := d.types[string(r.typ())]
	if !ok {
		if d.types == nil {
			d.types = make(map[string]string)
		}
		typ = string(r.typ())
		d.types[typ] = typ
	}
	metadata, data, err := r.contents()
	if err != nil {
		d.damaged = errors.Join(d.damaged, err)
		return
	}
	if d.bare {
		metadata = nil
	}
	if keep != nil {
		metadata, data = keep(metadata), keep(data)
	}
	d.found = append(d.found, Event{ID: uuid.UUID(r.id()), Stream: d.stream, Type: typ, Revision: r.revision(), Position: r.position(),
		Data: data, Metadata: metadata, Created: time.Unix(0, r.created()*100).UTC()})
}

// events hands on what was taken up, and these.
func (d *direct) events(records []record) error {
	for _, r := range records {
		d.add(r, nil)
	}
	switch {
	case d.damaged != nil:
		return d.damaged
	case len(d.found) > 0:
		d.failed = d.yield(d.found)
		d.found = d.found[:0]
	}
	return d.failed
}

func (d *direct) message(*streamspb.ReadResp) error { return nil } // there is no such stream: no events

func (d *direct) control(field protowire.Number, _ []byte) error {
	if field == caughtUpField {
		d.failed = d.yield(nil)
	}
	return d.failed
}

// contents finds the metadata and the data in a record's frame.
func (r record) contents() (metadata, data []byte, err error) {
	body := r.frame()
	for _, field := range []protowire.Number{1, 1} { // ReadResp.event, ReadEvent.event
		if body, err = bytesField(body, field, nil); err != nil {
			return nil, nil, fmt.Errorf("frame at position %d: %w", r.position(), err)
		}
	}
	data, err = bytesField(body, 8, func(number protowire.Number, value []byte) {
		if number == 7 { // custom_metadata
			metadata = value
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("frame at position %d: %w", r.position(), err)
	}
	return metadata, data, nil
}

// bytesField returns the last value of a field of bytes or of a message, and shows
// those of all others.
func bytesField(message []byte, wanted protowire.Number, other func(protowire.Number, []byte)) (found []byte, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return nil, protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		switch {
		case number == wanted:
			found = value[:len(value):len(value)]
		case other != nil:
			other(number, value[:len(value):len(value)])
		}
	}
	return found, nil
}
