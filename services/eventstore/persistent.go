package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// persistent serves persistent subscriptions: it keeps the list of groups and
// their configuration, and connects clients to them.
type persistent struct {
	persistentpb.UnimplementedPersistentSubscriptionsServer
	node *Node

	// mu is held while the configuration changes, the write of it included.
	mu      sync.Mutex
	configs map[groupKey]groupConfig // guarded by mu; what is stored
	groups  map[groupKey]*consumerGroup
	closed  bool // guarded by mu
}

// groupError is an answer about a group that clients understand by its trailer.
type groupError struct {
	kind groupErrorKind
	key  groupKey
	text string
}

type groupErrorKind struct {
	code      codes.Code
	exception string
}

var (
	groupExists               = groupErrorKind{codes.AlreadyExists, "persistent-subscription-exists"}
	groupUnknown              = groupErrorKind{codes.NotFound, "persistent-subscription-does-not-exist"}
	groupFailed               = groupErrorKind{codes.Internal, "persistent-subscription-failed"}
	groupDropped              = groupErrorKind{codes.Canceled, "persistent-subscription-dropped"}
	maximumSubscribersReached = groupErrorKind{codes.FailedPrecondition, "maximum-subscribers-reached"}
)

func (e *groupError) Error() string { return e.text }

func errDropped(key groupKey) error {
	return &groupError{groupDropped, key, "persistent subscription was dropped"}
}

func errUnknown(key groupKey) error {
	return &groupError{groupUnknown, key, "persistent subscription does not exist"}
}

func refuseGroup(ctx context.Context, err error) error {
	var e *groupError
	if !errors.As(err, &e) {
		return refuse(ctx, err)
	}
	// It fails only when the call has ended; then nobody reads trailers.
	_ = grpc.SetTrailer(ctx, metadata.Pairs("exception", e.kind.exception,
		"stream-name", headerText(e.key.stream), "group-name", headerText(e.key.group), "reason", headerText(e.text)))
	return status.Error(e.kind.code, e.text)
}

// mayManage lets those manage groups who may write their configuration.
func (p *persistent) mayManage(ctx context.Context) error {
	return p.node.allow(ctx, configStream, toWrite)
}

// newPersistent starts the groups that are stored.
func newPersistent(n *Node) (*persistent, error) {
	p := &persistent{node: n}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p, p.start()
}

// start reads the configuration and starts its groups. Callers hold mu.
func (p *persistent) start() error {
	p.configs, p.groups = map[groupKey]groupConfig{}, map[groupKey]*consumerGroup{}
	last, err := p.last(configStream)
	if err != nil || last == nil {
		return err
	}
	ev, err := decodeEvent(last)
	if err != nil {
		return err
	}
	var stored groupConfigs
	if err := json.Unmarshal(ev.GetData(), &stored); err != nil {
		return fmt.Errorf("%s: %w", configStream, err)
	}
	for _, cfg := range stored.Entries {
		g, err := p.run(cfg)
		if err != nil {
			return err
		}
		p.configs[cfg.key()], p.groups[cfg.key()] = cfg, g
	}
	return nil
}

// last returns a copy of the last visible record of a stream, nil when there is none.
func (p *persistent) last(stream string) (record, error) {
	durable, _ := p.node.log.position()
	h, err := p.node.store.head(stream, durable)
	if err != nil || h.last < h.first() || h.tombstoned {
		return nil, err
	}
	return p.node.store.event(stream, h.last, durable)
}

// run starts a group from its checkpoint.
func (p *persistent) run(cfg groupConfig) (*consumerGroup, error) {
	match, err := cfg.Filter.compile()
	if err != nil {
		return nil, err
	}
	from := cfg.From
	checkpoint, err := p.last(cfg.key().checkpoint())
	if err != nil {
		return nil, err
	}
	if checkpoint != nil {
		ev, err := decodeEvent(checkpoint)
		if err != nil {
			return nil, err
		}
		at, err := cfg.parsePlace(string(ev.GetData()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.key().checkpoint(), err)
		}
		from = at + 1
	}
	n := p.node
	ctx, stop := context.WithCancelCause(context.Background())
	g := &consumerGroup{
		node: n, cfg: cfg, match: match,
		calls: make(chan func()), stop: stop, done: make(chan struct{}),
		seed: maphash.MakeSeed(), started: n.cfg.Clock(), savedAt: n.cfg.Clock(),
		saved:  from,
		events: source{stream: cfg.Stream, next: from, end: tombstoneRevision},
		parked: source{stream: cfg.key().parked()},
	}
	if checkpoint == nil {
		g.saved = 0
	}
	if cfg.Stream == allStream {
		g.events.stream = ""
	}
	go g.run(ctx)
	return g, nil
}

