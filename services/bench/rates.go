package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	metav1 "waymark/proto/waymark/meta/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/allinone"
	"waymark/services/eventstore"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
	"waymark/services/pathway"
)

// appender appends to a stream of each worker at the exact revision. All that it
// sends is encoded beforehand but for revisions and ids. The client of the echo
// does no more either, and both clients share the machine with what they measure.
type appender struct {
	conn  *grpc.ClientConn
	at    []uint64            // events in the stream, by worker
	calls []grpc.ClientStream // of BatchAppend, by worker
	run   uuid.UUID           // makes ids and names of streams its own
	event []byte              // an AppendReq with an event
	id    int                 // where its id is
	next  atomic.Uint64
}

func (a *appender) stream(worker int) string { return fmt.Sprintf("bench-%s-%d", a.run, worker) }

func newAppender(conn *grpc.ClientConn, workers int, typ string) (*appender, error) {
	a := &appender{conn: conn, at: make([]uint64, workers), calls: make([]grpc.ClientStream, workers), run: uuid.New()}
	event := &streamspb.AppendReq_ProposedMessage{
		Id:             &shared.UUID{Value: &shared.UUID_String_{String_: a.run.String()}},
		Metadata:       map[string]string{"type": typ, "content-type": "application/octet-stream"},
		CustomMetadata: make([]byte, eventBytes/2), Data: make([]byte, eventBytes/2),
	}
	var err error
	a.event, err = proto.Marshal(&streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: event}})
	a.id = bytes.Index(a.event, []byte(a.run.String()))
	return a, err
}

func (l *lab) appender(workers int) (*appender, error) {
	p, err := l.start("node", filepath.Join(l.dir, "store"))
	if err != nil {
		return nil, err
	}
	conn, err := l.dial(p.address)
	if err != nil {
		return nil, err
	}
	return newAppender(conn, workers, "waymark.bench.v1.Happened")
}

// proposed appends an event with an id of its own to b.
func (a *appender) proposed(b []byte) []byte {
	id := a.run
	binary.BigEndian.PutUint64(id[:], a.next.Add(1))
	at := len(b) + a.id
	b = append(b, a.event...)
	copy(b[at:], id.String())
	return b
}

// append is a call of v1 Append, one message an event.
func (a *appender) append(ctx context.Context, worker, events int) error {
	call, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, streamspb.Streams_Append_FullMethodName, grpc.ForceCodecV2(passing{}))
	if err != nil {
		return err
	}
	options := &streamspb.AppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(a.stream(worker))}}
	if a.at[worker] == 0 {
		options.ExpectedStreamRevision = &streamspb.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}
	} else {
		options.ExpectedStreamRevision = &streamspb.AppendReq_Options_Revision{Revision: a.at[worker] - 1}
	}
	err = call.SendMsg(&streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: options}})
	for i := 0; err == nil && i < events; i++ {
		err = call.SendMsg(encoded(a.proposed(nil)))
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why
		return err
	}
	var answer streamspb.AppendResp
	if err := errors.Join(call.CloseSend(), call.RecvMsg(&answer)); err != nil {
		return err
	}
	if answer.GetSuccess() == nil {
		return fmt.Errorf("an append was refused: %v", &answer)
	}
	a.at[worker] += uint64(events)
	return nil
}

