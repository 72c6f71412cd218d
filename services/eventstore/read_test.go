package eventstore

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// same fails when two lists of words differ.
func same(t *testing.T, what string, got []string, want string) {
	t.Helper()
	if fmt.Sprint(got) != "["+want+"]" {
		t.Errorf("%s: got %v, want [%s]", what, got, want)
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	w.append("s", expectNoStream, "a", "b", "c") // positions 2, 3, 4
	w.append("t", expectNoStream, "x")           // 5
	same(t, "stream", w.read("s"), "s/0=a s/1=b s/2=c")
	same(t, "count", w.read("s", count(2)), "s/0=a s/1=b")
	same(t, "count 0", w.read("s", count(0)), "")
	same(t, "from", w.read("s", from(1)), "s/1=b s/2=c")
	same(t, "from beyond", w.read("s", from(9)), "")
	same(t, "backwards", w.read("s", backwards, fromEnd), "s/2=c s/1=b s/0=a")
	same(t, "backwards from", w.read("s", backwards, from(1)), "s/1=b s/0=a")
	same(t, "backwards from beyond", w.read("s", backwards, from(9), count(1)), "s/2=c")
	same(t, "backwards from start", w.read("s", backwards), "s/0=a")
	same(t, "none", w.read("none"), "not found")

	same(t, "all", w.read(""), "$users/0=admin s/0=a s/1=b s/2=c t/0=x")
	same(t, "all from includes", w.read("", from(4)), "s/2=c t/0=x")
	same(t, "all backwards excludes", w.read("", backwards, from(4)), "s/1=b s/0=a $users/0=admin")
	same(t, "all backwards", w.read("", backwards, fromEnd, count(2)), "t/0=x s/2=c")
	same(t, "all backwards from start", w.read("", backwards), "")
	same(t, "all from end", w.read("", fromEnd), "")
	same(t, "all filtered", w.read("", filtered(&streamspb.ReadReq_Options_FilterOptions{
		Filter: &streamspb.ReadReq_Options_FilterOptions_StreamIdentifier{
			StreamIdentifier: &streamspb.ReadReq_Options_FilterOptions_Expression{Regex: "^[^$t]"}},
		CheckpointIntervalMultiplier: 1}), backwards, fromEnd, count(2)), "s/2=c s/1=b")

	same(t, "ends", w.read("s", compatible), "s/0=a s/1=b s/2=c last 2")
	w.setMetadata("s", `{"$tb":2}`)
	same(t, "begins", w.read("s", compatible, count(0)), "first 2 last 2")
	same(t, "truncated", w.read("s"), "s/2=c")
	same(t, "all keeps the truncated", w.history("s"), "s/0=a s/1=b s/2=c")
	w.setMetadata("s", `{"$maxCount":2}`)
	same(t, "max count", w.read("s"), "s/1=b s/2=c")
	same(t, "max count, from below", w.read("s", from(0), count(1)), "s/1=b")
	same(t, "metastream", w.read("$$s"), `$$s/1={"$maxCount":2}`)
	same(t, "metastream of none", w.read("$$none"), "not found")
	w.setMetadata("s", `no JSON`)
	same(t, "bad metadata", w.read("s"), "s/0=a s/1=b s/2=c")
}

func TestRecordedEvent(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 9, 30, 0, 100, time.UTC)
	w := serve(t, Config{Clock: func() time.Time { return now }})
	id := uuid.MustParse("ffffffff-0000-4000-8000-0000000000ff")
	a := w.send(appendOptions("s", expectNoStream), &streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{
		ProposedMessage: &streamspb.AppendReq_ProposedMessage{Id: uuidMessage(eventID(id), true), Data: []byte{1}, CustomMetadata: []byte{2},
			Metadata: map[string]string{"type": "T", "content-type": "application/json", "created": "forged", "other": "left out"}}}})
	if a.position != 2 || a.revision != 0 {
		t.Errorf("answer: %v at %d", a, a.position)
	}
	for _, way := range []readOption{func(*streamspb.ReadReq_Options) {}, stringIDs} {
		resp, err := w.open("s", way).Recv()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseUUID(resp.GetEvent().GetEvent().GetId())
		if err != nil || got != eventID(id) {
			t.Errorf("id %v, %v", got, err)
		}
		ev := resp.GetEvent().GetEvent()
		ev.Id = nil
		if want := `metadata:{key:"content-type" value:"application/json"} metadata:{key:"created" value:"17952534000000001"} metadata:{key:"type" value:"T"}`; !strings.Contains(strings.ReplaceAll(ev.String(), "  ", " "), want) {
			t.Errorf("got %v", ev)
		}
		if resp.GetEvent().GetCommitPosition() != 2 || ev.GetCommitPosition() != 2 || ev.GetPreparePosition() != 2 || string(ev.Data) != "\x01" || string(ev.CustomMetadata) != "\x02" {
			t.Errorf("got %v", resp)
		}
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)
	var seconds atomic.Int64
	w := serve(t, Config{Clock: func() time.Time { return start.Add(time.Duration(seconds.Load()) * time.Second) }})
	w.append("s", expectNoStream, "a")
	w.setMetadata("s", `{"$maxAge":10}`)
	seconds.Store(8)
	w.append("s", 0, "b")
	same(t, "young", w.read("s"), "s/0=a s/1=b")
	seconds.Store(11)
	same(t, "one expired", w.read("s", backwards, fromEnd), "s/1=b")
	seconds.Store(5) // the clock of the machine was set back
	w.append("s", 1, "c")
	seconds.Store(19)
	same(t, "time never runs backwards in the log", w.read("s"), "")
	same(t, "all keeps the expired", w.history("s"), "s/0=a s/1=b s/2=c")
}

