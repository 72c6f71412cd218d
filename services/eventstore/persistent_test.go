package eventstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// serveClient opens a node and connects the official client to it.
func serveClient(t *testing.T, cfg Config) (*Node, *esdb.Client) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.Serve(lis) }()
	c, err := esdb.ParseConnectionString("esdb://" + lis.Addr().String() + "?tls=false")
	if err != nil {
		t.Fatal(err)
	}
	c.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		closed(t, n, served)
	})
	return n, client
}

// groupTest is a stream with a group on it.
type groupTest struct {
	*testing.T
	ctx    context.Context
	client *esdb.Client
	stream string
}

func newGroupTest(t *testing.T, cfg Config, settings func(*esdb.PersistentSubscriptionSettings)) *groupTest {
	_, client := serveClient(t, cfg)
	g := &groupTest{t, patient(t), client, "stream"}
	s := esdb.SubscriptionSettingsDefault()
	s.CheckpointLowerBound, s.CheckpointUpperBound = 1, 1
	if settings != nil {
		settings(&s)
	}
	err := client.CreatePersistentSubscription(g.ctx, g.stream, "group",
		esdb.PersistentStreamSubscriptionOptions{Settings: &s, StartFrom: esdb.Start{}})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *groupTest) append(stream string, n int) {
	g.Helper()
	for i := range n {
		ev := esdb.EventData{EventType: "T", ContentType: esdb.ContentTypeJson, Data: fmt.Append(nil, i),
			Metadata: fmt.Appendf(nil, `{"$correlationId":"%d"}`, i%3)}
		if _, err := g.client.AppendToStream(g.ctx, stream, esdb.AppendToStreamOptions{}, ev); err != nil {
			g.Fatal(err)
		}
	}
}

func (g *groupTest) subscribe(size uint32) *esdb.PersistentSubscription {
	g.Helper()
	sub, err := g.client.SubscribeToPersistentSubscription(g.ctx, g.stream, "group",
		esdb.SubscribeToPersistentSubscriptionOptions{BufferSize: size})
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { sub.Close() })
	return sub
}

// recv receives an event.
func (g *groupTest) recv(sub *esdb.PersistentSubscription) *esdb.ResolvedEvent {
	g.Helper()
	got := sub.Recv()
	if got.EventAppeared == nil {
		g.Fatalf("dropped: %v", got.SubscriptionDropped.Error)
	}
	return got.EventAppeared.Event
}

// next receives an event and checks its revision and how often it was tried.
func (g *groupTest) next(sub *esdb.PersistentSubscription, revision, retries int) *esdb.ResolvedEvent {
	g.Helper()
	got := sub.Recv()
	if got.EventAppeared == nil {
		g.Fatalf("dropped: %v", got.SubscriptionDropped.Error)
	}
	ev := got.EventAppeared.Event
	if n := int(ev.Event.EventNumber); n != revision || got.EventAppeared.RetryCount != retries {
		g.Fatalf("got event %d at try %d, want %d at try %d", n, got.EventAppeared.RetryCount, revision, retries)
	}
	return ev
}

// info polls until the group is as it should be.
func (g *groupTest) info(want string, is func(*esdb.PersistentSubscriptionInfo) bool) {
	g.Helper()
	for {
		info, err := g.client.GetPersistentSubscriptionInfo(g.ctx, g.stream, "group", esdb.GetPersistentSubscriptionOptions{})
		if err != nil {
			g.Fatalf("waiting until %s: %v", want, err)
		}
		if is(info) {
			return
		}
	}
}

func parkedAre(n int64) func(*esdb.PersistentSubscriptionInfo) bool {
	return func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.ParkedMessagesCount == n }
}

