package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"

	"waymark/services/allinone"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// listed is what the read model of a process answered, and when by its clock.
type listed struct {
	process  string
	at       time.Time
	position es.Position
	parties  []string // that were asked for
	replies  []proto.Message
	pathways []string // that were asked for, one by one
	single   []proto.Message
	pictures []picture
}

// lists asks for every list of the read model, for those of each party too, and
// last for all indicators.
func lists(ctx context.Context, conn grpc.ClientConnInterface, least uint64, parties []string) (replies []proto.Message, at es.Position, failed error) {
	type reply interface {
		proto.Message
		GetFreshness() *pathwayv1.Freshness
	}
	is := func(position uint64) {
		if failed == nil && len(replies) > 1 && es.Position(position) != at {
			failed = errors.New("the lists moved while they were read")
		}
		at = es.Position(position)
	}
	take := func(r reply, err error) {
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		replies = append(replies, r)
		is(r.GetFreshness().GetPosition())
		m := r.ProtoReflect()
		m.Clear(m.Descriptor().Fields().ByName("freshness"))
	}
	from := func(c pathwayv1.PathwayQueryServiceClient, party string) {
		take(c.ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: least, ToPartyId: party}))
		take(c.ListToBeBooked(ctx, &pathwayv1.ListToBeBookedRequest{MinPosition: least, PartyId: party}))
		take(c.ListOverdue(ctx, &pathwayv1.ListOverdueRequest{MinPosition: least, PartyId: party}))
	}
	c := pathwayv1.NewPathwayQueryServiceClient(conn)
	from(c, "")
	take(c.ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: least, OverdueOnly: true}))
	take(c.ListToBeBooked(ctx, &pathwayv1.ListToBeBookedRequest{MinPosition: least, OverdueOnly: true}))
	take(c.ListDeadlines(ctx, &pathwayv1.ListDeadlinesRequest{MinPosition: least}))
	for _, party := range parties {
		from(c, party)
		take(c.ListCaseload(ctx, &pathwayv1.ListCaseloadRequest{MinPosition: least, PartyId: party}))
		take(c.ListCaseload(ctx, &pathwayv1.ListCaseloadRequest{MinPosition: least, PartyId: party, OverdueOnly: true}))
	}
	counted, err := pathwayv1.NewIndicatorServiceClient(conn).GetIndicators(ctx, &pathwayv1.GetIndicatorsRequest{AtLeastPosition: least, By: []pathwayv1.IndicatorDimension{
		pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER, pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_TUMOUR_GROUP, pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_ROUTE}})
	if err != nil {
		return nil, 0, errors.Join(failed, err)
	}
	is(counted.GetPosition())
	return append(replies, counted), at, failed
}

// singles asks for each pathway as the lists have it, as the log has it, and for its
// timeline, in small pages.
func singles(ctx context.Context, conn grpc.ClientConnInterface, least uint64, pathways []string) (replies []proto.Message, err error) {
	c := pathwayv1.NewPathwayQueryServiceClient(conn)
	for _, id := range pathways {
		looked, err := c.LookUpPathway(ctx, &pathwayv1.LookUpPathwayRequest{PathwayId: id, MinPosition: least})
		if err != nil {
			return nil, err
		}
		replies = append(replies, looked.Pathway)
	}
	for _, id := range pathways {
		folded, err := c.GetPathway(ctx, &pathwayv1.GetPathwayRequest{PathwayId: id})
		if err != nil {
			return nil, err
		}
		whole := &pathwayv1.GetTimelineResponse{}
		for token := ""; ; {
			page, err := c.GetTimeline(ctx, &pathwayv1.GetTimelineRequest{PathwayId: id, PageSize: 7, PageToken: token})
			if err != nil {
				return nil, err
			}
			whole.Entries, whole.Position = append(whole.Entries, page.Entries...), page.Position
			if token = page.NextPageToken; token == "" {
				break
			}
		}
		replies = append(replies, folded, whole)
	}
	return replies, nil
}

// listing is of what the lists are made.
func listing() []string {
	return []string{"pathway", "referral", "plan", "appointment", "carelead", "person", "lead"}
}

