package feed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/edge"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/mllp"
)

// mortal is the log as a process sees it that dies at one append: before it is
// stored, or after, with the answer lost. From then on nothing of it reaches the
// log, which lives on.
type mortal struct {
	es.Log
	after bool // dies after the append

	mu   sync.Mutex // guards all below
	left int        // appends until it dies; never when negative
	dead bool
	died chan struct{} // closed then
}

// mortalCalls end with the process.
type mortalCalls struct {
	grpc.ClientConnInterface
	died chan struct{}
}

func (c mortalCalls) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.died:
			cancel()
		case <-ctx.Done():
		}
	}()
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

var errDead = fault.Unavailable("test.dead", "the process was killed", 0)

func (m *mortal) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return es.Appended{}, errDead
	}
	m.left--
	if m.left != 0 {
		return m.Log.Append(ctx, stream, expected, events)
	}
	m.dead = true
	defer close(m.died)
	if m.after {
		if _, err := m.Log.Append(ctx, stream, expected, events); err != nil {
			return es.Appended{}, err
		}
	}
	return es.Appended{}, errDead
}

func (m *mortal) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	return nil
}

func (m *mortal) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Log.Read(ctx, stream, from, yield)
}

// life is a feed about one patient in which each message makes several commands
// or changes what an earlier one made.
func life() []string {
	pv1 := func(number, began, ended, method string) string {
		f := make([]string, 51)
		f[0], f[1], f[2], f[4], f[19], f[44], f[45], f[36] = "PV1", "1", "I", "11", number, began, ended, method
		return strings.Join(f, "|") + "\r"
	}
	obr := func(status, flag string) string {
		return fmt.Sprintf("OBR|1||L1|2857-1^PSA^LN|||202606021000||||||||||||||||||%s\rOBX|1|NM|2857-1^PSA^LN||9.8|ug/L|0-4|%s|||F\r", status, flag)
	}
	txa := func(status string) string { return "TXA|1|CL|TX|20260602||||||||D1|||||" + status + "\r" }
	return []string{
		ref("I12", "c1", "RF1|P|3|01|||REF1^RJ1|20260601"),
		about("SIU^S12", "c2", 10, sch("F1", "202606100900", "202606100930", "")),
		about("SIU^S12", "c3", 11, sch("F2", "202606100915", "202606100945", "")), // overlaps
		about("SIU^S13", "c4", 12, sch("F1", "202606110900", "202606110930", "")),
		about("SIU^S26", "c5", 13, sch("F1", "202606110900", "202606110930", "")),
		about("ADT^A03", "c7", 15, pv1("V1", "202606050815", "202606060900", "4")), // a death, a beginning and an end
		about("ORU^R01", "c9", 17, obr("F", "H")),
		about("ORU^R01", "c10", 18, obr("C", "N")),
		about("MDM^T02", "c11", 19, txa("DI")),
		ref("I12", "c13", "RF1|P|R|AHP|||R7|20260602|||X^Stiff shoulder"),
		ref("I13", "c14", "RF1|P|R|AHP|||R7|20260602|||X^Stiff neck"),
	}
}

