package eventstore

import (
	"context"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// readRequest is a checked Read call.
type readRequest struct {
	stream     string // empty for $all
	backwards  bool
	subscribe  bool
	links      bool // resolve links
	stringIDs  bool
	positions  bool // the client understands first and last stream positions
	count      uint64
	filter     *filter
	start, end bool   // from there; else from at
	at         uint64 // revision or position
}

func parseRead(o *streamspb.ReadReq_Options) (*readRequest, error) {
	r := &readRequest{
		backwards: o.GetReadDirection() == streamspb.ReadReq_Options_Backwards,
		links:     o.GetResolveLinks(),
		positions: o.GetControlOption().GetCompatibility() >= 1,
	}
	switch by := o.GetStreamOption().(type) {
	case *streamspb.ReadReq_Options_Stream:
		var err error
		if r.stream, err = streamName(by.Stream.GetStreamIdentifier()); err != nil {
			return nil, err
		}
		switch from := by.Stream.GetRevisionOption().(type) {
		case *streamspb.ReadReq_Options_StreamOptions_Revision:
			r.at = from.Revision
		case *streamspb.ReadReq_Options_StreamOptions_End:
			r.end = true
		default:
			r.start = true
		}
		if r.at > math.MaxInt64 {
			if r.at != math.MaxUint64 {
				return nil, invalid("the revision is out of range")
			}
			r.end = true
		}
	case *streamspb.ReadReq_Options_All:
		switch from := by.All.GetAllOption().(type) {
		case *streamspb.ReadReq_Options_AllOptions_Position:
			r.at = from.Position.GetCommitPosition()
			if prepare := from.Position.GetPreparePosition(); r.at < prepare {
				return nil, invalid("the commit position is below the prepare position")
			}
		case *streamspb.ReadReq_Options_AllOptions_End:
			r.end = true
		default:
			r.start = true
		}
		if r.at > math.MaxInt64 {
			if r.at != math.MaxUint64 {
				return nil, invalid("the position is out of range")
			}
			r.end = true
		}
	default:
		return nil, invalid("a read is of a stream or of $all")
	}
	switch by := o.GetCountOption().(type) {
	case *streamspb.ReadReq_Options_Count:
		r.count = by.Count
	case *streamspb.ReadReq_Options_Subscription:
		r.subscribe = true
	default:
		return nil, invalid("a read has a count or is a subscription")
	}
	if by, ok := o.GetFilterOption().(*streamspb.ReadReq_Options_Filter); ok {
		if r.stream != "" {
			return nil, invalid("only reads of $all take a filter")
		}
		var err error
		if r.filter, err = newFilter(by.Filter); err != nil {
			return nil, err
		}
	}
	switch o.GetUuidOption().GetContent().(type) {
	case *streamspb.ReadReq_Options_UUIDOption_Structured:
	case *streamspb.ReadReq_Options_UUIDOption_String_:
		r.stringIDs = true
	default:
		return nil, invalid("the UUID option is missing")
	}
	if r.subscribe && r.backwards {
		return nil, invalid("a subscription goes forwards")
	}
	return r, nil
}

// Read serves reads and catch-up subscriptions.
func (s *streams) Read(req *streamspb.ReadReq, stream streamspb.Streams_ReadServer) error {
	ctx := stream.Context()
	r, err := parseRead(req.GetOptions())
	if err != nil {
		return err
	}
	name := r.stream
	if name == "" {
		name = "$all"
	}
	if err := s.node.allow(ctx, name, toRead); err != nil {
		return refuse(ctx, err)
	}
	out := &sender{node: s.node, stream: stream, links: r.links, stringIDs: r.stringIDs}
	switch {
	case r.subscribe:
		err = s.node.subscribe(ctx, r, out)
	case r.stream != "":
		err = s.node.readStream(ctx, r, out)
	default:
		err = s.node.readAll(ctx, r, out)
	}
	return refuse(ctx, err)
}

func (n *Node) readAll(ctx context.Context, r *readRequest, out outlet) error {
	first := uint64(1)
	last, _ := n.log.position()
	switch {
	case r.backwards && r.start, !r.backwards && r.end:
		return nil
	case r.backwards && !r.end:
		last = min(last, max(r.at, 1)-1) // the position given is not read
	case !r.backwards && !r.start:
		first = max(r.at, 1)
	}
	p := out.page()
	for left := r.count; left > 0 && first <= last && ctx.Err() == nil; {
		p.reset()
		err := n.store.all(first, last, r.backwards, func(rec record) bool {
			if r.backwards {
				last = rec.position() - 1
			} else {
				first = rec.position() + 1
			}
			if hidden(rec) || !r.filter.match(rec) {
				return p.pass()
			}
			left--
			return p.add(rec) && left > 0
		})
		if err != nil {
			return err
		}
		if err := out.events(p.records); err != nil {
			return err
		}
		if !p.full {
			break
		}
	}
	return ctx.Err()
}

func (n *Node) readStream(ctx context.Context, r *readRequest, out outlet) error {
	durable, _ := n.log.position()
	h, err := n.store.head(r.stream, durable)
	switch {
	case err != nil:
		return err
	case h.tombstoned:
		return &streamDeleted{r.stream}
	case h.last < 0 || h.deleted():
		return out.message(&streamspb.ReadResp{Content: &streamspb.ReadResp_StreamNotFound_{
			StreamNotFound: &streamspb.ReadResp_StreamNotFound{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(r.stream)}}}})
	case r.end && !r.backwards:
		return invalid("a forward read cannot start at the end")
	}
	first, last := h.first(), h.last
	switch {
	case r.backwards && r.start:
		last = 0
	case r.backwards && !r.end:
		last = min(last, int64(r.at))
	case !r.backwards && !r.start:
		first = max(first, int64(r.at))
	}
	youngest := n.oldest(h)
	sent := uint64(0)
	p := out.page()
	for first <= last && sent < r.count && ctx.Err() == nil {
		p.reset()
		err := n.store.stream(r.stream, first, last, r.backwards, func(rec record) bool {
			if r.backwards {
				last = rec.revision() - 1
			} else {
				first = rec.revision() + 1
			}
			if rec.created() < youngest {
				return p.pass()
			}
			sent++
			return p.add(rec) && sent < r.count
		})
		if err != nil {
			return err
		}
		if err := out.events(p.records); err != nil {
			return err
		}
		if !p.full {
			break
		}
	}
	if err := ctx.Err(); err != nil || !r.positions {
		return err
	}
	return n.streamEnds(r, h, sent, out)
}

