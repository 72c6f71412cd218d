package eventstore

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
)

const (
	allStream    = "$all"
	configStream = "$persistentSubscriptionConfig"

	roundRobin          = "RoundRobin"
	dispatchToSingle    = "DispatchToSingle"
	pinned              = "Pinned"
	pinnedByCorrelation = "PinnedByCorrelation"
)

// groupKey names a group: the stream that it follows, or $all, and its own name.
type groupKey struct{ stream, group string }

func newGroupKey(stream *shared.StreamIdentifier, all *shared.Empty, group string) (groupKey, error) {
	key := groupKey{allStream, group}
	if all == nil {
		var err error
		if key.stream, err = streamName(stream); err != nil {
			return key, err
		}
	}
	switch { // both stand in the names of the group's own streams
	case len(key.stream) > maxName/2:
		return key, invalid("the stream's name is longer than " + strconv.Itoa(maxName/2) + " bytes")
	case group == "" || len(group) > maxName/4:
		return key, invalid("a group's name has 1 to " + strconv.Itoa(maxName/4) + " bytes")
	}
	return key, nil
}

func (k groupKey) compare(o groupKey) int {
	return cmp.Or(cmp.Compare(k.stream, o.stream), cmp.Compare(k.group, o.group))
}

func (k groupKey) checkpoint() string {
	return "$persistentsubscription-" + k.stream + "::" + k.group + "-checkpoint"
}

func (k groupKey) parked() string {
	return "$persistentsubscription-" + k.stream + "::" + k.group + "-parked"
}

// groupConfigs is what the configuration stream holds: all groups in each event.
type groupConfigs struct {
	Version string        `json:"version"`
	Updated time.Time     `json:"updated"`
	Entries []groupConfig `json:"entries"`
}

// groupConfig is the configuration of one group. Times are in milliseconds.
type groupConfig struct {
	Stream          string       `json:"stream"`
	Group           string       `json:"group"`
	Filter          *groupFilter `json:"filter,omitempty"`
	ResolveLinks    bool         `json:"resolveLinkTos"`
	ExtraStatistics bool         `json:"extraStatistics"`
	MessageTimeout  int          `json:"messageTimeout"` // 0 is never
	StartFrom       string       `json:"startFrom"`      // as asked: "0", "-1" for the end, a revision, "C:n/P:n"
	From            uint64       `json:"from"`           // the first to deliver, as StartFrom meant it when the group was made
	LiveBufferSize  int          `json:"liveBufferSize"` // kept for clients; one buffer serves all
	BufferSize      int          `json:"historyBufferSize"`
	MaxRetries      int          `json:"maxRetryCount"`
	ReadBatchSize   int          `json:"readBatchSize"`
	CheckpointAfter int          `json:"checkPointAfter"`
	MinCheckpoint   int          `json:"minCheckPointCount"`
	MaxCheckpoint   int          `json:"maxCheckPointCount"`
	MaxSubscribers  int          `json:"maxSubscriberCount"` // 0 is any number
	Strategy        string       `json:"namedConsumerStrategy"`
}

// groupFilter is a filter on $all: a regular expression or prefixes.
type groupFilter struct {
	OnType bool     `json:"onEventType"`
	Regex  string   `json:"regex,omitempty"`
	Prefix []string `json:"prefixes,omitempty"`
}

// compile returns nil for no filter.
func (f *groupFilter) compile() (*filter, error) {
	if f == nil {
		return nil, nil
	}
	expr := &streamspb.ReadReq_Options_FilterOptions_Expression{Regex: f.Regex, Prefix: f.Prefix}
	o := &streamspb.ReadReq_Options_FilterOptions{
		Filter:                       &streamspb.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: expr},
		CheckpointIntervalMultiplier: 1,
	}
	if f.OnType {
		o.Filter = &streamspb.ReadReq_Options_FilterOptions_EventType{EventType: expr}
	}
	return newFilter(o)
}