// batch is one append of a call of BatchAppend that lasts, all events in one message.
func (a *appender) batch(ctx context.Context, worker, events int) error {
	if a.calls[worker] == nil { // it outlives the round
		call, err := a.conn.NewStream(context.WithoutCancel(ctx), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, streamspb.Streams_BatchAppend_FullMethodName, grpc.ForceCodecV2(passing{}))
		if err != nil {
			return err
		}
		a.calls[worker] = call
	}
	options := &streamspb.BatchAppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(a.stream(worker))}}
	if a.at[worker] == 0 {
		options.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}}
	} else {
		options.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_StreamPosition{StreamPosition: a.at[worker] - 1}
	}
	id := &shared.UUID{Value: &shared.UUID_String_{String_: uuid.NewString()}}
	message := make([]byte, 0, 200+events*len(a.event))
	message, err := proto.MarshalOptions{}.MarshalAppend(message, &streamspb.BatchAppendReq{CorrelationId: id, Options: options, IsFinal: true})
	if err != nil {
		return err
	}
	for range events {
		at := len(message)
		message = a.proposed(message)
		message[at] = 3<<3 | 2 // BatchAppendReq.proposed_messages; the event itself is the same as AppendReq's
	}
	var answer streamspb.BatchAppendResp
	if err := errors.Join(a.calls[worker].SendMsg(encoded(message)), a.calls[worker].RecvMsg(&answer)); err != nil {
		return err
	}
	if answer.GetSuccess() == nil {
		return fmt.Errorf("an append was refused: %v", &answer)
	}
	a.at[worker] += uint64(events)
	return nil
}

func (a *appender) rate(workers, events int) side {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return drive(ctx, workers, d, func(ctx context.Context, w int) (int, error) { return events, a.append(ctx, w, events) })
	}
}

func appendRate(_ context.Context, l *lab) (*measure, error) {
	a, err := l.appender(inFlight)
	if err != nil {
		return nil, err
	}
	echo, err := l.echo(1)
	return &measure{Row: Row{What: "append of one event, exact revision, durable", Unit: "events/s", Per: "one-hop echoes/s", Floor: 0.45, Aim: 0.65},
		ours: a.rate(inFlight, 1), limit: echoRate(echo, eventBytes, eventBytes)}, err
}

func appendRateClient(_ context.Context, l *lab) (*measure, error) {
	node, err := l.start("node", filepath.Join(l.dir, "store"))
	if err != nil {
		return nil, err
	}
	log, err := l.log(node.address)
	if err != nil {
		return nil, err
	}
	echo, err := l.echo(1)
	at := make([]es.Revision, inFlight)
	for i := range at {
		at[i] = es.NoStream
	}
	return &measure{Row: Row{What: "same through kit/es", Unit: "events/s", Per: "one-hop echoes/s"},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			return drive(ctx, inFlight, d, func(ctx context.Context, w int) (int, error) {
				done, err := log.Append(ctx, fmt.Sprintf("bench-%d", w), at[w],
					[]es.NewEvent{{ID: uuid.New(), Type: "waymark.bench.v1.Happened", Data: make([]byte, eventBytes/2), Metadata: make([]byte, eventBytes/2)}})
				at[w] = done.Revision
				return 1, err
			})
		}, limit: echoRate(echo, eventBytes, eventBytes)}, err
}

func appendToPebble(_ context.Context, l *lab) (*measure, error) {
	a, err := l.appender(inFlight)
	if err != nil {
		return nil, err
	}
	commit, err := l.pebble(1)
	return &measure{Row: Row{What: "append of one event", Unit: "events/s", Per: "synced Pebble commits/s, 64 writers", Floor: 0.15, Aim: 0.25},
		ours: a.rate(inFlight, 1), limit: func(ctx context.Context, d time.Duration) (float64, error) { return drive(ctx, 64, d, commit) }}, err
}

// batchAppend appends by BatchAppend, the only call of the protocol that takes many
// events in one message.
func batchAppend(_ context.Context, l *lab) (*measure, error) {
	m, err := l.bulk((*appender).batch)
	m.What, m.Floor, m.Aim = "appends of 100 events by BatchAppend, 8 at a time", 0.5, 0.8
	return m, err
}

func bulkAppend(_ context.Context, l *lab) (*measure, error) {
	m, err := l.bulk((*appender).append)
	m.What = "same by Append, a message an event"
	return m, err
}