// streamEnds tells a client that understands it where the stream begins and ends.
func (n *Node) streamEnds(r *readRequest, h *head, sent uint64, out outlet) error {
	if first := h.first(); sent == 0 && !r.backwards && (r.start || int64(r.at) < first) && first <= h.last {
		if err := out.message(&streamspb.ReadResp{Content: &streamspb.ReadResp_FirstStreamPosition{FirstStreamPosition: uint64(first)}}); err != nil {
			return err
		}
	}
	return out.message(&streamspb.ReadResp{Content: &streamspb.ReadResp_LastStreamPosition{LastStreamPosition: uint64(h.last)}})
}

// oldest is the time, in ticks, from which on $maxAge lets events be seen.
func (n *Node) oldest(h *head) int64 {
	if h.meta.maxAge == 0 {
		return math.MinInt64
	}
	return ticks(n.cfg.Clock()) - int64(h.meta.maxAge/(100*time.Nanosecond))
}

// page holds copies of the records that one scan met, so that the scan's
// iterator is closed while they are sent: a slow reader pins no files.
type page struct {
	records []record
	direct  *direct // who takes copies of what it wants of them, instead
	block   []byte  // memory that copies are cut from; given away once sent
	size    int     // of the next block: it doubles, so that short reads stay cheap
	used    int
	passed  int
	full    bool
}

const (
	firstPage = 8 << 10
	pageBytes = 128 << 10
	// Readers in the process are few, and a scan costs more to begin than a page to keep.
	directBytes = 256 << 10
	pagePass    = 1 << 14 // events passed over before the caller looks up
)

func (p *page) reset() {
	p.records, p.used, p.passed, p.full = p.records[:0], 0, 0, false
	most := pageBytes
	if p.direct != nil {
		most = directBytes
	}
	p.size = min(max(firstPage, p.size*4), most)
}