// halt ends a group and waits for it.
func halt(g *consumerGroup, why error) {
	if g != nil {
		g.stop(why)
		<-g.done
	}
}

// close ends all groups, each with a last checkpoint.
func (p *persistent) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, g := range p.groups {
		halt(g, errClosed)
	}
	p.groups = nil
}

func (p *persistent) group(key groupKey) (*consumerGroup, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch g := p.groups[key]; {
	case p.closed:
		return nil, errClosed
	case g == nil:
		return nil, errUnknown(key)
	default:
		return g, nil
	}
}

// store writes the configuration with key set to cfg, or without it when cfg is
// nil. Callers hold mu.
func (p *persistent) store(ctx context.Context, key groupKey, cfg *groupConfig) error {
	stored := groupConfigs{Version: "2", Updated: p.node.cfg.Clock().UTC()}
	for k, c := range p.configs {
		if k != key {
			stored.Entries = append(stored.Entries, c)
		}
	}
	if cfg != nil {
		stored.Entries = append(stored.Entries, *cfg)
	}
	slices.SortFunc(stored.Entries, func(a, b groupConfig) int { return a.key().compare(b.key()) })
	data, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	if len(data) > maxEventSize {
		return &groupError{groupFailed, key, "there are too many persistent subscriptions"}
	}
	_, err = p.node.seq.do(&write{ctx: ctx, stream: configStream, expected: expectAny, events: []proposed{
		{id: eventID(uuid.New()), typ: "$PersistentConfig", json: true, data: data}}})
	if err != nil {
		return err
	}
	if cfg != nil {
		p.configs[key] = *cfg
	} else {
		delete(p.configs, key)
	}
	return nil
}

// forget hides what an older group of that name has left.
func (p *persistent) forget(ctx context.Context, key groupKey) error {
	for _, stream := range []string{key.checkpoint(), key.parked()} {
		last, err := p.last(stream)
		if err != nil {
			return err
		}
		if last == nil {
			continue
		}
		if _, err := p.node.seq.do(&write{ctx: ctx, kind: softDelete, stream: stream, expected: expectAny}); err != nil {
			return err
		}
	}
	return nil
}

// Create makes a group.
func (p *persistent) Create(ctx context.Context, req *persistentpb.CreateReq) (*persistentpb.CreateResp, error) {
	// An UpdateReq is a CreateReq without a filter and a few newer fields, with
	// the same numbers; so one reader serves both.
	return &persistentpb.CreateResp{}, refuseGroup(ctx, p.set(ctx, req, false))
}

// Update replaces a group's configuration and drops its consumers.
func (p *persistent) Update(ctx context.Context, req *persistentpb.UpdateReq) (*persistentpb.UpdateResp, error) {
	b, err := proto.Marshal(req)
	create := new(persistentpb.CreateReq)
	if err == nil {
		err = proto.Unmarshal(b, create)
	}
	if err == nil {
		err = p.set(ctx, create, true)
	}
	return &persistentpb.UpdateResp{}, refuseGroup(ctx, err)
}

func (p *persistent) set(ctx context.Context, req *persistentpb.CreateReq, update bool) error {
	if err := p.mayManage(ctx); err != nil {
		return err
	}
	cfg, err := newGroupConfig(req.GetOptions())
	if err != nil {
		return err
	}
	key := cfg.key()
	p.mu.Lock()
	defer p.mu.Unlock()
	old, exists := p.configs[key]
	switch {
	case p.closed:
		return errClosed
	case update && !exists:
		return errUnknown(key)
	case !update && exists:
		return &groupError{groupExists, key, "persistent subscription exists already"}
	}
	if update {
		cfg.Filter = old.Filter // it cannot be changed
	}
	if _, err := cfg.Filter.compile(); err != nil {
		return err
	}
	if cfg.StartFrom == "-1" {
		durable, _ := p.node.log.position()
		cfg.From = durable + 1
		if cfg.Stream != allStream {
			h, err := p.node.store.head(cfg.Stream, durable)
			if err != nil {
				return err
			}
			cfg.From = uint64(h.last + 1)
		}
	}
	if !update {
		if err := p.forget(ctx, key); err != nil {
			return err
		}
	}
	if err := p.store(ctx, key, &cfg); err != nil {
		return err
	}
	halt(p.groups[key], errDropped(key))
	delete(p.groups, key)
	g, err := p.run(cfg)
	if err == nil {
		p.groups[key] = g
	}
	return err
}

