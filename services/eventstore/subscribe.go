package eventstore

import (
	"context"
	"math"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
)

// subscription is one catch-up subscription, run by its call's goroutine. It
// takes events from the tail of the log; what the tail no longer holds, at the
// start or because the consumer was slow, it scans from the store. Positions
// have no gaps, so nothing can be missed between the two.
type subscription struct {
	node *Node
	req  *readRequest
	out  outlet

	// considered is the position up to which everything was handed on or passed
	// over.
	considered uint64
	next       int64  // of a stream: the lowest revision still wanted
	scanned    bool   // of a stream: considered holds
	live       bool   // caught_up was sent since the last scan
	since      uint64 // events considered since the last checkpoint
	checkpoint uint64 // position of the last checkpoint
}

func (n *Node) subscribe(ctx context.Context, r *readRequest, out outlet) error {
	s := &subscription{node: n, req: r, out: out}
	durable, _ := n.log.position()
	switch {
	case r.stream != "":
		h, err := n.store.head(r.stream, durable)
		if err != nil {
			return err
		}
		if h.tombstoned {
			return &streamDeleted{r.stream}
		}
		switch {
		case r.end:
			s.considered, s.scanned = durable, true
		case !r.start:
			s.next = int64(min(r.at, math.MaxInt64-1)) + 1
		}
	case r.end:
		s.considered = durable
	case !r.start:
		s.considered = r.at
	}
	s.checkpoint = s.considered
	if err := out.message(&streamspb.ReadResp{Content: &streamspb.ReadResp_Confirmation{
		Confirmation: &streamspb.ReadResp_SubscriptionConfirmation{SubscriptionId: uuid.NewString()}}}); err != nil {
		return err
	}
	return s.run(ctx)
}

func (s *subscription) run(ctx context.Context) error {
	records := make([]record, 0, 64)
	for {
		durable, changed := s.node.log.position()
		if s.considered < durable || s.behind() {
			var ok bool
			records, ok = s.node.log.after(s.considered, cap(records), records[:0])
			if !ok || s.behind() {
				if err := s.catchUp(ctx, durable); err != nil {
					return err
				}
				continue
			}
			for i := range records {
				if err := s.consider(records[i : i+1]); err != nil {
					return err
				}
			}
			clear(records)
			if s.considered < durable {
				continue
			}
		}
		if !s.live {
			if err := s.caughtUp(); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// behind: a stream's past was not scanned yet.
func (s *subscription) behind() bool { return s.req.stream != "" && !s.scanned }

// consider hands on an event that is wanted.
func (s *subscription) consider(one []record) error {
	r := one[0]
	s.considered = r.position()
	if s.req.stream != "" {
		if string(r.stream()) != s.req.stream || r.revision() < s.next {
			return nil
		}
		s.next = r.revision() + 1
		if err := s.out.events(one); err != nil {
			return err
		}
		if r.revision() == tombstoneRevision {
			return &streamDeleted{s.req.stream}
		}
		return nil
	}
	if !hidden(r) && s.req.filter.match(r) {
		if err := s.out.events(one); err != nil {
			return err
		}
	}
	if s.req.filter != nil {
		if s.since++; s.since >= s.req.filter.interval {
			return s.sendCheckpoint()
		}
	}
	return nil
}

// catchUp scans from the store up to a durable position, page by page.
func (s *subscription) catchUp(ctx context.Context, durable uint64) error {
	if s.live && s.req.filter != nil {
		if err := s.sendCheckpoint(); err != nil {
			return err
		}
	}
	s.live = false
	if s.req.stream != "" {
		return s.catchUpStream(ctx, durable)
	}
	p := s.out.page()
	for s.considered < durable {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.reset()
		due := false
		err := s.node.store.all(s.considered+1, durable, false, func(r record) bool {
			s.considered = r.position()
			more := true
			if hidden(r) || !s.req.filter.match(r) {
				more = p.pass()
			} else {
				more = p.add(r)
			}
			if s.req.filter != nil {
				s.since++
				due = s.since >= s.req.filter.interval
			}
			return more && !due
		})
		if err != nil {
			return err
		}
		if !p.full && !due {
			s.considered = durable
		}
		if err := s.out.events(p.records); err != nil {
			return err
		}
		if due {
			if err := s.sendCheckpoint(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *subscription) catchUpStream(ctx context.Context, durable uint64) error {
	h, err := s.node.store.head(s.req.stream, durable)
	if err != nil {
		return err
	}
	if !h.deleted() {
		s.next = max(s.next, h.first())
	} else if !h.tombstoned {
		s.next = max(s.next, h.last+1)
	}
	oldest := s.node.oldest(h)
	p := s.out.page()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.reset()
		err := s.node.store.stream(s.req.stream, s.next, tombstoneRevision, false, func(r record) bool {
			if r.position() > durable {
				return false
			}
			s.next = r.revision() + 1
			if r.created() < oldest {
				return p.pass()
			}
			return p.add(r)
		})
		if err != nil {
			return err
		}
		if err := s.out.events(p.records); err != nil {
			return err
		}
		if h.tombstoned && s.next < 0 { // passed the tombstone
			return &streamDeleted{s.req.stream}
		}
		if !p.full {
			s.considered, s.scanned = max(s.considered, durable), true
			return nil
		}
	}
}

// Fields of ReadResp.
const (
	checkpointField = 3
	caughtUpField   = 8
)

// caughtUp tells the consumer that it has seen all there is.
func (s *subscription) caughtUp() error {
	s.live = true
	if s.req.filter != nil {
		if err := s.sendCheckpoint(); err != nil {
			return err
		}
	}
	now := s.node.cfg.Clock()
	var body []byte
	body = protowire.AppendTag(body, 1, protowire.BytesType)
	body = protowire.AppendBytes(body, timestamp(now.Unix(), int64(now.Nanosecond())))
	switch {
	case s.req.stream == "":
		body = protowire.AppendTag(body, 3, protowire.BytesType)
		body = protowire.AppendBytes(body, position(s.considered))
	case s.next > 0:
		body = protowire.AppendTag(body, 2, protowire.VarintType)
		body = protowire.AppendVarint(body, uint64(s.next-1))
	}
	return s.out.control(caughtUpField, body)
}

// sendCheckpoint sends the position considered last, unless it was sent before.
func (s *subscription) sendCheckpoint() error {
	s.since = 0
	if s.considered <= s.checkpoint {
		return nil
	}
	s.checkpoint = s.considered
	now := s.node.cfg.Clock()
	body := position(s.considered)
	body = protowire.AppendTag(body, 3, protowire.BytesType)
	body = protowire.AppendBytes(body, timestamp(now.Unix(), int64(now.Nanosecond())))
	return s.out.control(checkpointField, body)
}

func position(p uint64) []byte {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, p)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, p)
}

func timestamp(seconds, nanos int64) []byte {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(seconds))
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(nanos))
}
