package eventstore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
)

// A consumerGroup is one persistent subscription: the node remembers how far its
// consumers have come, and hands each event to one of them until it is
// acknowledged, skipped or parked. Delivery is at least once.
//
// One goroutine, run, owns all of its state. Whoever wants something of it sends
// a function on calls.
//
// The group reads ahead from the log, at most as far as its buffer reaches, and
// only while it has consumers. There is no separate live buffer: the log's tail
// is in memory anyway.
type consumerGroup struct {
	node  *Node
	cfg   groupConfig
	match *filter // of $all; nil takes all
	calls chan func()
	stop  context.CancelCauseFunc
	done  chan struct{} // closed when run has ended

	// Owned by run.
	events    source // what is subscribed to
	parked    source // what was parked and is replayed
	ready     []*delivery
	retry     []*delivery // goes out before ready
	consumers []*consumer
	turn      int // of the round robin
	seed      maphash.Seed
	saved     uint64    // everything of events below it is checkpointed
	savedAt   time.Time // of the last checkpoint
	saving    bool      // a checkpoint is on its way
	doneSince int       // messages done since the last checkpoint
	truncated uint64    // the $tb that we gave the parked stream
	delivered int64
	started   time.Time
	measured  int64 // delivered at the last measurement
}

// A source is an ordered place that messages come from.
type source struct {
	stream  string // "" is $all
	next    uint64 // revision, or position in $all, to read next
	end     uint64 // read below it only
	scanned uint64 // durable position at which the stream's end was met
	pending []*delivery
}

// low is the first revision or position that is not done with.
func (s *source) low() uint64 {
	if len(s.pending) > 0 {
		return s.pending[0].at
	}
	return s.next
}

// delivery is an event on its way through the group.
type delivery struct {
	source   *source
	at       uint64 // in source
	id       eventID
	origin   string // "revision@stream" of the event to which a parked link points
	key      string // what the pinned strategies keep together
	resp     *persistentpb.ReadResp
	retries  int
	deadline time.Time // of the acknowledgement; zero is never
	done     bool
}

// A scan looks at this many events at most before the group listens again.
const groupScan = 4096

// run is the group's goroutine. It ends with ctx, whose cause consumers are told.
func (g *consumerGroup) run(ctx context.Context) {
	defer close(g.done)
	tick := time.NewTicker(g.cfg.tick())
	defer tick.Stop()
	always := make(chan struct{})
	close(always)
	for {
		durable, changed := g.node.log.position()
		progress, err := g.fill(durable)
		if err != nil {
			g.node.cfg.Logger.Error("event store: persistent subscription cannot read", "err", err)
			g.dropAll(err)
		}
		if g.dispatch() || progress {
			changed = always
		}
		select {
		case <-ctx.Done():
			g.dropAll(context.Cause(ctx))
			g.saveNow()
			return
		case call := <-g.calls:
			call()
		case <-changed:
		case <-tick.C:
			g.expire()
			g.checkpoint(true)
			g.truncateParked()
		}
	}
}