// bulk measures appends of 100 events.
func (l *lab) bulk(send func(a *appender, ctx context.Context, worker, events int) error) (*measure, error) {
	m := &measure{Row: Row{Unit: "events/s", Per: "events/s in synced Pebble batches of 64, 8 writers"}}
	a, err := l.appender(8)
	if err != nil {
		return m, err
	}
	commit, err := l.pebble(64)
	m.ours = func(ctx context.Context, d time.Duration) (float64, error) {
		return drive(ctx, 8, d, func(ctx context.Context, w int) (int, error) { return 100, send(a, ctx, w, 100) })
	}
	m.limit = func(ctx context.Context, d time.Duration) (float64, error) { return drive(ctx, 8, d, commit) }
	return m, err
}

// system is a node and the services, each a process of its own, with pathways
// that commands can be sent to.
type system struct {
	log       *es.Client
	referrals referralv1.ReferralServiceClient
	pathways  pathwayv1.PathwayQueryServiceClient
	conn      *grpc.ClientConn // of both
	ids       []string         // of pathways with a referral that is being worked on
	held      []bool
	last      atomic.Uint64 // position of the last command
}

// pathways of the measurements: each worker has four of its own.
const pathwaysOfMeasurements = 4 * inFlight

func (l *lab) system(ctx context.Context, names ...string) (*system, error) {
	node, err := l.start("node", filepath.Join(l.dir, "store"))
	if err != nil {
		return nil, err
	}
	s := &system{held: make([]bool, pathwaysOfMeasurements)}
	if s.log, err = l.log(node.address); err != nil {
		return nil, err
	}
	writer := es.NewStreams(s.log, es.Decider[struct{}]{Category: "referral", Evolve: func(v struct{}, _ proto.Message) struct{} { return v }}, es.Options{Key: storyKey})
	for n := range pathwaysOfMeasurements {
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, "pathway", n)).String()
		s.ids = append(s.ids, id)
		_, err := writer.Do(ctx, id, &referralv1.BeginReferralRequest{Command: commandOf(uuid.NewString()), PathwayId: id, ReferralId: id}, func(struct{}) ([]proto.Message, error) {
			return []proto.Message{
				&referralv1.ReferralDrafted{ReferralId: id, HumanId: "R-4D7K-2M", Content: &referralv1.ReferralContent{
					Kind: referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Reason: "Shoulder stiffness after surgery.",
					Requester: &referralv1.Practitioner{User: "555254240101", Organisation: "RJ1"}, Target: &referralv1.Target{Organisation: "RRV"}}},
				&referralv1.ReferralSent{ReferralId: id, TraceStatus: "01"},
				&referralv1.ReferralReceived{ReferralId: id},
				&referralv1.ReferralAccepted{ReferralId: id},
				&referralv1.ReferralBegun{ReferralId: id},
			}, nil
		})
		if err != nil {
			return nil, err
		}
	}
	p, err := l.start(append([]string{"services", storeURL(node.address), filepath.Join(l.dir, "models")}, names...)...)
	if err != nil {
		return nil, err
	}
	conn, err := run.Dial(p.address, nil, nil)
	if err != nil {
		return nil, err
	}
	l.closing(conn.Close)
	s.conn, s.referrals, s.pathways = conn, referralv1.NewReferralServiceClient(conn), pathwayv1.NewPathwayQueryServiceClient(conn)
	return s, nil
}

func commandOf(id string) *metav1.Command {
	return &metav1.Command{CommandId: id, Actor: &metav1.Actor{User: "555254240101", RoleCode: "R0600", Organisation: "RJ1"}}
}

// command holds or resumes the referral of a pathway and returns its position.
// Nobody else commands that pathway meanwhile.
func (s *system) command(ctx context.Context, n int) (position uint64, err error) {
	var reply *referralv1.ReferralReply
	header, id := commandOf(uuid.NewString()), s.ids[n]
	if s.held[n] {
		reply, err = s.referrals.ResumeReferral(ctx, &referralv1.ResumeReferralRequest{Command: header, PathwayId: id, ReferralId: id})
	} else {
		reply, err = s.referrals.HoldReferral(ctx, &referralv1.HoldReferralRequest{Command: header, PathwayId: id, ReferralId: id, Note: "Waits for the wound to heal."})
	}
	if err != nil {
		return 0, err
	}
	s.held[n] = !s.held[n]
	s.last.Store(reply.GetReceipt().GetPosition())
	return reply.GetReceipt().GetPosition(), nil
}