func TestGroupRetriesThenParksThenReplays(t *testing.T) {
	t.Parallel()
	g := newGroupTest(t, Config{}, func(s *esdb.PersistentSubscriptionSettings) { s.MaxRetryCount = 2 })
	g.append(g.stream, 3)
	sub := g.subscribe(1)
	for try := range 3 { // the third refusal is one too many
		if err := sub.Nack("no", esdb.NackActionRetry, g.next(sub, 0, try)); err != nil {
			t.Fatal(err)
		}
	}
	g.info("one is parked", parkedAre(1)) // two at a time are parked in any order
	sub.Nack("not mine", esdb.NackActionSkip, g.next(sub, 1, 0))
	sub.Nack("later", esdb.NackActionPark, g.next(sub, 2, 0))
	g.info("two are parked", parkedAre(2))

	parked := "$persistentsubscription-stream::group-parked"
	links, err := g.client.ReadStream(g.ctx, parked, esdb.ReadStreamOptions{From: esdb.Start{}}, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	link, err := links.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if ev := link.Event; ev.EventType != "$>" || string(ev.Data) != "0@stream" || !strings.Contains(string(ev.UserMetadata), "retried 2 times") {
		t.Errorf("the link is %s %q %q", ev.EventType, ev.Data, ev.UserMetadata)
	}

	if err := g.client.ReplayParkedMessages(g.ctx, g.stream, "group", esdb.ReplayParkedMessagesOptions{}); err != nil {
		t.Fatal(err)
	}
	sub.Ack(g.next(sub, 0, 0))
	sub.Nack("still not", esdb.NackActionPark, g.next(sub, 2, 0))
	g.info("one is parked again, and the group rests", func(i *esdb.PersistentSubscriptionInfo) bool {
		at := i.Stats.LastCheckpointedEventRevision // nil until there is one
		return parkedAre(1)(i) && i.Stats.OutstandingMessagesCount == 0 && at != nil && *at == 2
	})
	// The replayed links leave the parked stream once they are done with.
	for {
		meta, err := g.client.GetStreamMetadata(g.ctx, parked, esdb.ReadStreamOptions{})
		if g.ctx.Err() != nil {
			t.Fatalf("waiting until the replayed links are gone: %v", err)
		}
		if err == nil && meta.TruncateBefore() != nil && *meta.TruncateBefore() == 2 {
			break
		}
	}
}

// A group goes on where it was: after a stop, and after a crash that loses all
// that was not synced. What was not acknowledged comes again, what was never does
// after a stop.
func TestGroupRecovers(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("crash=", crash), func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewCrashableMem()
			n, err := Open(Config{Dir: "d", FS: fs})
			if err != nil {
				t.Fatal(err)
			}
			_ = n.Close()
			g := newGroupTest(t, Config{Dir: "d", FS: fs}, nil)
			g.append(g.stream, 6)
			sub := g.subscribe(2)
			first, second := g.next(sub, 0, 0), g.next(sub, 1, 0)
			sub.Ack(second) // behind one that is not done
			third := g.next(sub, 2, 0)
			sub.Ack(first)
			sub.Ack(third)
			g.info("three are done", func(i *esdb.PersistentSubscriptionInfo) bool {
				return i.Stats.LastCheckpointedEventRevision != nil && *i.Stats.LastCheckpointedEventRevision == 2
			})
			after := fs.CrashClone(vfs.CrashCloneCfg{})
			if !crash {
				g.next(sub, 3, 0) // in flight when the node stops
				g.client.Close()
			}
			_, client := serveClient(t, Config{Dir: "d", FS: after})
			g = &groupTest{t, g.ctx, client, g.stream}
			sub = g.subscribe(10)
			for revision := 3; revision < 6; revision++ {
				sub.Ack(g.next(sub, revision, 0))
			}
		})
	}
}

func TestGroupStrategies(t *testing.T) {
	t.Parallel()
	for _, strategy := range []string{roundRobin, dispatchToSingle, pinned, pinnedByCorrelation} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			g := &consumerGroup{cfg: groupConfig{Strategy: strategy}, seed: maphash.MakeSeed()}
			for i := range 3 {
				g.consumers = append(g.consumers, &consumer{id: fmt.Sprint(i), size: 100, inFlight: map[eventID]*delivery{}})
			}
			got := map[string][]string{} // keys by consumer
			for i := range 90 {
				m := &delivery{id: eventID(uuid.New()), key: fmt.Sprint(i % 30)}
				c := g.choose(m)
				c.inFlight[m.id] = m
				got[c.id] = append(got[c.id], m.key)
			}
			switch strategy {
			case roundRobin:
				for id, keys := range got {
					if len(keys) != 30 {
						t.Errorf("consumer %s has %d of 90", id, len(keys))
					}
				}
			case dispatchToSingle:
				if len(got["0"]) != 90 {
					t.Errorf("the first consumer has %d of 90", len(got["0"]))
				}
			default:
				seen := map[string]bool{}
				for id, keys := range got {
					slices.Sort(keys)
					for _, key := range slices.Compact(keys) {
						if seen[key] {
							t.Errorf("key %s is with %s and another", key, id)
						}
						seen[key] = true
					}
				}
				if len(got) < 2 {
					t.Error("one consumer has all keys")
				}
			}
		})
	}
}

// What a lost or silent consumer had goes to another.
func TestGroupTriesElsewhere(t *testing.T) {
	t.Parallel()
	g := newGroupTest(t, Config{}, func(s *esdb.PersistentSubscriptionSettings) {
		s.MessageTimeout = 100
		s.MaxRetryCount = 10_000 // on a busy machine the default is through in a second, and the message parked
	})
	g.append(g.stream, 1)
	silent := g.subscribe(1)
	g.next(silent, 0, 0)
	g.next(silent, 0, 1)
	silent.Close()
	lively := g.subscribe(1)
	got := lively.Recv().EventAppeared
	if got == nil || got.RetryCount < 1 {
		t.Fatalf("got %+v", got)
	}
	lively.Ack(got.Event)
	g.info("it is done", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.LastCheckpointedEventRevision != nil })
}

