package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

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
	replies  []proto.Message
}

// lists asks for every list of the read model, and last for all indicators.
func lists(ctx context.Context, conn grpc.ClientConnInterface, least uint64) ([]proto.Message, es.Position, error) {
	c := pathwayv1.NewPathwayQueryServiceClient(conn)
	handovers, err1 := c.ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: least})
	booked, err2 := c.ListToBeBooked(ctx, &pathwayv1.ListToBeBookedRequest{MinPosition: least})
	deadlines, err3 := c.ListDeadlines(ctx, &pathwayv1.ListDeadlinesRequest{MinPosition: least})
	counted, err4 := pathwayv1.NewIndicatorServiceClient(conn).GetIndicators(ctx, &pathwayv1.GetIndicatorsRequest{AtLeastPosition: least, By: []pathwayv1.IndicatorDimension{
		pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER, pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_TUMOUR_GROUP, pathwayv1.IndicatorDimension_INDICATOR_DIMENSION_ROUTE}})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, 0, err
	}
	at := es.Position(deadlines.GetFreshness().GetPosition())
	if handovers.GetFreshness().GetPosition() != uint64(at) || booked.GetFreshness().GetPosition() != uint64(at) || counted.GetPosition() != uint64(at) {
		return nil, 0, errors.New("the lists moved while they were read")
	}
	handovers.Freshness, booked.Freshness, deadlines.Freshness = nil, nil, nil
	return []proto.Message{handovers, booked, deadlines, counted}, at, nil
}

// list keeps what the read model of each process says now.
func (w *world) list() {
	for _, p := range w.processes {
		l := p.alive()
		ctx, cancel := context.WithTimeout(w.life, longest)
		replies, at, err := lists(ctx, l.conn, 0)
		cancel()
		if err != nil {
			w.fail("the lists of %s: %v", p.name, err)
			continue
		}
		w.lists = append(w.lists, listed{p.name, w.clock().Add(l.skew), at, replies})
	}
}

// projections compares each with a fold of the log that knows nothing of crashes.
func (r *Result) projections(w *world) {
	for _, l := range w.lists {
		fresh, err := refold(l, w.log)
		if err != nil {
			r.unexplained("the lists of %s made anew: %v", l.process, err)
			continue
		}
		for i, was := range l.replies {
			if !proto.Equal(was, fresh[i]) {
				r.unexplained("%s of %s at position %d is not a fold of the log: %v, %v", was.ProtoReflect().Descriptor().Name(), l.process, l.position, was, fresh[i])
			}
		}
		if slices.ContainsFunc(l.replies[:3], func(m proto.Message) bool { return proto.Size(m) > 0 }) {
			r.Compared++ // of empty lists nothing is learnt
		}
	}
}

// refold makes the lists from the log as it was.
func refold(l listed, all []es.Recorded) ([]proto.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	end, _ := slices.BinarySearchFunc(all, l.position+1, func(e es.Recorded, p es.Position) int { return int(e.Position) - int(p) })
	deps := run.Deps{Log: past(all[:end]), Clock: func() time.Time { return l.at }, Slog: slog.New(slog.DiscardHandler), Meter: noop.NewMeterProvider().Meter(""), Key: simKey()}
	parts, err := allinone.Services(deps, "pathway")
	if err != nil {
		return nil, err
	}
	part := parts[0]
	valid, err := rules()
	if err != nil {
		return nil, err
	}
	server, err := run.NewServer(ctx, run.Config{}, valid, deps.Slog)
	if err != nil {
		return nil, err
	}
	part.Register(server)
	lis := bufconn.Listen(64 << 10)
	go server.Serve(lis) // ends with Stop
	defer server.Stop()
	conn, err := dial(lis)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() { ended <- part.Run(ctx) }()
	asked, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	replies, _, err := lists(asked, conn, uint64(l.position))
	cancel()
	<-ended
	return replies, errors.Join(err, part.Close())
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