// commands is a side: commands a second.
func (s *system) commands() side {
	turn := make([]int, inFlight)
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return drive(ctx, inFlight, d, func(ctx context.Context, w int) (int, error) {
			turn[w]++
			_, err := s.command(ctx, w*4+turn[w]%4)
			return 1, err
		})
	}
}

func commandRate(ctx context.Context, l *lab) (*measure, error) {
	s, err := l.system(ctx, "referral")
	if err != nil {
		return nil, err
	}
	echo, err := l.echo(2)
	return &measure{Row: Row{What: "command through its service, durable", Unit: "commands/s", Per: "two-hop echoes/s", Floor: 0.40, Aim: 0.60, Note: "no access checks yet"},
		ours: s.commands(), limit: echoRate(echo, eventBytes, eventBytes)}, err
}

// commandLatency paces commands, and then echoes, at half of the rate that
// commands reach at most.
func commandLatency(ctx context.Context, l *lab) (*measure, error) {
	s, err := l.system(ctx, "referral")
	if err != nil {
		return nil, err
	}
	echo, err := l.echo(2)
	if err != nil {
		return nil, err
	}
	f, err := l.file()
	if err != nil {
		return nil, err
	}
	most := 0.0
	for range 3 {
		most, err = s.commands()(ctx, l.opts.Round)
		if err != nil {
			return nil, err
		}
	}
	q := ask(eventBytes, eventBytes)
	p99 := func(took []time.Duration) float64 { return quantile(took, 0.99).Seconds() * 1000 }
	turn := make([]int, inFlight)
	return &measure{Row: Row{What: fmt.Sprintf("command at half load (%.0f/s), p99", most/2), Unit: "ms", Per: "ms: two-hop echo p99 + fdatasync p99", Floor: 2, Aim: 1.3, AtMost: true},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			took, err := paced(ctx, inFlight, most/2, d, func(ctx context.Context, w int) error {
				turn[w]++
				_, err := s.command(ctx, w*4+turn[w]%4)
				return err
			})
			return p99(took), err
		},
		limit: func(ctx context.Context, d time.Duration) (float64, error) {
			took, err := paced(ctx, inFlight, most/2, d, func(ctx context.Context, _ int) error { return echoOnce(ctx, echo, q) })
			if err != nil {
				return 0, err
			}
			var syncs []time.Duration
			for range 200 {
				s, err := elapsed(func() error { return syncOnce(f) })
				if err != nil {
					return 0, err
				}
				syncs = append(syncs, time.Duration(s*1e9))
			}
			return p99(took) + p99(syncs), nil
		}}, nil
}

// queryRate asks for a pathway of 60 events; the limit is an echo with an answer of
// that size. Neither client decodes its answer: that is the caller's work, and would
// hide what the service does behind a cost that both sides have. The first answer
// is decoded and checked, and every other one holds the same bytes of the pathway.
func queryRate(ctx context.Context, l *lab) (*measure, error) {
	s, err := l.system(ctx, "pathway")
	if err != nil {
		return nil, err
	}
	if _, err := writeStory(ctx, s.log, 60); err != nil {
		return nil, err
	}
	written, err := s.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context, at es.Position) (raw encoded, err error) {
		err = s.conn.Invoke(ctx, pathwayv1.PathwayQueryService_LookUpPathway_FullMethodName, &pathwayv1.LookUpPathwayRequest{PathwayId: storyID, MinPosition: uint64(at)}, &raw, grpc.ForceCodecV2(passing{}))
		return raw, err
	}
	raw, err := ask(ctx, written)
	if err != nil {
		return nil, err
	}
	first := &pathwayv1.LookUpPathwayResponse{}
	err = proto.Unmarshal(raw, first)
	if err := whole(first.GetPathway(), 60, err); err != nil {
		return nil, err
	}
	view := pathwayBytes(raw)
	echo, err := l.echo(1)
	return &measure{Row: Row{What: "query of one pathway of 60 events, from the read model", Unit: "queries/s", Per: fmt.Sprintf("one-hop echoes/s with answers of %d bytes", len(raw)), Floor: 0.70, Aim: 0.85},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			return drive(ctx, inFlight, d, func(ctx context.Context, _ int) (int, error) {
				raw, err := ask(ctx, 0)
				if err == nil && !bytes.Equal(pathwayBytes(raw), view) {
					err = errors.New("the answer is not the one that was checked")
				}
				return 1, err
			})
		}, limit: echoRate(echo, 40, len(raw))}, err
}