// Delete ends a group and forgets how far it had come.
func (p *persistent) Delete(ctx context.Context, req *persistentpb.DeleteReq) (*persistentpb.DeleteResp, error) {
	o := req.GetOptions()
	key, err := newGroupKey(o.GetStreamIdentifier(), o.GetAll(), o.GetGroupName())
	if err == nil {
		err = p.delete(ctx, key)
	}
	return &persistentpb.DeleteResp{}, refuseGroup(ctx, err)
}

func (p *persistent) delete(ctx context.Context, key groupKey) error {
	if err := p.mayManage(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	if _, ok := p.configs[key]; !ok {
		return errUnknown(key)
	}
	if err := p.store(ctx, key, nil); err != nil {
		return err
	}
	halt(p.groups[key], errDropped(key))
	delete(p.groups, key)
	return p.forget(ctx, key)
}

// GetInfo describes one group.
func (p *persistent) GetInfo(ctx context.Context, req *persistentpb.GetInfoReq) (*persistentpb.GetInfoResp, error) {
	o := req.GetOptions()
	key, err := newGroupKey(o.GetStreamIdentifier(), o.GetAll(), o.GetGroupName())
	if err != nil {
		return nil, err
	}
	g, err := p.group(key)
	if err != nil {
		return nil, refuseGroup(ctx, err)
	}
	info, err := describe(ctx, g)
	return &persistentpb.GetInfoResp{SubscriptionInfo: info}, refuseGroup(ctx, err)
}

func describe(ctx context.Context, g *consumerGroup) (info *persistentpb.SubscriptionInfo, err error) {
	if stopped := g.do(ctx, func() { info, err = g.info() }); stopped != nil {
		return nil, stopped
	}
	return info, err
}

// List describes all groups, or those of one stream.
func (p *persistent) List(ctx context.Context, req *persistentpb.ListReq) (*persistentpb.ListResp, error) {
	o := req.GetOptions()
	var only *groupKey
	switch by := o.GetListOption().(type) {
	case *persistentpb.ListReq_Options_ListAllSubscriptions:
	case *persistentpb.ListReq_Options_ListForStream:
		key, err := newGroupKey(by.ListForStream.GetStream(), by.ListForStream.GetAll(), "any")
		if err != nil {
			return nil, err
		}
		only = &key
	default:
		return nil, invalid("list_option is required")
	}
	p.mu.Lock()
	var groups []*consumerGroup
	for key, g := range p.groups {
		if only == nil || key.stream == only.stream {
			groups = append(groups, g)
		}
	}
	p.mu.Unlock()
	if only != nil && len(groups) == 0 {
		return nil, refuseGroup(ctx, errUnknown(*only))
	}
	slices.SortFunc(groups, func(a, b *consumerGroup) int { return a.cfg.key().compare(b.cfg.key()) })
	resp := &persistentpb.ListResp{}
	for _, g := range groups {
		info, err := describe(ctx, g)
		if err != nil {
			return nil, refuseGroup(ctx, err)
		}
		resp.Subscriptions = append(resp.Subscriptions, info)
	}
	return resp, nil
}

// ReplayParked sends the parked messages of a group again.
func (p *persistent) ReplayParked(ctx context.Context, req *persistentpb.ReplayParkedReq) (*persistentpb.ReplayParkedResp, error) {
	o := req.GetOptions()
	key, err := newGroupKey(o.GetStreamIdentifier(), o.GetAll(), o.GetGroupName())
	if err != nil {
		return nil, err
	}
	stopAt := uint64(math.MaxInt64)
	if by, ok := o.GetStopAtOption().(*persistentpb.ReplayParkedReq_Options_StopAt); ok {
		if by.StopAt < 0 {
			return nil, invalid("stop_at must not be negative")
		}
		stopAt = uint64(by.StopAt)
	}
	if err := p.mayManage(ctx); err != nil {
		return nil, refuse(ctx, err)
	}
	g, err := p.group(key)
	if err == nil {
		if stopped := g.do(ctx, func() { err = g.replay(stopAt) }); stopped != nil {
			err = stopped
		}
	}
	return &persistentpb.ReplayParkedResp{}, refuseGroup(ctx, err)
}

// RestartSubsystem ends all groups and starts them from what is stored.
func (p *persistent) RestartSubsystem(ctx context.Context, _ *shared.Empty) (*shared.Empty, error) {
	if err := p.mayManage(ctx); err != nil {
		return nil, refuse(ctx, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, refuse(ctx, errClosed)
	}
	for key, g := range p.groups {
		halt(g, errDropped(key))
	}
	return &shared.Empty{}, refuse(ctx, p.start())
}

// Read connects a client to a group, until either goes.
func (p *persistent) Read(stream persistentpb.PersistentSubscriptions_ReadServer) error {
	return refuseGroup(stream.Context(), p.read(stream))
}

func (p *persistent) read(stream persistentpb.PersistentSubscriptions_ReadServer) error {
	req, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	o := req.GetOptions()
	if o == nil {
		return invalid("the first message must hold the options")
	}
	key, err := newGroupKey(o.GetStreamIdentifier(), o.GetAll(), o.GetGroupName())
	if err != nil {
		return err
	}
	if o.GetBufferSize() <= 0 || o.GetBufferSize() > maxConsumerBuffer {
		return invalid(fmt.Sprintf("buffer_size must be from 1 to %d", maxConsumerBuffer))
	}
	ctx := stream.Context()
	if err := p.node.allow(ctx, key.stream, toRead); err != nil {
		return err
	}
	g, err := p.group(key)
	if err != nil {
		return err
	}
	c := &consumer{
		id: uuid.NewString(), size: int(o.GetBufferSize()),
		out: make(chan *persistentpb.ReadResp, o.GetBufferSize()), dropped: make(chan struct{}),
		inFlight: map[eventID]*delivery{},
	}
	c.user, _ = ctx.Value(userKey{}).(string)
	if from, ok := peer.FromContext(ctx); ok {
		c.address = from.Addr.String()
	}
	if name := metadata.ValueFromIncomingContext(ctx, "connection-name"); len(name) > 0 {
		c.name = name[0]
	}
	var refused error
	if err := g.do(ctx, func() { refused = g.connect(c) }); err != nil || refused != nil {
		return errors.Join(err, refused)
	}
	// The group may have ended, and then it has dropped the consumer already.
	defer func() { _ = g.do(context.WithoutCancel(ctx), func() { g.disconnect(c, errDropped(key)) }) }()
	confirmation := &persistentpb.ReadResp_SubscriptionConfirmation{SubscriptionId: key.stream + "::" + key.group}
	err = stream.Send(&persistentpb.ReadResp{Content: &persistentpb.ReadResp_SubscriptionConfirmation_{SubscriptionConfirmation: confirmation}})
	if err != nil {
		return err
	}
	answers := make(chan error, 1)
	go func() { answers <- receive(stream, g, c) }()
	_, text := o.GetUuidOption().GetContent().(*persistentpb.ReadReq_Options_UUIDOption_String_)
	for {
		select {
		case resp := <-c.out:
			if text {
				textIDs(resp)
			}
			if err := stream.Send(resp); err != nil {
				return err
			}
		case <-c.dropped:
			return c.err
		case err := <-answers:
			return err
		}
	}
}

// receive takes the client's answers until it ends.
func receive(stream persistentpb.PersistentSubscriptions_ReadServer, g *consumerGroup, c *consumer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch answer := req.GetContent().(type) {
		case *persistentpb.ReadReq_Ack_:
			ids, err := parseIDs(answer.Ack.GetIds())
			if err == nil {
				err = g.do(stream.Context(), func() { g.ack(c, ids) })
			}
			if err != nil {
				return err
			}
		case *persistentpb.ReadReq_Nack_:
			ids, err := parseIDs(answer.Nack.GetIds())
			reason := strings.ToValidUTF8(answer.Nack.GetReason(), "?")
			if err == nil {
				err = g.do(stream.Context(), func() { g.nack(c, ids, answer.Nack.GetAction(), reason[:min(len(reason), maxReason)]) })
			}
			if err != nil {
				return err
			}
		default:
			return invalid("only ack and nack may follow the options")
		}
	}
}

func parseIDs(ids []*shared.UUID) ([]eventID, error) {
	parsed := make([]eventID, len(ids))
	for i, id := range ids {
		var err error
		if parsed[i], err = parseUUID(id); err != nil {
			return nil, err
		}
	}
	return parsed, nil
}

const (
	maxConsumerBuffer = 10_000
	maxReason         = 4096 // bytes of a nack's reason that are kept
)

// textIDs turns the ids of a response into text.
func textIDs(resp *persistentpb.ReadResp) {
	ev := resp.GetEvent()
	for _, e := range []*persistentpb.ReadResp_ReadEvent_RecordedEvent{ev.GetEvent(), ev.GetLink()} {
		if id, err := parseUUID(e.GetId()); e != nil && err == nil {
			e.Id = uuidMessage(id, true)
		}
	}
}
