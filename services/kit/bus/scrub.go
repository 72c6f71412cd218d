package bus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
)

// ScrubReport says how the stream compares with the log, event by event.
type ScrubReport struct {
	Absent bool // there is no stream at all

	Events   uint64 // of the log that belong on the bus
	Messages uint64 // that the server delivered
	Claimed  uint64 // that the server says it holds

	Verified  uint64 // equal in subject, headers and body, and in their place
	Missing   uint64 // an event before the end of the stream has no message
	Altered   uint64 // the message is not what its event maps to
	Doubled   uint64 // the event was there before
	Reordered uint64 // the event is there, but after a later one
	Unknown   uint64 // no event of this log
	Behind    uint64 // events after the end of the stream: not relayed yet, which a relay mends by itself

	First Damage // the first damage found, in the order of the stream
	// Hash is SHA-256 over every message in order, in hex. Two streams with the
	// same hash are the same, whatever their generation.
	Hash string
}

// Damage is one thing wrong with the stream.
type Damage struct {
	What     string // "missing", "altered", ...; "" when there is none
	Sequence uint64 // of the message where it was noticed, 0 where there is none
	Position es.Position
}

// Damaged reports whether the stream needs a rebuild.
func (r ScrubReport) Damaged() bool { return r.Absent || r.First.What != "" }

// Progress hears how far a long command is; total may grow.
type Progress func(done, total uint64)

// Scrub reads the whole stream and compares every message with what the event at
// its log position maps to now. The mapping must be the relays': after a change
// of it the old messages count as altered until a rebuild. It reads beside
// running relays and changes nothing.
//
// A message whose bytes rotted on disk is not delivered by the server, silently:
// it is found as missing. On a cluster it reads one replica, the one that the
// server chose.
func Scrub(ctx context.Context, log es.Log, js jetstream.JetStream, mapping Mapping, progress Progress) (ScrubReport, error) {
	if progress == nil {
		progress = func(uint64, uint64) {}
	}
	s, err := js.Stream(ctx, StreamName)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return ScrubReport{}, fmt.Errorf("scrub: %w", err)
	}
	var last uint64
	c := &comparison{missing: map[es.Position]bool{}, hash: sha256.New()}
	if err != nil {
		c.report.Absent = true
	} else {
		last = s.CachedInfo().State.LastSeq
		c.report.Claimed = s.CachedInfo().State.Msgs
	}
	// The log is read after the end of the stream was taken, so it is not behind.
	ctx, stop := whileConnected(ctx, js.Conn())
	defer stop()
	events := make(chan *expectation, 256)
	var logErr error // written before events is closed
	go func() {
		defer close(events)
		logErr = expectations(ctx, log, mapping, events)
	}()
	if last > 0 {
		r, err := open(ctx, js, "scrub", nil, from{sequence: 1}, generation(s.CachedInfo()))
		if err != nil {
			return c.report, err
		}
		defer r.close()
		for sequence := uint64(0); sequence < last; {
			var m jetstream.Msg
			m, sequence, err = r.next(ctx, 3*heartbeat)
			if errors.Is(err, errIdle) {
				break // the server is there and has no more: the rest is missing
			}
			if err != nil {
				return c.report, fmt.Errorf("scrub: %w", err)
			}
			if sequence > last {
				break
			}
			c.message(m, sequence, events)
			progress(sequence, last)
		}
	}
	// The server says that it holds more than it delivered; what is after that was
	// never relayed.
	lost := last - c.sequence
	for e := c.peek(events); e != nil; e = c.peek(events) {
		c.skip()
		if lost > 0 {
			lost--
			c.report.Missing++
			c.damage("missing", 0, e.position)
		} else {
			c.report.Behind++
		}
	}
	if logErr != nil {
		return c.report, fmt.Errorf("scrub: read the log: %w", logErr)
	}
	c.report.Hash = hex.EncodeToString(c.hash.Sum(nil))
	return c.report, nil
}

// expectation is the message that an event must have.
type expectation struct {
	position es.Position
	msg      *nats.Msg
}