// pathwayBytes is the pathway in an encoded LookUpPathwayResponse, nil where there
// is none. What stands beside it, the freshness, changes with each call.
func pathwayBytes(answer []byte) []byte {
	for len(answer) > 0 {
		number, kind, n := protowire.ConsumeField(answer)
		if n < 0 {
			return nil
		}
		if number == 1 && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(answer)
			view, _ := protowire.ConsumeBytes(answer[tag:])
			return view
		}
		answer = answer[n:]
	}
	return nil
}

// storyWriters write stories side by side.
const storyWriters = 16

// writeStories records the story of many pathways and returns how many events there
// are. They are whole: chained, with metadata as the services write it; what follows
// in one stream is one command. open is how many pathways of each writer are at
// different places of the story at a time.
func writeStories(ctx context.Context, log es.Log, pathways, events, open int) (int, error) {
	all := story(events)
	var turns [][]told
	for from, to := 0, 1; to <= len(all); to++ {
		if to == len(all) || all[to].category != all[from].category {
			turns, from = append(turns, all[from:to]), to
		}
	}
	streams := map[string]*es.Streams[struct{}]{}
	for _, t := range all {
		streams[t.category] = es.NewStreams(log, es.Decider[struct{}]{Category: t.category, Evolve: func(v struct{}, _ proto.Message) struct{} { return v }}, es.Options{Key: storyKey})
	}
	write := func(n int, turn []told) error {
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, "story", n)).String()
		request := &referralv1.BeginReferralRequest{Command: commandOf(uuid.NewString()), PathwayId: id}
		_, err := streams[turn[0].category].Do(ctx, id, request, func(struct{}) (events []proto.Message, _ error) {
			for _, t := range turn {
				events = append(events, t.event)
			}
			return events, nil
		})
		return err
	}
	var group sync.WaitGroup
	errs := make(chan error, storyWriters)
	for w := range storyWriters {
		group.Go(func() {
			for begun, done, day := w, w, 0; done < pathways; day++ {
				for begun < pathways && day >= begun/storyWriters*len(turns)/open {
					begun += storyWriters
				}
				for n := done; n < begun; n += storyWriters {
					at := day - n/storyWriters*len(turns)/open
					if at == len(turns)-1 {
						done = n + storyWriters
					}
					if err := write(n, turns[at]); err != nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return pathways * len(all), <-errs
}

// rebuildRate makes the read models anew from the log of a node in this process, as
// waymark dev does, and scans and decodes a plain copy of the same events. Both
// sides are in this process: the start of another is no part of either.
func rebuildRate(open int) func(context.Context, *lab) (*measure, error) {
	return func(ctx context.Context, l *lab) (*measure, error) {
		r, err := l.remake(ctx, open)
		if err != nil {
			return nil, err
		}
		return &measure{Row: Row{What: fmt.Sprintf("rebuild of the read models of %d events, %d pathways side by side", r.events, storyWriters*open), Unit: "events/s",
			Per: "events/s of scan and decode, one core", Floor: 0.50, Aim: 0.75}, limit: r.plain.rate, ours: r.rate}, nil
	}
}

// rebuildRateOne is the same where there is one core for all.
func rebuildRateOne(open int) func(context.Context, *lab) (*measure, error) {
	return func(ctx context.Context, l *lab) (*measure, error) {
		r, err := l.remake(ctx, open)
		if err != nil {
			return nil, err
		}
		return &measure{Row: Row{What: fmt.Sprintf("same on one core, %d pathways side by side", storyWriters*open), Unit: "events/s", Floor: 300_000, Aim: 300_000},
			ours: func(ctx context.Context, d time.Duration) (float64, error) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
				return r.rate(ctx, d)
			}}, nil
	}
}

// remade is a log of which read models are made.
type remade struct {
	log    es.Log
	events int
	head   es.Position
	plain  *scanned
	dir    string
}

func (l *lab) remake(ctx context.Context, open int) (r *remade, err error) {
	node, err := eventstore.Open(eventstore.Config{Dir: filepath.Join(l.dir, "store")})
	if err != nil {
		return nil, err
	}
	l.closing(node.Close)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go node.Serve(lis) // Close ends it
	client, err := l.log(lis.Addr().String())
	if err != nil {
		return nil, err
	}
	r = &remade{log: allinone.Local(node, client), dir: filepath.Join(l.dir, "models")}
	// Long enough that what a start costs, most of it syncs, says little.
	if r.events, err = writeStories(ctx, r.log, max(1, l.opts.Events/15), 60, open); err != nil {
		return nil, err
	}
	if r.plain, err = l.scanned("scan"); err != nil {
		return nil, err
	}
	if err := r.log.ReadAll(ctx, 0, r.plain.put); err != nil {
		return nil, err
	}
	r.head, err = r.log.Head(ctx)
	return r, err
}

// rate is a side: events a second, from a service that starts without read models
// to its first answer from whole ones.
func (r *remade) rate(ctx context.Context, d time.Duration) (float64, error) {
	times, seconds := 0, 0.0
	for seconds < d.Seconds() {
		s, err := r.once(ctx)
		if err != nil {
			return 0, err
		}
		times, seconds = times+1, seconds+s
	}
	return float64(times*r.events) / seconds, nil
}

func (r *remade) once(ctx context.Context) (seconds float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var part run.Part
	ended := make(chan error, 1)
	seconds, err = elapsed(func() (err error) {
		if part, err = pathway.New(run.Deps{Log: r.log, Clock: run.Clock, Key: storyKey, Dir: r.dir}); err != nil {
			return err
		}
		go func() { ended <- part.Run(ctx) }()
		var service capture
		part.Register(&service)
		_, err = service.ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: uint64(r.head), PageSize: 1})
		return err
	})
	cancel()
	if part.Close == nil {
		return 0, err
	}
	<-ended // why it ended the call above tells
	return seconds, errors.Join(err, part.Close(), os.RemoveAll(r.dir))
}

// rebuild starts the service with no read models, waits until they are made, and
// removes them; made, where set, looks at them before.
func (l *lab) rebuild(ctx context.Context, store, dir string, head es.Position, made func(*process) error) error {
	p, err := startProcess(l.opts.Child("services", storeURL(store), dir, "pathway"))
	if err != nil {
		return err
	}
	conn, err := run.Dial(p.address, nil, nil)
	if err != nil {
		return errors.Join(err, p.stop())
	}
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	client := pathwayv1.NewPathwayQueryServiceClient(conn)
	for {
		call, done := context.WithTimeout(ctx, 10*time.Second)
		_, err = client.ListHandovers(call, &pathwayv1.ListHandoversRequest{MinPosition: uint64(head), PageSize: 1})
		done()
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded || ctx.Err() != nil {
			break
		}
	}
	if err == nil && made != nil {
		err = made(p)
	}
	return errors.Join(err, conn.Close(), p.kill(), os.RemoveAll(dir))
}

// catchUpRate subscribes to the whole log with the official client.
func catchUpRate(ctx context.Context, l *lab) (*measure, error) {
	node, err := l.start("node", filepath.Join(l.dir, "store"))
	if err != nil {
		return nil, err
	}
	conn, err := l.dial(node.address)
	if err != nil {
		return nil, err
	}
	a, err := newAppender(conn, 8, "waymark.bench.v1.Happened")
	if err != nil {
		return nil, err
	}
	events := max(8*100, l.opts.Events)
	errs := make(chan error, 8)
	for w := range 8 {
		go func() {
			var err error
			for i := 0; i < events/8/100 && err == nil; i++ {
				err = a.append(ctx, w, 100)
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	cfg, err := esdb.ParseConnectionString(storeURL(node.address))
	if err != nil {
		return nil, err
	}
	cfg.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	l.closing(client.Close)
	frame, err := sampleFrame()
	if err != nil {
		return nil, err
	}
	echo, err := l.echo(1)
	return &measure{Row: Row{What: "catch-up subscription with the official client", Unit: "events/s", Per: "messages/s of a bare gRPC stream", Floor: 0.60, Aim: 0.85},
		limit: bareStream(echo, frame),
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			return drive(ctx, 1, d, func(ctx context.Context, _ int) (int, error) {
				sub, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}})
				if err != nil {
					return 0, err
				}
				defer sub.Close()
				for n := 0; ; {
					switch e := sub.Recv(); {
					case e.EventAppeared != nil:
						n++
					case e.CaughtUp != nil && n >= events/2:
						return n, nil
					case e.SubscriptionDropped != nil:
						return n, e.SubscriptionDropped.Error
					}
				}
			})
		}}, err
}