// do runs call in the group's goroutine and waits for it. It returns an error
// when the group has ended.
func (g *consumerGroup) do(ctx context.Context, call func()) error {
	ran := make(chan struct{})
	select {
	case g.calls <- func() { call(); close(ran) }:
		<-ran
		return nil
	case <-g.done:
		return errDropped(g.cfg.key())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// later runs work, which may block, beside the group, and then its answer in
// the group's goroutine.
func (g *consumerGroup) later(work func() error, then func(error)) {
	go func() {
		err := work()
		select {
		case g.calls <- func() { then(err) }:
		case <-g.done:
		}
	}()
}

// fill reads ahead. It says whether it has come forward.
func (g *consumerGroup) fill(durable uint64) (bool, error) {
	room := g.cfg.BufferSize - len(g.ready) - len(g.retry)
	if len(g.consumers) == 0 || room < min(g.cfg.ReadBatchSize, g.cfg.BufferSize) {
		return false, nil
	}
	batch := min(g.cfg.ReadBatchSize, room)
	before, beforeParked := g.events.next, g.parked.next
	replayed, err := g.read(&g.parked, durable, batch)
	if err != nil {
		return false, err
	}
	g.retry = append(g.retry, replayed...)
	fresh, err := g.read(&g.events, durable, batch)
	if err != nil {
		return false, err
	}
	g.ready = append(g.ready, fresh...)
	return before != g.events.next || beforeParked != g.parked.next, nil
}

// read takes at most so many messages from a source.
func (g *consumerGroup) read(src *source, durable uint64, most int) ([]*delivery, error) {
	var taken []*delivery
	var failed error
	take := func(at uint64, r record) bool {
		m, err := g.delivery(src, at, r)
		if err != nil {
			failed = err
			return false
		}
		taken = append(taken, m)
		src.next = at + 1
		return len(taken) < most
	}
	if src.stream == "" {
		considered := 0
		err := g.node.store.all(src.next, durable, false, func(r record) bool {
			considered++
			if hidden(r) || !g.match.match(r) {
				src.next = r.position() + 1
				return considered < groupScan
			}
			return take(r.position(), r) && considered < groupScan
		})
		src.pending = append(src.pending, taken...)
		return taken, cmp.Or(err, failed)
	}
	if src.next >= src.end || src.scanned == durable {
		return nil, nil
	}
	h, err := g.node.store.head(src.stream, durable)
	if err != nil {
		return nil, err
	}
	met := true // the end of the stream
	if h.last >= 0 && !h.tombstoned && !h.deleted() {
		src.next = max(src.next, uint64(h.first()))
		oldest := g.node.oldest(h)
		err = g.node.store.stream(src.stream, int64(src.next), min(h.last, int64(src.end-1)), false, func(r record) bool {
			if r.created() < oldest {
				src.next = uint64(r.revision()) + 1
				return true
			}
			met = take(uint64(r.revision()), r)
			return met
		})
	}
	if met {
		src.scanned = durable
	}
	src.pending = append(src.pending, taken...)
	return taken, cmp.Or(err, failed)
}

// delivery makes the message of a record, with its link resolved where asked.
func (g *consumerGroup) delivery(src *source, at uint64, r record) (*delivery, error) {
	m := &delivery{
		source: src, at: at, id: r.id(), resp: new(persistentpb.ReadResp),
		origin: fmt.Sprintf("%d@%s", r.revision(), r.stream()),
		key:    string(r.stream()),
	}
	// Both services' responses have the same fields up to the retry count.
	if err := proto.Unmarshal(r.frame(), m.resp); err != nil {
		return nil, fmt.Errorf("frame at position %d: %w", r.position(), err)
	}
	ev := m.resp.GetEvent()
	if isLink(r) && (g.cfg.ResolveLinks || src == &g.parked) {
		link := ev.Event
		ev.Event, ev.Link = nil, link
		if src == &g.parked {
			m.origin = string(link.GetData())
		}
		target, err := g.node.resolve(link.GetData())
		if err != nil {
			return nil, err
		}
		if target != nil {
			var resolved persistentpb.ReadResp
			if err := proto.Unmarshal(target.frame(), &resolved); err != nil {
				return nil, fmt.Errorf("frame at position %d: %w", target.position(), err)
			}
			ev.Event, m.key = resolved.GetEvent().GetEvent(), string(target.stream())
		}
	}
	if g.cfg.Strategy == pinnedByCorrelation {
		var meta struct {
			ID string `json:"$correlationId"`
		}
		if json.Unmarshal(ev.GetEvent().GetCustomMetadata(), &meta) == nil && meta.ID != "" {
			m.key = meta.ID
		}
	}
	return m, nil
}

// dispatch hands out what consumers have room for.
func (g *consumerGroup) dispatch() (progress bool) {
	retried, fresh := len(g.retry), len(g.ready)
	g.retry = g.handOut(g.retry)
	g.ready = g.handOut(g.ready)
	return len(g.retry) < retried || len(g.ready) < fresh
}

func (g *consumerGroup) handOut(queue []*delivery) []*delivery {
	kept := queue[:0]
	for i, m := range queue {
		if !slices.ContainsFunc(g.consumers, (*consumer).free) {
			kept = append(kept, queue[i:]...)
			break
		}
		if c := g.choose(m); c != nil {
			g.send(c, m)
		} else {
			kept = append(kept, m)
		}
	}
	clear(queue[len(kept):])
	return kept
}

func (g *consumerGroup) send(c *consumer, m *delivery) {
	if g.cfg.MessageTimeout > 0 {
		m.deadline = g.node.cfg.Clock().Add(time.Duration(g.cfg.MessageTimeout) * time.Millisecond)
	}
	c.inFlight[m.id] = m
	c.delivered++
	g.delivered++
	ev := m.resp.GetEvent()
	c.out <- &persistentpb.ReadResp{Content: &persistentpb.ReadResp_Event{Event: &persistentpb.ReadResp_ReadEvent{
		Event: ev.Event, Link: ev.Link, Position: ev.Position,
		Count: &persistentpb.ReadResp_ReadEvent_RetryCount{RetryCount: int32(m.retries)},
	}}}
}

// connect adds a consumer.
func (g *consumerGroup) connect(c *consumer) error {
	if most := g.cfg.MaxSubscribers; most > 0 && len(g.consumers) >= most {
		return &groupError{maximumSubscribersReached, g.cfg.key(), "maximum subscriptions reached"}
	}
	g.consumers = append(g.consumers, c)
	return nil
}

// disconnect takes a consumer away, and tries elsewhere what it had in flight.
func (g *consumerGroup) disconnect(c *consumer, why error) {
	i := slices.Index(g.consumers, c)
	if i < 0 {
		return
	}
	g.consumers = slices.Delete(g.consumers, i, i+1)
	c.err = why
	close(c.dropped)
	var lost []*delivery
	for _, m := range c.inFlight {
		lost = append(lost, m)
	}
	slices.SortFunc(lost, func(a, b *delivery) int { return cmp.Compare(a.at, b.at) })
	for _, m := range lost {
		g.again(m, "the consumer was lost")
	}
	clear(c.inFlight)
}

func (g *consumerGroup) dropAll(why error) {
	for len(g.consumers) > 0 {
		g.disconnect(g.consumers[0], why)
	}
}

// take removes a message from what the consumer has in flight; nil when it has
// not got it, or no longer.
func (g *consumerGroup) take(c *consumer, id eventID) *delivery {
	m := c.inFlight[id]
	delete(c.inFlight, id)
	return m
}

func (g *consumerGroup) ack(c *consumer, ids []eventID) {
	for _, id := range ids {
		if m := g.take(c, id); m != nil {
			g.finish(m)
		}
	}
	g.checkpoint(false)
}

func (g *consumerGroup) nack(c *consumer, ids []eventID, action persistentpb.ReadReq_Nack_Action, reason string) {
	if action == persistentpb.ReadReq_Nack_Stop {
		return
	}
	for _, id := range ids {
		m := g.take(c, id)
		switch {
		case m == nil:
		case action == persistentpb.ReadReq_Nack_Park:
			g.park(m, reason)
		case action == persistentpb.ReadReq_Nack_Skip:
			g.finish(m)
		default:
			g.again(m, reason)
		}
	}
	g.checkpoint(false)
}

// again sends a message once more, or parks it when that has been tried enough.
func (g *consumerGroup) again(m *delivery, reason string) {
	if m.retries >= g.cfg.MaxRetries {
		g.park(m, fmt.Sprintf("%s; retried %d times", reason, m.retries))
		return
	}
	m.retries++
	g.retry = append(g.retry, m)
}

// park puts a message aside. It is done with once its link is durable; until
// then no checkpoint passes it.
func (g *consumerGroup) park(m *delivery, reason string) {
	metadata, err := json.Marshal(struct {
		Added  time.Time `json:"added"`
		Reason string    `json:"reason"`
	}{g.node.cfg.Clock().UTC(), reason})
	if err != nil {
		metadata = nil
	}
	stream := g.cfg.key().parked()
	link := proposed{id: eventID(uuid.New()), typ: "$>", metadata: metadata, data: []byte(m.origin)}
	g.later(func() error { return g.write(stream, link) }, func(err error) {
		if err == nil {
			g.finish(m)
			g.checkpoint(false)
			return
		}
		g.node.cfg.Logger.Warn("event store: message cannot be parked, it is tried again", "err", err)
		g.retry = append(g.retry, m)
	})
}

// finish is the end of a message.
func (g *consumerGroup) finish(m *delivery) {
	m.done, m.resp = true, nil
	src := m.source
	for len(src.pending) > 0 && src.pending[0].done {
		src.pending = src.pending[1:]
	}
	if src == &g.events {
		g.doneSince++
	}
}

// expire tries again what was not acknowledged in time.
func (g *consumerGroup) expire() {
	now := g.node.cfg.Clock()
	for _, c := range g.consumers {
		var late []*delivery
		for _, m := range c.inFlight {
			if !m.deadline.IsZero() && now.After(m.deadline) {
				late = append(late, m)
			}
		}
		slices.SortFunc(late, func(a, b *delivery) int { return cmp.Compare(a.at, b.at) })
		for _, m := range late {
			delete(c.inFlight, m.id)
			g.again(m, "the consumer did not answer in time")
		}
	}
}

// checkpoint saves how far the group has come when that is due: after the
// greatest number of messages, or on a tick after the time and the least number.
func (g *consumerGroup) checkpoint(tick bool) {
	due := g.doneSince >= max(g.cfg.MaxCheckpoint, 1) ||
		tick && g.doneSince >= max(g.cfg.MinCheckpoint, 1) &&
			g.node.cfg.Clock().Sub(g.savedAt) >= time.Duration(g.cfg.CheckpointAfter)*time.Millisecond
	low := g.events.low()
	if !due || g.saving || low == g.saved {
		return
	}
	g.saving = true
	done := g.doneSince
	g.later(func() error { return g.writeCheckpoint(low) }, func(err error) {
		g.saving, g.savedAt = false, g.node.cfg.Clock()
		if err != nil {
			g.node.cfg.Logger.Warn("event store: checkpoint cannot be saved, it is tried again", "err", err)
			return
		}
		g.saved = low
		g.doneSince -= done
		g.checkpoint(false)
	})
}

// saveNow saves the last checkpoint of a group that ends.
func (g *consumerGroup) saveNow() {
	if low := g.events.low(); low > g.saved && g.doneSince > 0 {
		if err := g.writeCheckpoint(low); err != nil {
			g.node.cfg.Logger.Warn("event store: last checkpoint is not saved, some events will come again", "err", err)
		}
	}
}

// writeCheckpoint records that everything below low is done with.
func (g *consumerGroup) writeCheckpoint(low uint64) error {
	data := strconv.AppendQuote(nil, g.cfg.place(low-1))
	stream := g.cfg.key().checkpoint()
	return g.write(stream, proposed{id: eventID(uuid.New()), typ: "$SubscriptionCheckpoint", json: true, data: data})
}

// replay sends parked messages again: those below stopAt that are there now.
func (g *consumerGroup) replay(stopAt uint64) error {
	durable, _ := g.node.log.position()
	h, err := g.node.store.head(g.parked.stream, durable)
	if err != nil || h.deleted() {
		return err
	}
	g.truncated = max(g.truncated, uint64(h.first()))
	g.parked.next = max(g.parked.next, uint64(h.first()))
	g.parked.end = max(g.parked.end, min(stopAt, uint64(h.last+1)))
	g.parked.scanned = 0
	return nil
}

// truncateParked hides the parked messages that were replayed and are done with.
func (g *consumerGroup) truncateParked() {
	low := g.parked.low()
	if low <= g.truncated || g.parked.end == 0 {
		return
	}
	before := g.truncated
	g.truncated = low
	stream := metastreamOf(g.parked.stream)
	ev := proposed{id: eventID(uuid.New()), typ: "$metadata", json: true, data: fmt.Appendf(nil, `{"$tb":%d}`, low)}
	g.later(func() error { return g.write(stream, ev) }, func(err error) {
		if err != nil {
			g.node.cfg.Logger.Warn("event store: replayed messages stay parked, they may come again", "err", err)
			g.truncated = before
		}
	})
}

func (g *consumerGroup) write(stream string, ev proposed) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := g.node.seq.do(&write{ctx: ctx, stream: stream, expected: expectAny, events: []proposed{ev}})
	return err
}

// info describes the group.
func (g *consumerGroup) info() (*persistentpb.SubscriptionInfo, error) {
	durable, _ := g.node.log.position()
	info := g.cfg.info()
	last := int64(durable)
	if g.cfg.Stream != allStream {
		h, err := g.node.store.head(g.cfg.Stream, durable)
		if err != nil {
			return nil, err
		}
		last = h.last
	}
	info.Status = "Live"
	if last >= 0 {
		info.LastKnownEventPosition = g.cfg.place(uint64(last))
		if g.events.next <= uint64(last) {
			info.Status = "CatchingUp"
		}
	}
	if g.saved > 0 {
		info.LastCheckpointedEventPosition = g.cfg.place(g.saved - 1)
	}
	h, err := g.node.store.head(g.parked.stream, durable)
	if err != nil {
		return nil, err
	}
	if first := max(uint64(max(h.first(), 0)), g.parked.next); !h.deleted() && uint64(h.last+1) > first {
		info.ParkedMessageCount = h.last + 1 - int64(first)
	}
	seconds := max(int64(g.node.cfg.Clock().Sub(g.started)/time.Second), 1)
	info.TotalItems = g.delivered
	info.AveragePerSecond = int32(g.delivered / seconds)
	info.CountSinceLastMeasurement = g.delivered - g.measured
	g.measured = g.delivered
	info.ReadBufferCount = int32(len(g.ready))
	info.RetryBufferCount = int32(len(g.retry))
	info.OutstandingMessagesCount = int32(len(g.events.pending) + len(g.parked.pending))
	for _, c := range g.consumers {
		info.TotalInFlightMessages += int32(len(c.inFlight))
		info.Connections = append(info.Connections, &persistentpb.SubscriptionInfo_ConnectionInfo{
			From: c.address, Username: c.user, ConnectionName: c.name,
			AverageItemsPerSecond:     int32(c.delivered / seconds),
			TotalItems:                c.delivered,
			CountSinceLastMeasurement: c.delivered - c.measured,
			AvailableSlots:            int32(c.size - len(c.inFlight)),
			InFlightMessages:          int32(len(c.inFlight)),
		})
		c.measured = c.delivered
	}
	return info, nil
}
