package eventstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
)

// next takes n messages of a subscription.
func (w *wire) next(t *testing.T, call streamspb.Streams_ReadClient, n int) []string {
	t.Helper()
	var got []string
	for range n {
		resp, err := call.Recv()
		if err != nil {
			return append(got, refused(err, call.Trailer()).String())
		}
		got = append(got, word(resp))
	}
	return got
}

func TestSubscribeToStream(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	w.append("s", expectNoStream, "a", "b")
	w.setMetadata("s", `{"$tb":1}`)
	all, after, end, ahead := w.open("s", subscribing), w.open("s", subscribing, from(0)), w.open("s", subscribing, fromEnd), w.open("s", subscribing, from(2))
	none := w.open("none", subscribing)
	same(t, "start", w.next(t, all, 3), "confirmed s/1=b caught up")
	same(t, "after 0", w.next(t, after, 3), "confirmed s/1=b caught up")
	same(t, "end", w.next(t, end, 2), "confirmed caught up")
	same(t, "ahead", w.next(t, ahead, 2), "confirmed caught up")
	same(t, "none", w.next(t, none, 2), "confirmed caught up")
	w.append("s", 1, "c", "d")
	w.append("none", expectNoStream, "n")
	same(t, "start", w.next(t, all, 2), "s/2=c s/3=d")
	same(t, "after 0", w.next(t, after, 2), "s/2=c s/3=d")
	same(t, "end", w.next(t, end, 2), "s/2=c s/3=d")
	same(t, "ahead", w.next(t, ahead, 1), "s/3=d")
	same(t, "none", w.next(t, none, 1), "none/0=n")
	w.tombstone("s", expectAny)
	same(t, "tombstone", w.next(t, all, 2), "s/9223372036854775807={} deleted")
}

func TestSubscribeToAll(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	w.append("s", expectNoStream, "a", "b")
	start, after, end := w.open("", subscribing), w.open("", subscribing, from(2)), w.open("", subscribing, fromEnd)
	same(t, "start", w.next(t, start, 5), "confirmed $users/0=admin s/0=a s/1=b caught up")
	same(t, "after 2", w.next(t, after, 3), "confirmed s/1=b caught up")
	same(t, "end", w.next(t, end, 2), "confirmed caught up")
	w.append("s", 1, "c")
	for _, call := range []streamspb.Streams_ReadClient{start, after, end} {
		same(t, "live", w.next(t, call, 1), "s/2=c")
	}
}

// TestFilters: by stream and type, prefix and regular expression, while catching
// up and live, with the checkpoints that belong there.
func TestFilters(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	expr := func(regex string, prefix ...string) *streamspb.ReadReq_Options_FilterOptions_Expression {
		return &streamspb.ReadReq_Options_FilterOptions_Expression{Regex: regex, Prefix: prefix}
	}
	onStream := func(e *streamspb.ReadReq_Options_FilterOptions_Expression) *streamspb.ReadReq_Options_FilterOptions {
		return &streamspb.ReadReq_Options_FilterOptions{Filter: &streamspb.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: e},
			Window: &streamspb.ReadReq_Options_FilterOptions_Max{Max: 2}, CheckpointIntervalMultiplier: 2}
	}
	onType := func(e *streamspb.ReadReq_Options_FilterOptions_Expression) *streamspb.ReadReq_Options_FilterOptions {
		return &streamspb.ReadReq_Options_FilterOptions{Filter: &streamspb.ReadReq_Options_FilterOptions_EventType{EventType: e},
			Window: &streamspb.ReadReq_Options_FilterOptions_Count{}, CheckpointIntervalMultiplier: 1}
	}
	w.append("a-1", expectNoStream, "1", "2") // positions 2, 3
	w.append("b-1", expectNoStream, "3", "4") // 4, 5
	w.append("ab-1", expectNoStream, "5")     // 6
	prefix := w.open("", subscribing, filtered(onStream(expr("", "a-", "x-"))))
	same(t, "prefixes", w.next(t, prefix, 6), "confirmed a-1/0=1 a-1/1=2 checkpoint 4 checkpoint 6 caught up")
	regex := w.open("", subscribing, filtered(onStream(expr("b-1$"))))
	same(t, "regex", w.next(t, regex, 7), "confirmed b-1/0=3 checkpoint 4 b-1/1=4 ab-1/0=5 checkpoint 6 caught up")
	types := w.open("", subscribing, filtered(onType(expr("^[^$]"))))
	same(t, "type", w.next(t, types, 8), "confirmed a-1/0=1 a-1/1=2 b-1/0=3 b-1/1=4 ab-1/0=5 checkpoint 6 caught up")
	w.append("c", expectNoStream, "6", "7", "8") // 7, 8, 9
	w.append("a-1", 1, "9")                      // 10
	same(t, "live checkpoint after 4 considered", w.next(t, prefix, 2), "a-1/2=9 checkpoint 10")
	same(t, "live", w.next(t, types, 4), "c/0=6 c/1=7 c/2=8 a-1/2=9")
	w.append("a-2", expectNoStream, "10")
	same(t, "live", w.next(t, prefix, 1), "a-2/0=10")
}