func TestLinks(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	w.append("s", expectNoStream, "a", "b")
	w.append("gone", expectNoStream, "c")
	msgs := []*streamspb.AppendReq{appendOptions("l", expectNoStream)}
	for _, target := range []string{"1@s", "7@s", "0@gone", "nonsense"} {
		msgs = append(msgs, appendEvent(uuid.New(), "$>", "text/plain", []byte(target)))
	}
	w.send(msgs...)
	w.delete("gone", expectAny)
	same(t, "unresolved", w.read("l"), "l/0=1@s l/1=7@s l/2=0@gone l/3=nonsense")
	same(t, "resolved", w.read("l", links), "s/1=b<-l/0 unresolved<-l/1 unresolved<-l/2 unresolved<-l/3")
	same(t, "resolved, string ids", w.read("l", links, stringIDs, count(1)), "s/1=b<-l/0")
}

// TestBadRequests: what is malformed is refused with INVALID_ARGUMENT.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	regex := func(s string) readOption {
		return filtered(&streamspb.ReadReq_Options_FilterOptions{CheckpointIntervalMultiplier: 1,
			Filter: &streamspb.ReadReq_Options_FilterOptions_EventType{EventType: &streamspb.ReadReq_Options_FilterOptions_Expression{Regex: s}}})
	}
	reads := map[string][]readOption{
		"no uuid option":           {func(o *streamspb.ReadReq_Options) { o.UuidOption = nil }},
		"no stream option":         {func(o *streamspb.ReadReq_Options) { o.StreamOption = nil }},
		"no count":                 {func(o *streamspb.ReadReq_Options) { o.CountOption = nil }},
		"backward subscription":    {subscribing, backwards},
		"look-ahead":               {regex("a(?=b)"), subscribing},
		"back-reference":           {regex(`(a)\1`), subscribing},
		"empty filter":             {regex(""), subscribing},
		"long filter":              {regex(strings.Repeat("a", 5000))},
		"position out of range":    {from(1 << 63)},
		"commit below prepare":     {from(7), func(o *streamspb.ReadReq_Options) { o.GetAll().GetPosition().CommitPosition = 6 }},
		"interval multiplier of 0": {subscribing, regex("a"), func(o *streamspb.ReadReq_Options) { o.GetFilter().CheckpointIntervalMultiplier = 0 }},
	}
	for name, opts := range reads {
		if _, err := w.open("", opts...).Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, opts := range map[string][]readOption{"filtered stream": {regex("a")}, "forwards from the end": {fromEnd}} {
		w.append("s", expectAny, "a")
		if _, err := w.open("s", opts...).Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := appendEvent(testID("a"), "T", "c", nil)
	appends := map[string][]*streamspb.AppendReq{
		"no options":     {good},
		"no expectation": {{Content: &streamspb.AppendReq_Options_{Options: &streamspb.AppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}}}}},
		"no stream":      {appendOptions("", expectAny), good},
		"long stream":    {appendOptions(strings.Repeat("s", 5000), expectAny), good},
		"bad UTF-8":      {appendOptions("\xff", expectAny), good},
		"no id":          {appendOptions("s", expectAny), appendEvent(uuid.Nil, "T", "c", nil)},
		"no type":        {appendOptions("s", expectAny), appendEvent(testID("a"), "", "c", nil)},
		"options twice":  {appendOptions("s", expectAny), appendOptions("s", expectAny)},
		"too large":      {appendOptions("s", expectAny), appendEvent(testID("a"), "T", "c", make([]byte, 1<<20))},
	}
	for name, msgs := range appends {
		if a := w.send(msgs...); status.Code(a.err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, a)
		}
	}
	call, err := w.stubs.Append(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*streamspb.AppendReq{appendOptions("s", expectAny), {Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{}}}} {
		if err := call.Send(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if _, err := call.CloseAndRecv(); status.Code(err) != codes.InvalidArgument || fmt.Sprint(call.Trailer().Get("exception"), call.Trailer().Get("required-metadata-properties")) != "[missing-required-metadata-property] [type,content-type]" {
		t.Errorf("missing metadata: %v %v", err, call.Trailer())
	}
}

// TestCacheHasRoomBesideTheMemtables: Pebble takes the memtables, once they have grown,
// off the cache; where that leaves nothing each read takes its blocks from the file.
func TestCacheHasRoomBesideTheMemtables(t *testing.T) {
	t.Parallel()
	n, err := Open(Config{Dir: "d", FS: vfs.NewMem(), FreeBytes: plenty})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	const streams = 400 // more than a block each
	for i := range 10 { // a memtable is twice as large as the one before it, up to MemTableSize
		for s := range streams {
			w := &write{ctx: t.Context(), stream: fmt.Sprint("s", s), expected: int64(i - 1), events: []proposed{{id: eventID(uuid.New()), typ: "T", data: make([]byte, 20<<10)}}}
			if _, err := n.seq.do(w); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.store.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.store.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil { // none is to go on beside the reads
		t.Fatal(err)
	}
	missed := func() int64 {
		before := n.store.db.Metrics().BlockCache.Misses
		for s := range streams {
			if r, err := n.store.event(fmt.Sprint("s", s), 9, math.MaxUint64); err != nil || r == nil {
				t.Fatal(r, err)
			}
		}
		return n.store.db.Metrics().BlockCache.Misses - before
	}
	if first, again := missed(), missed(); again > first/10 {
		t.Errorf("read again, %d blocks were not in the cache; at first %d", again, first)
	}
}
