// Package bench measures our rates beside the limits of the machine, in one run:
// what the work costs at least, and what ours costs, taken in turns so that both
// meet the same moments of the machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc"

	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/eventstore"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
	"waymark/services/pathway"
)

// PathwayTarget is how many times the bare reading of its streams the rebuild of
// a pathway may cost.
const PathwayTarget = 1.3

// PathwayOptions of Pathway. Dir is required and should be empty.
type PathwayOptions struct {
	Dir    string // of the node's data
	Events int    // of the pathway; 0 means 60
	Rounds int    // 0 means 15; of each comes one ratio
	Reads  int    // of each kind in a round; 0 means 300
	// Round, where set, is told of each round that ended.
	Round func(done, of int)
}

// PathwayResult is what Pathway measured.
type PathwayResult struct {
	Events  int `json:"events"`
	Streams int `json:"streams"`
	Rounds  int `json:"rounds"`
	Reads   int `json:"reads_per_round"`
	// Bare reads the same streams with the official client, all at once, and throws
	// the events away. Rebuild is GetPathway as the service runs it, in its process;
	// the service's read model has taken the pathway in before. Call is GetPathway, over gRPC with all that every call passes.
	Bare    Latency `json:"bare"`
	Rebuild Latency `json:"rebuild"`
	Call    Latency `json:"call"`
	Target  float64 `json:"target"`
}