// TestSlowConsumer: one that does not read falls out of the tail, loses nothing,
// and is told when it has caught up again. A fast one beside it is not held up.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{tail: 8})
	const events = 300
	streamSub, allSub, fast := w.open("s", subscribing), w.open("", subscribing), w.open("", subscribing)
	same(t, "stream", w.next(t, streamSub, 2), "confirmed caught up")
	same(t, "all", w.next(t, allSub, 3), "confirmed $users/0=admin caught up")
	same(t, "fast", w.next(t, fast, 3), "confirmed $users/0=admin caught up")
	padding := strings.Repeat("x", 16<<10) // more in all than windows and buffers take
	for i := range events {
		w.send(appendOptions("s", int64(i)-1), appendEvent(uuid.New(), "T", "b", fmt.Appendf(nil, "%d%s", i, padding)))
		if got := w.next(t, fast, 1); !strings.HasPrefix(got[0], fmt.Sprintf("s/%d=", i)) {
			t.Fatalf("fast, event %d: %.20s", i, got)
		}
	}
	for name, call := range map[string]streamspb.Streams_ReadClient{"stream": streamSub, "all": allSub} {
		caughtUp := 0
		for i := 0; i < events; {
			got := w.next(t, call, 1)[0]
			if got == "caught up" {
				caughtUp++
				continue
			}
			if !strings.HasPrefix(got, fmt.Sprintf("s/%d=%d%s", i, i, "x")) {
				t.Fatalf("%s: event %d is %.20s", name, i, got)
			}
			i++
		}
		if caughtUp == 0 { // the end of the scan may have met the last event
			same(t, name, w.next(t, call, 1), "caught up")
		}
	}
}

// TestSubscriptionsUnderLoad: many subscriptions see one order, each from where
// it began, while many write.
func TestSubscriptionsUnderLoad(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{tail: 32})
	const writers, each = 8, 50
	done := make(chan []string)
	for i := range 6 {
		go func() {
			opts := []readOption{subscribing}
			if i%2 == 1 {
				opts = append(opts, filtered(&streamspb.ReadReq_Options_FilterOptions{CheckpointIntervalMultiplier: 1,
					Filter: &streamspb.ReadReq_Options_FilterOptions_StreamIdentifier{
						StreamIdentifier: &streamspb.ReadReq_Options_FilterOptions_Expression{Prefix: []string{"w-"}}}}))
			}
			call := w.open("", opts...)
			var got []string
			for len(got) < writers*each {
				resp, err := call.Recv()
				if err != nil {
					t.Error(err)
					break
				}
				if s := word(resp); strings.HasPrefix(s, "w-") {
					got = append(got, s)
				}
			}
			done <- got
		}()
	}
	for i := range writers {
		go func() {
			for j := range each {
				if a := w.append(fmt.Sprintf("w-%d", i), int64(j)-1, fmt.Sprintf("%d.%d", i, j)); a.revision != int64(j) {
					t.Error(a)
				}
			}
		}()
	}
	first := <-done
	for range 5 {
		if got := <-done; !slices.Equal(got, first) {
			t.Error("two subscriptions saw different orders")
		}
	}
	if log := slices.DeleteFunc(w.read(""), func(s string) bool { return !strings.HasPrefix(s, "w-") }); !slices.Equal(log, first) {
		t.Error("a subscription saw another order than the log has")
	}
}

// TestOfficialSubscription: the client understands all that a subscription sends.
func TestOfficialSubscription(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	w.append("s", expectNoStream, "a")
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	sub, err := w.client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: esdb.ExcludeSystemEventsFilter()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 3 {
		switch e := sub.Recv(); {
		case e.EventAppeared != nil:
			got = append(got, e.EventAppeared.OriginalEvent().StreamID)
		case e.CheckPointReached != nil:
			got = append(got, fmt.Sprint("checkpoint ", e.CheckPointReached.Commit))
		case e.CaughtUp != nil:
			got = append(got, "caught up")
		case e.SubscriptionDropped != nil:
			t.Fatal(e.SubscriptionDropped.Error)
		}
	}
	same(t, "client", got, "s checkpoint 2 caught up")
}