// expectations maps the whole log.
func expectations(ctx context.Context, log es.Log, mapping Mapping, into chan<- *expectation) error {
	m := newMapper(mapping)
	var previous es.Position
	return log.ReadAll(ctx, 0, func(e es.Recorded) error {
		if !m.relays(&e) {
			return nil
		}
		msg, err := m.message(&e, previous)
		if err != nil {
			return err
		}
		previous = e.Position
		select {
		case into <- &expectation{e.Position, msg}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// comparison merges the messages of the stream with those expected, both in
// order of position. It belongs to one goroutine.
type comparison struct {
	report   ScrubReport
	hash     hash.Hash
	next     *expectation         // read from the log and not yet met
	past     es.Position          // of the last expectation passed, met or missing
	missing  map[es.Position]bool // passed without having been met
	sequence uint64               // of the last message
}

func (c *comparison) peek(events <-chan *expectation) *expectation {
	if c.next == nil {
		c.next = <-events // nil at the end
	}
	return c.next
}

func (c *comparison) skip() {
	c.past, c.next = c.next.position, nil
	c.report.Events++
}

func (c *comparison) message(m jetstream.Msg, sequence uint64, events <-chan *expectation) {
	c.report.Messages++
	c.sequence = sequence
	p, err := placeOf(sequence, m.Headers())
	if err != nil {
		c.report.Altered++
		c.damage("altered", sequence, 0)
		return
	}
	c.sum(m)
	e := c.peek(events)
	for e != nil && e.position < p.position {
		c.skip()
		c.report.Missing++
		c.missing[e.position] = true
		c.damage("missing", sequence, e.position)
		e = c.peek(events)
	}
	switch {
	case e != nil && e.position == p.position:
		c.skip()
		if e.msg.Subject == m.Subject() && bytes.Equal(e.msg.Data, m.Data()) && sameHeaders(e.msg.Header, m.Headers()) {
			c.report.Verified++
			return
		}
		c.report.Altered++
		c.damage("altered", sequence, p.position)
	case c.missing[p.position]:
		delete(c.missing, p.position)
		c.report.Missing--
		c.report.Reordered++
		c.damage("reordered", sequence, p.position)
	case p.position <= c.past:
		c.report.Doubled++
		c.damage("doubled", sequence, p.position)
	default:
		c.report.Unknown++
		c.damage("unknown", sequence, p.position)
	}
}

func (c *comparison) damage(what string, sequence uint64, position es.Position) {
	if c.report.First.What == "" {
		c.report.First = Damage{what, sequence, position}
	}
}

// sum adds a message to the hash of the stream, each part with its length.
func (c *comparison) sum(m jetstream.Msg) {
	parts := []string{m.Subject(), string(m.Data())}
	for _, name := range ourHeaders {
		parts = append(parts, header(m.Headers(), name))
	}
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		c.hash.Write(n[:])
		c.hash.Write([]byte(p))
	}
}

// ourHeaders are those that mapping sets; a publish adds those of the fence.
var ourHeaders = [...]string{HeaderContentType, HeaderPosition, HeaderPrevious, HeaderTraceparent}

func sameHeaders(want, got nats.Header) bool {
	pick := func(h nats.Header) map[string]string {
		out := map[string]string{}
		for _, name := range ourHeaders {
			if v, ok := h[name]; ok && len(v) > 0 {
				out[name] = v[0]
			}
		}
		return out
	}
	return maps.Equal(pick(want), pick(got))
}

// Rebuild deletes the stream and fills it again from the log. It may run beside
// live relays, which help, and beside live consumers, which find their place
// again by position. Whoever reads the stream without a checkpoint of ours sees
// every event again. Relays with another mapping must be stopped before.
//
// It is safe to interrupt: any relay goes on where it stopped.
func Rebuild(ctx context.Context, log es.Log, js jetstream.JetStream, mapping Mapping, progress Progress) error {
	if err := js.DeleteStream(ctx, StreamName); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("rebuild: delete the stream: %w", err)
	}
	head, err := log.Head(ctx)
	if err != nil {
		return fmt.Errorf("rebuild: read the head of the log: %w", err)
	}
	r := NewRelay(log, js, RelayOptions{Mapping: mapping})
	if progress != nil {
		r.relayed = func(p es.Position) { progress(uint64(p), uint64(max(head, p))) }
	}
	if err := r.run(ctx, true); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}