// newGroupConfig reads what a client asks for.
func newGroupConfig(o *persistentpb.CreateReq_Options) (groupConfig, error) {
	var cfg groupConfig
	stream, all, set := o.GetStream(), o.GetAll(), o.GetSettings()
	if set == nil {
		return cfg, invalid("settings are required")
	}
	name := stream.GetStreamIdentifier()
	if stream == nil && all == nil {
		//lint:ignore SA1019 clients before 21.10, and the official one for the strategy, send it
		name = o.GetStreamIdentifier()
	}
	var isAll *shared.Empty
	if all != nil {
		isAll = &shared.Empty{}
	}
	key, err := newGroupKey(name, isAll, o.GetGroupName())
	if err != nil {
		return cfg, err
	}
	cfg = groupConfig{
		Stream: key.stream, Group: key.group,
		ResolveLinks: set.GetResolveLinks(), ExtraStatistics: set.GetExtraStatistics(),
		MessageTimeout: int(set.GetMessageTimeoutMs()), CheckpointAfter: int(set.GetCheckpointAfterMs()),
		LiveBufferSize: int(set.GetLiveBufferSize()), BufferSize: int(set.GetHistoryBufferSize()),
		MaxRetries: int(set.GetMaxRetryCount()), ReadBatchSize: int(set.GetReadBatchSize()),
		MinCheckpoint: int(set.GetMinCheckpointCount()), MaxCheckpoint: int(set.GetMaxCheckpointCount()),
		MaxSubscribers: int(set.GetMaxSubscriberCount()), Strategy: set.GetConsumerStrategy(),
	}
	const tick = int64(time.Millisecond / 100) // ticks of 100 ns in a millisecond
	if t, ok := set.GetMessageTimeout().(*persistentpb.CreateReq_Settings_MessageTimeoutTicks); ok {
		cfg.MessageTimeout = int(t.MessageTimeoutTicks / tick)
	}
	if t, ok := set.GetCheckpointAfter().(*persistentpb.CreateReq_Settings_CheckpointAfterTicks); ok {
		cfg.CheckpointAfter = int(t.CheckpointAfterTicks / tick)
	}
	if cfg.Strategy == "" {
		//lint:ignore SA1019 clients before 21.10, and the official one for the strategy, send it
		cfg.Strategy = set.GetNamedConsumerStrategy().String()
	}
	cfg.StartFrom, cfg.From, err = startOf(key, o)
	if err != nil {
		return cfg, err
	}
	if f := all.GetFilter(); f != nil {
		cfg.Filter = &groupFilter{Regex: f.GetStreamIdentifier().GetRegex(), Prefix: f.GetStreamIdentifier().GetPrefix()}
		if t := f.GetEventType(); t != nil {
			cfg.Filter = &groupFilter{OnType: true, Regex: t.GetRegex(), Prefix: t.GetPrefix()}
		}
	}
	return cfg, cfg.check()
}

// startOf reads where a group begins.
func startOf(key groupKey, o *persistentpb.CreateReq_Options) (string, uint64, error) {
	revision := func(n uint64) (string, uint64, error) {
		if n == math.MaxUint64 { // how clients before 21.10 say end
			return "-1", 0, nil
		}
		if n > math.MaxInt64 {
			return "", 0, &groupError{groupFailed, key, "the start is beyond any event"}
		}
		return strconv.FormatUint(n, 10), n, nil
	}
	switch {
	case o.GetStream() != nil:
		switch from := o.GetStream().GetRevisionOption().(type) {
		case *persistentpb.CreateReq_StreamOptions_Revision:
			return revision(from.Revision)
		case *persistentpb.CreateReq_StreamOptions_Start:
			return "0", 0, nil
		case *persistentpb.CreateReq_StreamOptions_End:
			return "-1", 0, nil
		}
	case o.GetAll() != nil:
		switch from := o.GetAll().GetAllOption().(type) {
		case *persistentpb.CreateReq_AllOptions_Position:
			at := from.Position
			if at.GetCommitPosition() > math.MaxInt64 || at.GetPreparePosition() > at.GetCommitPosition() {
				return "", 0, &groupError{groupFailed, key, "the start is no position"}
			}
			return placeInAll(at.GetCommitPosition()), at.GetCommitPosition(), nil
		case *persistentpb.CreateReq_AllOptions_Start:
			return placeInAll(0), 0, nil
		case *persistentpb.CreateReq_AllOptions_End:
			return "-1", 0, nil
		}
	default:
		//lint:ignore SA1019 clients before 21.10, and the official one for the strategy, send it
		return revision(o.GetSettings().GetRevision())
	}
	return "", 0, invalid("a start is required")
}