// told is one event that is no message's, with nothing that may differ between
// two runs of one feed.
func told(t testing.TB, log es.Log) (all []string) {
	t.Helper()
	if err := log.ReadAll(t.Context(), 0, func(e es.Recorded) error {
		if !strings.HasPrefix(e.Stream, "message-") {
			all = append(all, fmt.Sprintf("%s/%d %s %x", e.Stream, e.Revision, e.Type, e.Data))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// promises checks a log against what the edge promises, by code of its own: each
// message that was acknowledged is there with its outcome, once; and what a message
// caused comes after it.
func promises(log es.Log, acknowledged map[string]bool) error {
	kept, concluded := map[string]string{}, map[string]int{}
	if err := log.ReadAll(context.Background(), 0, func(e es.Recorded) error {
		category, id, _ := strings.Cut(e.Stream, "-")
		if category != "message" {
			m, err := es.ParseMetadata(e)
			if err == nil && m.CausationID != "" && kept[m.CausationID] == "" {
				return errors.New("something was applied of a message that was not kept before")
			}
			return err
		}
		event, err := es.Decode(e)
		if r, ok := event.(*pb.MessageReceived); ok {
			if kept[id] != "" {
				return errors.New("a message was kept twice")
			}
			kept[id] = r.ControlId
		} else {
			concluded[kept[id]]++
		}
		return err
	}); err != nil {
		return err
	}
	for control := range acknowledged {
		if concluded[control] != 1 {
			return fmt.Errorf("message %s was acknowledged and has %d outcomes", control, concluded[control])
		}
	}
	return nil
}

// sender sends a feed as a trust's system does: the next message when the one
// before was acknowledged, and the same one again after a connection broke.
type sender struct {
	t    testing.TB
	log  es.Log // that outlives every process
	feed []string

	at           int // the message that is next
	acknowledged map[string]bool
}

// send sends until the process dies or everything is acknowledged. After each
// acknowledgement what it promises is checked.
func (s *sender) send(h *house) error {
	conn, err := net.Dial("tcp", h.mllp)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for ; s.at < len(s.feed); s.at++ {
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := conn.Write(mllp.Frame([]byte(s.feed[s.at]))); err != nil {
			return nil // it died
		}
		answer, err := mllp.Read(r, mllp.MaxMessage)
		if err != nil {
			return nil
		}
		control := strings.Split(s.feed[s.at], "|")[9]
		if !strings.Contains(string(answer), "\rMSA|AA|"+control) {
			return fmt.Errorf("%s was answered %q", control, answer)
		}
		s.acknowledged[control] = true
		if err := promises(s.log, s.acknowledged); err != nil {
			return err
		}
	}
	return nil
}

type wrapper = func(grpc.ClientConnInterface) grpc.ClientConnInterface

func plainly(c grpc.ClientConnInterface) grpc.ClientConnInterface { return c }

// deaths sends the feed to processes each of which dies at its first append, in
// turn before and after it is stored: every step of every message is a place at
// which one process died and another went on.
func deaths(t testing.TB, log es.Log, seen func(es.Log) es.Log, wrap wrapper) (died int, err error) {
	t.Helper()
	s := &sender{t: t, log: log, feed: life(), acknowledged: map[string]bool{}}
	for died = 0; s.at < len(s.feed); died++ {
		if died > 400 {
			return died, fmt.Errorf("no progress after %d deaths", died)
		}
		m := &mortal{Log: log, after: died%2 == 1, left: 1, died: make(chan struct{})}
		h := openWith(t, seen(m), edge.ListenOptions{}, func(c grpc.ClientConnInterface) grpc.ClientConnInterface { return wrap(mortalCalls{c, m.died}) })
		err := s.send(h)
		h.stop()
		if err != nil {
			return died, err
		}
	}
	return died, promises(log, s.acknowledged)
}

func asIs(l es.Log) es.Log { return l }

// A process that dies at any step of any message changes nothing in what is
// recorded in the end.
func TestDeathAtEveryStep(t *testing.T) {
	t.Parallel()
	calm := estest.NewLog()
	h := open(t, calm, edge.ListenOptions{})
	s := &sender{t: t, log: calm, feed: life(), acknowledged: map[string]bool{}}
	if err := s.send(h); err != nil || s.at < len(s.feed) {
		t.Fatalf("undisturbed, after %d messages: %v", s.at, err)
	}
	want := told(t, calm)
	log := estest.NewLog()
	died, err := deaths(t, log, asIs, plainly)
	if err != nil {
		t.Fatal(err)
	}
	got := told(t, log)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("recorded after %d deaths only: %.200s", died, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("lost after %d deaths: %.200s", died, line)
		}
	}
	estest.Audit(t, log)
	t.Logf("%d messages, %d events, %d deaths", len(s.feed), len(want), died)
}

// early acknowledges before anything is durable.
type early struct{ grpc.ClientConnInterface }

func (e early) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if out, ok := reply.(*pb.TakeMessageReply); ok {
		control := strings.Split(string(args.(*pb.TakeMessageRequest).Raw), "|")[9]
		out.Answers = [][]byte{[]byte("MSH|^~\\&|||||||ACK|1|P|2.4\rMSA|AA|" + control + "\r")}
		ctx := context.WithoutCancel(ctx)
		go func() { _ = e.ClientConnInterface.Invoke(ctx, method, args, &pb.TakeMessageReply{}, opts...) }()
		return nil
	}
	return e.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// lazy stores a message together with its outcome: it is applied before it is kept.
type lazy struct {
	es.Log
	mu   sync.Mutex // guards held
	held map[string][]es.NewEvent
}

func (l *lazy) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	if !strings.HasPrefix(stream, "message-") {
		return l.Log.Append(ctx, stream, expected, events)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if expected == es.NoStream {
		l.held[stream] = events
		return es.Appended{Revision: 0, Position: 1}, nil
	}
	if held := l.held[stream]; held != nil {
		delete(l.held, stream)
		return l.Log.Append(ctx, stream, es.NoStream, append(slices.Clone(held), events...))
	}
	return l.Log.Append(ctx, stream, expected, events)
}

// What the tests above rely on sees an acknowledgement that comes too early, and a
// message that is applied before it is kept.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]struct {
		wrap wrapper
		seen func(es.Log) es.Log
	}{
		"acknowledged before durable": {func(c grpc.ClientConnInterface) grpc.ClientConnInterface { return early{c} }, asIs},
		"applied before kept":         {plainly, func(l es.Log) es.Log { return &lazy{Log: l, held: map[string][]es.NewEvent{}} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if died, err := deaths(t, estest.NewLog(), plant.seen, plant.wrap); err == nil {
				t.Errorf("not seen in %d deaths", died)
			} else {
				t.Logf("seen: %v", err)
			}
		})
	}
}