// sampleFrame is a stored event as a reader receives it.
func sampleFrame() ([]byte, error) {
	at := uint64(1 << 20)
	return proto.Marshal(&streamspb.ReadResp{Content: &streamspb.ReadResp_Event{Event: &streamspb.ReadResp_ReadEvent{
		Event: &streamspb.ReadResp_ReadEvent_RecordedEvent{
			Id:               &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{MostSignificantBits: math.MaxInt64, LeastSignificantBits: math.MinInt64}}},
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("bench-" + uuid.NewString() + "-0")}, StreamRevision: 1000, PreparePosition: at, CommitPosition: at,
			Metadata:       map[string]string{"type": "waymark.bench.v1.Happened", "content-type": "application/octet-stream", "created": "17950000000000000"},
			CustomMetadata: make([]byte, eventBytes/2), Data: make([]byte, eventBytes/2),
		}, Position: &streamspb.ReadResp_ReadEvent_CommitPosition{CommitPosition: at}}}})
}

// asOf takes the measurement of a pathway's rebuild over.
func asOf(ctx context.Context, l *lab) (*measure, error) {
	r, err := Pathway(ctx, PathwayOptions{Dir: filepath.Join(l.dir, "store"), Rounds: max(2, l.opts.Rounds)})
	if err != nil {
		return nil, err
	}
	m := &measure{Row: Row{What: fmt.Sprintf("pathway of %d events put together from the log, p50", r.Events), Unit: "ms", Per: "ms to read its streams", Floor: 2, Aim: 1.3, AtMost: true,
		Note: fmt.Sprintf("p99 %.2f ms; GetPathway p50 %.2f ms", r.Rebuild.P99Micros/1000, r.Call.P50Micros/1000)}}
	m.measured = func(row *Row) {
		row.Ours, row.Limit = r.Rebuild.P50Micros/1000, r.Bare.P50Micros/1000
		row.Ratio, row.RatioMin, row.RatioMax = r.Rebuild.Ratio, r.Rebuild.RatioMin, r.Rebuild.RatioMax
	}
	return m, nil
}

