package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"waymark/services/kit/planted"
)

const (
	// A batch costs about four flushes of the disk, a single one: from here on a
	// batch is cheaper.
	batchFrom = 8
	// The server takes 1000 messages a batch; half of it keeps a batch small
	// enough to be repeated.
	batchMax = 500
	// batchBytes keeps a batch well below the connection's buffers.
	batchBytes = 4 << 20
)

// errFenced says that the stream was not where the publish expected it: another
// relay wrote. Of a batch nothing was stored, of singles perhaps some, in place.
var errFenced = errors.New("another relay has written to the stream")

// ServerRefusal is JetStream's refusal of a publish.
type ServerRefusal struct {
	Code        int // JetStream error code
	Description string
}

func (e *ServerRefusal) Error() string {
	return fmt.Sprintf("publish refused by the server: %s (%d)", e.Description, e.Code)
}

// fatal reports whether repeating the publish can never help: the batch is put
// together wrongly. (10176, an incomplete batch, is not among them: a server
// that restarts within a batch says so.)
func (e *ServerRefusal) fatal() bool {
	switch e.Code {
	case 10174, 10175, 10177, 10179, 10199, 10200, 10201:
		return true
	}
	return false
}

// publisher sends messages that expect to follow a sequence. It belongs to one
// goroutine.
type publisher struct {
	nc      *nats.Conn
	timeout time.Duration
	inbox   string
	acks    *nats.Subscription
	sent    uint64 // replies asked for so far; names the reply subjects
	unsafe  bool   // planted bug, tests only: trust message ids, expect nothing
}

func newPublisher(nc *nats.Conn, timeout time.Duration) (*publisher, error) {
	p := &publisher{nc: nc, timeout: timeout, inbox: nc.NewInbox()}
	var err error
	p.acks, err = nc.SubscribeSync(p.inbox + ".*")
	if err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	return p, nil
}

func (p *publisher) close() { _ = p.acks.Unsubscribe() }

// publish stores msgs right after sequence last, in order, and returns when they
// are durable. errFenced: the fence held. Any other error: some, all or none
// were stored, and only the tail of the stream tells.
func (p *publisher) publish(ctx context.Context, last uint64, msgs []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if p.unsafe {
		return p.trusting(ctx, msgs)
	}
	if len(msgs) >= batchFrom {
		return p.batch(ctx, last, msgs)
	}
	return p.singles(ctx, last, msgs)
}

// singles sends every message before the first answer. Message i is stored only
// where the stream holds exactly the i messages that it expects, which are the
// same whoever wrote them. So a refused one does not always stop those after it
// (another relay may just have written the same message), and that is right.
func (p *publisher) singles(ctx context.Context, last uint64, msgs []*nats.Msg) error {
	first := p.sent
	for i, m := range msgs {
		if err := p.send(m, last+uint64(i)); err != nil {
			return err
		}
	}
	for i := range msgs {
		if err := p.await(ctx, first+uint64(i), last+uint64(i)+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) send(m *nats.Msg, expected uint64) error {
	out := withHeaders(m, "Nats-Expected-Last-Sequence", strconv.FormatUint(expected, 10))
	if planted.Is("relay without fence") {
		out = withHeaders(m)
	}
	out.Reply = p.reply()
	return p.nc.PublishMsg(out)
}

// batch stores all messages or none (ADR-50): only the last asks for an answer.
func (p *publisher) batch(ctx context.Context, last uint64, msgs []*nats.Msg) error {
	id := uuid.NewString()
	answer := p.sent
	for i, m := range msgs {
		out := withHeaders(m, "Nats-Batch-Id", id, "Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i == 0 && !planted.Is("relay without fence") {
			out.Header["Nats-Expected-Last-Sequence"] = []string{strconv.FormatUint(last, 10)}
		}
		if i == len(msgs)-1 {
			out.Header["Nats-Batch-Commit"] = []string{"1"}
			out.Reply = p.reply()
		}
		if err := p.nc.PublishMsg(out); err != nil {
			return err
		}
	}
	return p.await(ctx, answer, last+uint64(len(msgs)))
}

// trusting is how not to do it: a control for the tests.
func (p *publisher) trusting(ctx context.Context, msgs []*nats.Msg) error {
	first := p.sent
	for _, m := range msgs {
		out := withHeaders(m, nats.MsgIdHdr, header(m.Header, HeaderPosition))
		out.Reply = p.reply()
		if err := p.nc.PublishMsg(out); err != nil {
			return err
		}
	}
	for i := range msgs {
		if err := p.await(ctx, first+uint64(i), 0); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) reply() string {
	p.sent++
	return p.inbox + "." + strconv.FormatUint(p.sent-1, 10)
}

// await waits for answer number n, which must acknowledge the sequence.
func (p *publisher) await(ctx context.Context, n, sequence uint64) error {
	want := p.inbox + "." + strconv.FormatUint(n, 10)
	for {
		m, err := p.acks.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("wait for the acknowledgement: %w", err)
		}
		if m.Subject != want {
			continue // of a publish given up earlier
		}
		if header(m.Header, "Status") == "503" {
			return nats.ErrNoResponders
		}
		var ack struct {
			Error *struct {
				Code        int    `json:"err_code"`
				Description string `json:"description"`
			} `json:"error"`
			Stream    string `json:"stream"`
			Sequence  uint64 `json:"seq"`
			Duplicate bool   `json:"duplicate"`
		}
		if err := json.Unmarshal(m.Data, &ack); err != nil {
			return fmt.Errorf("the acknowledgement cannot be read: %w", err)
		}
		switch {
		case ack.Error != nil && (ack.Error.Code == 10071 || ack.Error.Code == 10164):
			return errFenced
		case ack.Error != nil:
			return &ServerRefusal{ack.Error.Code, ack.Error.Description}
		case ack.Stream != StreamName:
			return fmt.Errorf("stream %q answered", ack.Stream)
		case p.unsafe:
			return nil
		case ack.Duplicate || ack.Sequence != sequence:
			return fmt.Errorf("acknowledged sequence %d (duplicate %t), expected %d", ack.Sequence, ack.Duplicate, sequence)
		}
		return nil
	}
}

// withHeaders copies the message, which may be sent again, with more headers.
func withHeaders(m *nats.Msg, pairs ...string) *nats.Msg {
	out := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: make(nats.Header, len(m.Header)+4)}
	for k, v := range m.Header {
		out.Header[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		out.Header[pairs[i]] = []string{pairs[i+1]}
	}
	return out
}