// add copies a record and reports whether there is room for another.
func (p *page) add(r record) bool {
	if p.direct != nil {
		p.direct.add(r, p.keep)
	} else {
		p.records = append(p.records, p.keep(r))
	}
	p.full = p.used >= p.size
	return !p.full
}

// keep copies bytes.
func (p *page) keep(b []byte) []byte {
	if cap(p.block)-len(p.block) < len(b) {
		p.block = make([]byte, 0, max(p.size, len(b)))
	}
	from := len(p.block)
	p.block = append(p.block, b...)
	p.used += len(b)
	return p.block[from:len(p.block):len(p.block)]
}

// pass counts a record that was not wanted.
func (p *page) pass() bool {
	p.passed++
	p.full = p.passed >= pagePass
	return !p.full
}

// outlet is where a read or a subscription hands on what it finds. The records
// may be kept, the slice may not.
type outlet interface {
	events([]record) error
	message(*streamspb.ReadResp) error
	control(field protowire.Number, body []byte) error // a ReadResp with this one field
	page() page
}

// sender sends events to one reader.
type sender struct {
	node             *Node
	stream           grpc.ServerStream
	links, stringIDs bool
}

func (s *sender) page() page { return page{} }

func (s *sender) message(m *streamspb.ReadResp) error { return s.stream.SendMsg(m) }

// control messages are written by hand because newer clients know fields that the
// stubs do not: the time of checkpoint and caught_up, and where the subscription stands.
func (s *sender) control(field protowire.Number, body []byte) error {
	b := protowire.AppendTag(make([]byte, 0, len(body)+6), field, protowire.BytesType)
	return s.stream.SendMsg(raw(protowire.AppendBytes(b, body)))
}

func (s *sender) events(records []record) error {
	for _, r := range records {
		if err := s.event(r); err != nil {
			return err
		}
	}
	return nil
}

// event passes the stored frame on, unless the reader wants it in another shape.
func (s *sender) event(r record) error {
	if !s.stringIDs && !(s.links && isLink(r)) {
		return s.stream.SendMsg(raw(r.frame()))
	}
	m, err := s.node.readEvent(r, s.links, s.stringIDs)
	if err != nil {
		return err
	}
	return s.message(&streamspb.ReadResp{Content: &streamspb.ReadResp_Event{Event: m}})
}

func isLink(r record) bool { return string(r.typ()) == "$>" }

// readEvent decodes a record. With links, the event of a link is its target,
// which is nil when it cannot be seen (any more).
func (n *Node) readEvent(r record, links, stringIDs bool) (*streamspb.ReadResp_ReadEvent, error) {
	ev, err := decodeEvent(r)
	if err != nil {
		return nil, err
	}
	m := &streamspb.ReadResp_ReadEvent{
		Event:    ev,
		Position: &streamspb.ReadResp_ReadEvent_CommitPosition{CommitPosition: r.position()},
	}
	if links && isLink(r) {
		m.Event, m.Link = nil, ev
		target, err := n.resolve(ev.GetData())
		if err != nil {
			return nil, err
		}
		if target != nil {
			if m.Event, err = decodeEvent(target); err != nil {
				return nil, err
			}
		}
	}
	if stringIDs {
		for _, e := range []*streamspb.ReadResp_ReadEvent_RecordedEvent{m.Event, m.Link} {
			if id, err := parseUUID(e.GetId()); e != nil && err == nil {
				e.Id = uuidMessage(id, true)
			}
		}
	}
	return m, nil
}

// resolve returns the record that a link's data points at, nil when there is
// none that a reader may see.
func (n *Node) resolve(data []byte) (record, error) {
	stream, revision, ok := linkTarget(data)
	if !ok {
		return nil, nil
	}
	durable, _ := n.log.position()
	h, err := n.store.head(stream, durable)
	if err != nil || h.tombstoned || h.deleted() || revision < h.first() || revision > h.last {
		return nil, err
	}
	r, err := n.store.event(stream, revision, durable)
	if err != nil || r == nil || r.created() < n.oldest(h) {
		return nil, err
	}
	return r, nil
}