// visibility is how long after its answer a command is in the lists.
func visibility(ctx context.Context, l *lab) (*measure, error) {
	s, err := l.system(ctx, "referral", "pathway")
	if err != nil {
		return nil, err
	}
	return &measure{Row: Row{What: "event in the read model after its command's answer, p99, at 200 commands/s", Unit: "ms", Floor: 250, Aim: 50, AtMost: true},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			var mu sync.Mutex
			var took []time.Duration
			turn := make([]int, 16)
			_, err := paced(ctx, 16, 200, d, func(ctx context.Context, w int) error {
				turn[w]++
				position, err := s.command(ctx, w*4+turn[w]%4)
				if err != nil {
					return err
				}
				seen, err := elapsed(func() error {
					out, err := s.pathways.ListHandovers(ctx, &pathwayv1.ListHandoversRequest{MinPosition: position, PageSize: 1})
					if at := out.GetFreshness().GetPosition(); err == nil && at < position {
						err = fmt.Errorf("the list is complete to %d, not %d", at, position)
					}
					return err
				})
				mu.Lock()
				took = append(took, time.Duration(seen*1e9))
				mu.Unlock()
				return err
			})
			if err != nil {
				return 0, err
			}
			return quantile(took, 0.99).Seconds() * 1000, nil
		}}, nil
}