// started are all pathways.
func started(log []es.Recorded) (ids []string) {
	for _, e := range log {
		if id, ok := strings.CutPrefix(e.Stream, "pathway-"); ok && e.Revision == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// one compares what is told of single pathways with a fold of the log, the two ways
// in which a pathway is told with each other, and timelines with the log itself.
func (r *Result) one(l listed, fresh []proto.Message, log []es.Recorded) {
	for i, was := range l.single {
		if !proto.Equal(was, fresh[i]) {
			r.unexplained("%s of %s is not a fold of the log: %s", was.ProtoReflect().Descriptor().Name(), l.process, differ(was, fresh[i]))
		}
	}
	there := map[string]es.Recorded{}
	for _, e := range log {
		there[e.ID.String()] = e
	}
	for i, id := range l.pathways {
		looked, folded := l.single[i], l.single[len(l.pathways)+2*i].(*pathwayv1.GetPathwayResponse)
		if !proto.Equal(looked, folded.Pathway) {
			r.unexplained("pathway %s as the lists of %s have it is not as the log has it: %s", id, l.process, differ(looked, folded.Pathway))
		}
		told, last := map[string]bool{}, uint64(0)
		for _, t := range l.single[len(l.pathways)+2*i+1].(*pathwayv1.GetTimelineResponse).Entries {
			if e := there[t.EventId]; e.Stream != t.Stream || e.Position != es.Position(t.Position) || t.Position <= last {
				r.unexplained("the timeline of pathway %s tells of %s@%d, which is not there or not next", id, t.Stream, t.Revision)
			}
			told[t.EventId], last = true, t.Position
		}
		for _, e := range log {
			category, of, _ := strings.Cut(e.Stream, "-")
			if of == id && slices.Contains(listing(), category) && !told[e.ID.String()] {
				r.unexplained("the timeline of pathway %s does not tell of %s@%d, %s", id, e.Stream, e.Revision, e.Type)
			}
		}
		r.Singles++
	}
}

// parties are all who ever held a pathway.
func parties(log []es.Recorded) []string {
	held := map[string]bool{}
	note := func(p *careleadv1.Party) {
		if key := cmp.Or(p.GetId(), p.GetOrganisation()); key != "" {
			held[key] = true
		}
	}
	for _, e := range log {
		if !strings.HasPrefix(e.Stream, "carelead-") {
			continue
		}
		m, _ := es.Decode(e) // what cannot be decoded is noticed in Check
		switch m := m.(type) {
		case *careleadv1.LedgerOpened:
			note(m.Holder)
		case *careleadv1.AccountabilityTransferred:
			note(m.From)
			note(m.To)
		}
	}
	return slices.Sorted(maps.Keys(held))
}

// rows is how many rows a list has.
func rows(list proto.Message) int {
	m := list.ProtoReflect()
	return m.Get(m.Descriptor().Fields().ByName("rows")).List().Len()
}

// list keeps what the read model of each process says now.
func (w *world) list(log []es.Recorded) {
	held, least := parties(log), es.Position(0)
	for _, e := range log {
		if category, _, _ := strings.Cut(e.Stream, "-"); slices.Contains(listing(), category) {
			least = e.Position
		}
	}
	for _, p := range w.processes {
		l := p.alive()
		ctx, cancel := context.WithTimeout(w.life, patience)
		// What is due is so at an instant: first it waits, then it asks.
		_, err := pathwayv1.NewPathwayQueryServiceClient(l.conn).ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: uint64(least)})
		got := listed{process: p.name, at: w.clock().Add(l.skew), parties: held, pathways: started(log)}
		if err == nil {
			got.replies, got.position, err = lists(ctx, l.conn, uint64(least), held)
		}
		if err == nil {
			got.single, err = singles(ctx, l.conn, uint64(least), got.pathways)
		}
		got.pictures = w.pictures(ctx, &l.peer)
		cancel()
		if err != nil {
			w.fail("the lists of %s: %v", p.name, err)
			continue
		}
		w.lists = append(w.lists, got)
	}
}

// differ tells the first lines in which two messages differ as text.
func differ(was, fresh proto.Message) string {
	lines := func(m proto.Message) []string {
		return strings.Split(prototext.MarshalOptions{Multiline: true}.Format(m), "\n")
	}
	a, b := lines(was), lines(fresh)
	n := 0
	for n < min(len(a), len(b))-1 && a[n] == b[n] {
		n++
	}
	return fmt.Sprintf("%d and %d lines, line %d is %q and %q", len(a), len(b), n+1, strings.TrimSpace(a[n]), strings.TrimSpace(b[n]))
}