func TestGroupOnAllWithFilter(t *testing.T) {
	t.Parallel()
	g := newGroupTest(t, Config{}, nil)
	err := g.client.CreatePersistentSubscriptionToAll(g.ctx, "group", esdb.PersistentAllSubscriptionOptions{
		StartFrom: esdb.Start{}, Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"wanted"}}})
	if err != nil {
		t.Fatal(err)
	}
	g.append("unwanted", 50)
	g.append("wanted", 2)
	g.append("unwanted", 50)
	g.append("wanted-too", 1)
	sub, err := g.client.SubscribeToPersistentSubscriptionToAll(g.ctx, "group", esdb.SubscribeToPersistentSubscriptionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for _, want := range []string{"0@wanted", "1@wanted", "0@wanted-too"} {
		ev := g.recv(sub).Event
		if got := fmt.Sprintf("%d@%s", ev.EventNumber, ev.StreamID); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A link is acknowledged by its own id and delivered with its target.
func TestGroupResolvesLinks(t *testing.T) {
	t.Parallel()
	g := newGroupTest(t, Config{}, func(s *esdb.PersistentSubscriptionSettings) { s.ResolveLinkTos = true })
	g.append("other", 2)
	for _, target := range []string{"1@other", "9@nowhere"} {
		link := esdb.EventData{EventType: "$>", ContentType: esdb.ContentTypeBinary, Data: []byte(target)}
		if _, err := g.client.AppendToStream(g.ctx, g.stream, esdb.AppendToStreamOptions{}, link); err != nil {
			t.Fatal(err)
		}
	}
	sub := g.subscribe(1)
	ev := g.recv(sub)
	if ev.Event.StreamID != "other" || ev.Event.EventNumber != 1 || ev.Link.StreamID != g.stream {
		t.Errorf("got %+v", ev)
	}
	sub.Ack(ev)
	if ev = g.recv(sub); ev.Event != nil || ev.Link.EventNumber != 1 {
		t.Errorf("got %+v", ev)
	}
}

func TestGroupRefusals(t *testing.T) {
	t.Parallel()
	g := newGroupTest(t, Config{}, func(s *esdb.PersistentSubscriptionSettings) { s.MaxSubscriberCount = 1 })
	ctx := g.ctx
	create := func(change func(*esdb.PersistentSubscriptionSettings)) error {
		s := esdb.SubscriptionSettingsDefault()
		change(&s)
		return g.client.CreatePersistentSubscription(ctx, g.stream, uuid.NewString(), esdb.PersistentStreamSubscriptionOptions{Settings: &s})
	}
	first := g.subscribe(1)
	_, second := g.client.SubscribeToPersistentSubscription(ctx, g.stream, "group", esdb.SubscribeToPersistentSubscriptionOptions{})
	_, unknown := g.client.SubscribeToPersistentSubscription(ctx, g.stream, "none", esdb.SubscribeToPersistentSubscriptionOptions{})
	badFilter := g.client.CreatePersistentSubscriptionToAll(ctx, "x", esdb.PersistentAllSubscriptionOptions{
		Filter: &esdb.SubscriptionFilter{Type: esdb.EventFilterType, Regex: "(?!a)"}})
	for name, c := range map[string]struct {
		err  error
		text string
	}{
		"too many consumers":   {second, "maximum subscriptions"},
		"unknown group":        {unknown, "does not exist"},
		"batch beyond buffer":  {create(func(s *esdb.PersistentSubscriptionSettings) { s.ReadBatchSize = s.HistoryBufferSize }), "read batch"},
		"negative":             {create(func(s *esdb.PersistentSubscriptionSettings) { s.MaxRetryCount = -1 }), "negative"},
		"look-ahead in filter": {badFilter, "RE2"},
		"replay of unknown":    {g.client.ReplayParkedMessages(ctx, g.stream, "none", esdb.ReplayParkedMessagesOptions{}), "does not exist"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.text) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if err := g.client.DeletePersistentSubscription(ctx, g.stream, "group", esdb.DeletePersistentSubscriptionOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := first.Recv(); got.SubscriptionDropped == nil || !strings.Contains(got.SubscriptionDropped.Error.Error(), "dropped") {
		t.Errorf("after the delete: %+v", got)
	}
}

// A group that was made at the end of a stream misses nothing that was written
// since, though it never saved a checkpoint before the node was started again.
func TestGroupFromEndSurvivesRestart(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	n, err := Open(Config{Dir: "d", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	add := func(n *Node) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ev := proposed{id: eventID(uuid.New()), typ: "T", json: true, data: []byte("{}")}
		if _, err := n.seq.do(&write{ctx: ctx, stream: "stream", expected: expectAny, events: []proposed{ev}}); err != nil {
			t.Fatal(err)
		}
	}
	add(n)
	cfg := groupConfig{Stream: "stream", Group: "group", StartFrom: "-1", From: 1, BufferSize: 10, ReadBatchSize: 5, Strategy: roundRobin}
	n.subs.mu.Lock()
	err = n.subs.store(t.Context(), cfg.key(), &cfg)
	n.subs.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	add(n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	_, client := serveClient(t, Config{Dir: "d", FS: fs})
	g := &groupTest{t, patient(t), client, "stream"}
	g.next(g.subscribe(1), 1, 0)
}