// recovery kills a node that has just written 64 MiB, of which a part is in its
// write-ahead log only, and waits for its first answer.
func recovery(_ context.Context, l *lab) (*measure, error) {
	n, bytes := 0, int64(l.opts.Events)*750
	var dir string
	return &measure{Row: Row{What: fmt.Sprintf("start after kill -9 behind %d MiB of appends, to the first answer", bytes>>20), Unit: "s", Floor: 1, Aim: 0.3, AtMost: true}, rounds: 3,
		ours: func(ctx context.Context, _ time.Duration) (float64, error) {
			n++
			dir = filepath.Join(l.dir, fmt.Sprint("store", n))
			defer os.RemoveAll(dir)
			p, err := startProcess(l.opts.Child("node", dir))
			if err != nil {
				return 0, err
			}
			conn, err := dialBare(p.address)
			if err != nil {
				return 0, err
			}
			a, err := newAppender(conn, 8, "waymark.bench.v1.Happened")
			if err != nil {
				return 0, err
			}
			var wrote atomic.Int64
			if _, err := drive(ctx, 8, time.Minute, func(ctx context.Context, w int) (int, error) {
				if wrote.Add(100*(eventBytes+100)) > bytes {
					return 0, errEnough
				}
				return 100, a.append(ctx, w, 100)
			}); !errors.Is(err, errEnough) && !strings.Contains(fmt.Sprint(err), "canceled") {
				return 0, err
			}
			if err := errors.Join(conn.Close(), p.kill()); err != nil {
				return 0, err
			}
			return elapsed(func() error {
				p, err := startProcess(l.opts.Child("node", dir))
				if err != nil {
					return err
				}
				return errors.Join(firstAnswer(ctx, p.address), p.kill())
			})
		}}, nil
}

var errEnough = errors.New("enough was written")

func firstAnswer(ctx context.Context, address string) error {
	log, err := es.Open(es.Config{URL: storeURL(address)})
	if err != nil {
		return err
	}
	_, err = log.Head(ctx)
	return errors.Join(err, log.Close())
}

// relayRate fills a stream of NATS, which syncs every write, from the log of a node.
func relayRate(ctx context.Context, l *lab) (*measure, error) {
	node, err := l.start("node", filepath.Join(l.dir, "store"))
	if err != nil {
		return nil, err
	}
	log, err := l.log(node.address)
	if err != nil {
		return nil, err
	}
	events, err := writeStories(ctx, log, max(1, l.opts.Events/180), 60, 1)
	if err != nil {
		return nil, err
	}
	js, stop, err := allinone.StartBus(filepath.Join(l.dir, "nats"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	l.closing(stop)
	return &measure{Row: Row{What: "relay from the log to NATS, every write synced", Unit: "events/s", Floor: 20_000, Aim: 20_000}, rounds: 5,
		ours: func(ctx context.Context, _ time.Duration) (float64, error) {
			s, err := elapsed(func() error { return bus.Rebuild(ctx, log, js, bus.Mapping{}, nil) })
			return float64(events) / s, err
		}}, nil
}