// projections compares each with a fold of the log that knows nothing of crashes.
func (r *Result) projections(w *world) {
	for _, l := range w.lists {
		fresh, single, err := refold(l, w.log)
		if err != nil {
			r.unexplained("the lists of %s made anew: %v", l.process, err)
			continue
		}
		for i, was := range l.replies {
			if !proto.Equal(was, fresh[i]) {
				r.unexplained("%s of %s at position %d is not a fold of the log: %s", was.ProtoReflect().Descriptor().Name(), l.process, l.position, differ(was, fresh[i]))
			}
		}
		r.one(l, single, w.log)
		r.watched(l, single)
		all := 0
		for _, was := range l.replies[:len(l.replies)-1] { // but the indicators
			n := rows(was)
			r.Rows[string(was.ProtoReflect().Descriptor().Name())] += n
			all += n
		}
		if all > 0 {
			r.Compared++ // of empty lists nothing is learnt
		}
	}
}

// refold makes the lists from the log as it was.
func refold(l listed, all []es.Recorded) (replies, single []proto.Message, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	end, _ := slices.BinarySearchFunc(all, l.position+1, func(e es.Recorded, p es.Position) int { return int(e.Position) - int(p) })
	deps := run.Deps{Log: past(all[:end]), Clock: func() time.Time { return l.at }, Slog: slog.New(slog.DiscardHandler), Meter: noop.NewMeterProvider().Meter(""), Key: simKey()}
	parts, err := allinone.Services(deps, "pathway")
	if err != nil {
		return nil, nil, err
	}
	part := parts[0]
	valid, err := rules()
	if err != nil {
		return nil, nil, err
	}
	server, err := run.NewServer(ctx, run.Config{}, valid, deps.Slog)
	if err != nil {
		return nil, nil, err
	}
	part.Register(server)
	lis := bufconn.Listen(64 << 10)
	go server.Serve(lis) // ends with Stop
	defer server.Stop()
	conn, err := dial(lis)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() { ended <- part.Run(ctx) }()
	asked, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	if replies, _, err = lists(asked, conn, uint64(l.position), l.parties); err == nil {
		single, err = singles(asked, conn, uint64(l.position), l.pathways)
	}
	cancel()
	<-ended
	return replies, single, errors.Join(err, part.Close())
}

// past is a log that nobody writes to any more.
type past []es.Recorded

var errPast = errors.New("sim: nobody writes to the past")

func (p past) Append(context.Context, string, es.Revision, []es.NewEvent) (es.Appended, error) {
	return es.Appended{}, errPast
}

func (p past) SetMaxCount(context.Context, string, int) error { return errPast }

func (p past) Health(context.Context) (read, write error) { return nil, errPast }

func (p past) Head(context.Context) (es.Position, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return p[len(p)-1].Position, nil
}

func (p past) Read(_ context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	return p.each(func(e es.Recorded) bool { return e.Stream == stream && e.Revision >= from }, yield)
}

func (p past) ReadAll(_ context.Context, after es.Position, yield func(es.Recorded) error) error {
	return p.each(func(e es.Recorded) bool { return e.Position > after }, yield)
}

func (p past) Subscribe(ctx context.Context, after es.Position, filter es.Filter, handle func(es.Message) error) error {
	wanted := func(e es.Recorded) bool {
		category, _, _ := strings.Cut(e.Stream, "-")
		return e.Position > after && (len(filter.Categories) == 0 || slices.Contains(filter.Categories, category))
	}
	if err := p.each(wanted, func(e es.Recorded) error { return handle(es.Message{Event: &e}) }); err != nil {
		return err
	}
	if err := handle(es.Message{CaughtUp: true}); err != nil {
		return err
	}
	<-ctx.Done()
	return fmt.Errorf("sim: %w", ctx.Err())
}

func (p past) each(wanted func(es.Recorded) bool, yield func(es.Recorded) error) error {
	for _, e := range p {
		if wanted(e) {
			if err := yield(e); err != nil {
				return err
			}
		}
	}
	return nil
}