// Latency of one kind of reads, over all rounds, and how many times the bare cost
// it was at the median of a round.
type Latency struct {
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`
	Ratio     float64 `json:"ratio"` // median over the rounds
	RatioMin  float64 `json:"ratio_min"`
	RatioMax  float64 `json:"ratio_max"`
}

// Pathway writes one pathway to a node in opts.Dir, as the services write it, and
// measures what putting it together costs.
func Pathway(ctx context.Context, opts PathwayOptions) (result PathwayResult, err error) {
	if opts.Events == 0 {
		opts.Events = 60
	}
	if opts.Rounds == 0 {
		opts.Rounds = 15
	}
	if opts.Reads == 0 {
		opts.Reads = 300
	}
	b, err := openBench(ctx, opts.Dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	streams, err := writeStory(ctx, b.log, opts.Events)
	if err != nil {
		return result, err
	}
	result = PathwayResult{Events: opts.Events, Streams: len(streams), Rounds: opts.Rounds, Reads: opts.Reads, Target: PathwayTarget}
	kinds := []func(context.Context) error{
		func(ctx context.Context) error { return b.bare(ctx, streams) },
		func(ctx context.Context) error {
			out, err := b.inside.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: storyID})
			return whole(out.GetPathway(), opts.Events, err)
		},
		func(ctx context.Context) error {
			out, err := b.service.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: storyID})
			return whole(out.GetPathway(), opts.Events, err)
		},
	}
	took := make([][][]time.Duration, len(kinds)) // by kind and round
	for round := range opts.Rounds + 1 {          // the first warms up and is not counted
		for k := range kinds {
			took[k] = append(took[k], make([]time.Duration, 0, opts.Reads))
		}
		for i := range opts.Reads {
			for turn := range kinds {
				k := (i + turn) % len(kinds) // each kind follows each other
				began := run.Clock()
				if err := kinds[k](ctx); err != nil {
					return result, err
				}
				took[k][round] = append(took[k][round], run.Clock().Sub(began))
			}
		}
		if opts.Round != nil && round > 0 {
			opts.Round(round, opts.Rounds)
		}
	}
	for k := range took {
		took[k] = took[k][1:]
	}
	result.Bare, result.Rebuild, result.Call = latency(took[0], took[0]), latency(took[1], took[0]), latency(took[2], took[0])
	return result, nil
}

// whole refuses a pathway that is not all there: a fast answer must be a right one.
func whole(v *pb.Pathway, events int, err error) error {
	if err == nil && v.GetEvents() != int64(events) {
		err = fmt.Errorf("the pathway has %d events, not %d", v.GetEvents(), events)
	}
	return err
}

func latency(rounds, bare [][]time.Duration) (l Latency) {
	var all []time.Duration
	var ratios []float64
	for i, round := range rounds {
		all = append(all, round...)
		ratios = append(ratios, float64(quantile(round, 0.5))/float64(quantile(bare[i], 0.5)))
	}
	slices.Sort(ratios)
	l.P50Micros, l.P99Micros = micros(quantile(all, 0.5)), micros(quantile(all, 0.99))
	l.RatioMin, l.Ratio, l.RatioMax = ratios[0], ratios[len(ratios)/2], ratios[len(ratios)-1]
	return l
}

// quantile by nearest rank.
func quantile(of []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// world is a node, the pathway service on it, and a client of each.
type world struct {
	log     *es.Client
	client  *esdb.Client
	inside  pb.PathwayQueryServiceServer // the service itself
	service pb.PathwayQueryServiceClient // of it, over gRPC
	conn    *grpc.ClientConn             // of service
	closers []func() error
}

func openBench(ctx context.Context, dir string) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	node, err := eventstore.Open(eventstore.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	w.closing(node.Close)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go node.Serve(lis) // Close ends it
	url := "esdb://" + lis.Addr().String() + "?tls=false"
	if w.log, err = es.Open(es.Config{URL: url}); err != nil {
		return nil, err
	}
	w.closing(w.log.Close)
	cfg, err := esdb.ParseConnectionString(url)
	if err != nil {
		return nil, err
	}
	cfg.Logger = esdb.NoopLogging()
	if w.client, err = esdb.NewClient(cfg); err != nil {
		return nil, err
	}
	w.closing(w.client.Close)
	return w, w.serve(ctx)
}

// serve starts the pathway service as `waymark run pathway` does.
func (w *world) serve(ctx context.Context) error {
	logger, err := run.NewLogger(io.Discard, "text", "error")
	if err != nil {
		return err
	}
	program, err := run.Listen(ctx, run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "bench", logger)
	if err != nil {
		return err
	}
	deps := program.Deps(w.log, nil, storyKey)
	part, err := pathway.New(deps)
	if err != nil {
		return errors.Join(err, program.Close())
	}
	var inside capture
	part.Register(&inside)
	w.inside = inside.PathwayQueryServiceServer
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- program.Serve(life, deps, part) }()
	w.closing(func() error { end(); return <-ended })
	conn, err := run.Dial(program.GRPC(), nil, nil)
	if err != nil {
		return err
	}
	w.closing(conn.Close)
	w.conn, w.service = conn, pb.NewPathwayQueryServiceClient(conn)
	select {
	case <-program.Ready():
		return nil
	case err := <-ended:
		ended <- nil // for close
		return errors.Join(errors.New("the pathway service did not start"), err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// capture keeps the pathway service as it is registered, to be called without gRPC.
type capture struct{ pb.PathwayQueryServiceServer }

func (c *capture) RegisterService(_ *grpc.ServiceDesc, impl any) {
	if s, ok := impl.(pb.PathwayQueryServiceServer); ok {
		c.PathwayQueryServiceServer = s
	}
}

// bare reads streams to their ends, all at once.
func (w *world) bare(ctx context.Context, streams []string) error {
	var wg sync.WaitGroup
	errs := make([]error, len(streams))
	for i, stream := range streams {
		wg.Go(func() { errs[i] = w.read(ctx, stream) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *world) read(ctx context.Context, stream string) error {
	r, err := w.client.ReadStream(ctx, stream, esdb.ReadStreamOptions{From: esdb.Start{}}, math.MaxInt64)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, err := r.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (w *world) closing(f func() error) { w.closers = append(w.closers, f) }

func (w *world) close() (err error) {
	for _, f := range slices.Backward(w.closers) {
		err = errors.Join(err, f())
	}
	return err
}