// check refuses what EventStoreDB refuses, and what could not work.
func (c *groupConfig) check() error {
	fail := func(text string) error { return &groupError{groupFailed, c.key(), text} }
	switch {
	case c.Strategy != roundRobin && c.Strategy != dispatchToSingle && c.Strategy != pinned && c.Strategy != pinnedByCorrelation:
		return fail("the consumer strategy is unknown")
	case c.BufferSize <= 0 || c.BufferSize > 100_000 || c.LiveBufferSize < 0:
		return fail("a buffer has 1 to 100000 messages")
	case c.ReadBatchSize <= 0 || c.ReadBatchSize >= c.BufferSize:
		return fail("the read batch must be above 0 and below the history buffer")
	case min(c.MessageTimeout, c.CheckpointAfter, c.MaxRetries, c.MinCheckpoint, c.MaxCheckpoint, c.MaxSubscribers) < 0:
		return fail("no setting may be negative")
	}
	return nil
}

func (c *groupConfig) key() groupKey { return groupKey{c.Stream, c.Group} }

// tick is how often a group looks for what is late or due.
func (c *groupConfig) tick() time.Duration {
	if c.MessageTimeout == 0 {
		return time.Second
	}
	return min(time.Second, max(10*time.Millisecond, time.Duration(c.MessageTimeout)*time.Millisecond/4))
}

// place is a revision or position as text, as clients parse it.
func (c *groupConfig) place(at uint64) string {
	if c.Stream == allStream {
		return placeInAll(at)
	}
	return strconv.FormatUint(at, 10)
}

func placeInAll(at uint64) string { return fmt.Sprintf("C:%d/P:%d", at, at) }

// parsePlace reads a stored checkpoint: place as a JSON string.
func (c *groupConfig) parsePlace(text string) (uint64, error) {
	text = strings.Trim(text, `"`)
	if c.Stream == allStream {
		text, _, _ = strings.Cut(strings.TrimPrefix(text, "C:"), "/")
	}
	return strconv.ParseUint(text, 10, 63)
}

// info is the part of a group's description that is configuration.
func (c *groupConfig) info() *persistentpb.SubscriptionInfo {
	return &persistentpb.SubscriptionInfo{
		EventSource: c.Stream, GroupName: c.Group, StartFrom: c.StartFrom,
		ResolveLinkTos: c.ResolveLinks, ExtraStatistics: c.ExtraStatistics,
		MessageTimeoutMilliseconds: int32(c.MessageTimeout), MaxRetryCount: int32(c.MaxRetries),
		LiveBufferSize: int32(c.LiveBufferSize), BufferSize: int32(c.BufferSize), ReadBatchSize: int32(c.ReadBatchSize),
		CheckPointAfterMilliseconds: int32(c.CheckpointAfter),
		MinCheckPointCount:          int32(c.MinCheckpoint), MaxCheckPointCount: int32(c.MaxCheckpoint),
		NamedConsumerStrategy: c.Strategy, MaxSubscriberCount: int32(c.MaxSubscribers),
	}
}
