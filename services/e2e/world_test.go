package e2e

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	carev1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/allinone"
	"waymark/services/edge"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/run"
)

// world is all services of Waymark in one process. One goroutine plays it; the
// services read its clock.
type world struct {
	log      *estest.Log
	conn     *grpc.ClientConn
	fhir     string     // where FHIR is answered
	parts    []run.Part // as they were made: React is called from here
	verifier *allinone.Verifier

	heard    int // events that were handed to the services
	verified int // events that were verified
	dated    int // events whose times are among instants
	instants []time.Time
	timing   []protoreflect.MethodDescriptor

	mu  sync.Mutex
	now time.Time // under mu
}

// newWorld starts the services; the test ends them. Its clock stands at start.
func newWorld(t testing.TB, start time.Time) *world {
	t.Helper()
	logger, err := run.NewLogger(t.Output(), "text", "error")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{log: estest.NewAuditedLog(t), verifier: allinone.NewVerifier(), now: start}
	w.log.SetClock(w.clock)
	for _, m := range methods() {
		if timing.MatchString(string(m.Name())) {
			w.timing = append(w.timing, m)
		}
	}
	p, err := run.Listen(t.Context(), run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "stories", logger)
	if err != nil {
		t.Fatal(err)
	}
	deps := p.Deps(w.log, nil, []byte("0123456789abcdef0123456789abcdef"))
	deps.Clock = w.clock
	if w.parts, err = allinone.Services(deps); err != nil {
		t.Fatal(err)
	}
	served := make([]run.Part, len(w.parts))
	for i, part := range w.parts {
		part.React = nil
		served[i] = part
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.fhir = "http://" + lis.Addr().String() + edge.FHIRPath
	served = append(served, edge.FHIR(deps, lis, edge.FHIROptions{}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, deps, served...) }()
	select {
	case <-p.Ready(): // a busy machine compiles the rules of the contracts for longer than a client waits
	case err := <-ended:
		cancel()
		t.Fatalf("the services ended with %v", err)
	}
	if w.conn, err = run.Dial(p.GRPC(), nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the services ended with %v", err)
		}
	})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) set(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = t
}

// invoke calls a method and lets everything that follows from it happen.
func (w *world) invoke(ctx context.Context, method protoreflect.MethodDescriptor, request proto.Message) (proto.Message, error) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, err
	}
	reply := mt.New().Interface()
	err = w.conn.Invoke(ctx, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()), request, reply)
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	return reply, err
}

// settle hands to the services what they have not heard, until there is nothing
// left. A reaction that fails is tried again, as the bus would.
func (w *world) settle(ctx context.Context) error {
	for {
		events := w.log.Events()
		if w.heard == len(events) {
			return nil
		}
		e, relayed, err := bus.Mapping{}.Hear(events[w.heard])
		if err != nil {
			return err
		}
		w.heard++
		for _, part := range w.parts {
			if !relayed || part.React == nil || !hears(part, e.Category) {
				continue
			}
			err := part.React(ctx, e)
			for n := 0; err != nil && n < 3 && ctx.Err() == nil; n++ {
				err = part.React(ctx, e)
			}
			if err != nil {
				return fmt.Errorf("%s on %s: %w", part.Name, e.Message.ProtoReflect().Descriptor().Name(), err)
			}
		}
	}
}

func hears(p run.Part, category string) bool {
	for _, c := range p.Categories {
		if c == category {
			return true
		}
	}
	return len(p.Categories) == 0
}

// often is how often timers run while nothing in the record says when.
const often = 24 * time.Hour

// moveTo moves the clock. On the way it stands at every instant that an event
// names, and from time to time, and there everything that is due is done.
func (w *world) moveTo(ctx context.Context, to time.Time) error {
	if to.Before(w.clock()) {
		return fmt.Errorf("the clock stands at %s: time does not go back", showTime(w.clock()))
	}
	for {
		now := w.clock()
		next := now.Truncate(often).Add(often)
		for _, e := range w.log.Events()[w.dated:] {
			if m, err := es.Decode(e); err == nil {
				instants(m.ProtoReflect(), func(t time.Time) { w.instants = append(w.instants, t) })
			}
			w.dated++
		}
		for _, t := range w.instants {
			if t.After(now) && t.Before(next) {
				next = t
			}
		}
		if next.After(to) {
			next = to
		}
		w.set(next)
		if err := w.timers(ctx); err != nil {
			return err
		}
		if next.Equal(to) {
			return nil
		}
	}
}

// instants calls yield with every time that m names.
func instants(m protoreflect.Message, yield func(time.Time)) {
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		yield(t.AsTime())
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				instants(v.List().Get(i).Message(), yield)
			}
		default:
			instants(v.Message(), yield)
		}
		return true
	})
}

// timing are the methods that do what is due in one stream.
var timing = regexp.MustCompile(`^Run[A-Za-z]*Timers$`)

// timers runs the timers of every service for every stream it has.
func (w *world) timers(ctx context.Context) error {
	done := map[string]bool{}
	for _, e := range w.log.Events() {
		category, id, _ := strings.Cut(e.Stream, "-")
		if done[e.Stream] {
			continue
		}
		done[e.Stream] = true
		for _, m := range w.timing {
			if timed(m) != category {
				continue
			}
			request, err := newMessage(m.Input())
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s at %s", e.Stream, w.clock())
			head(request, &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceURL, []byte(name)).String(), Actor: &metav1.Actor{User: "waymark/clock", Organisation: "X26"}})
			fields := request.ProtoReflect().Descriptor().Fields()
			request.ProtoReflect().Set(fields.Get(1), protoreflect.ValueOfString(id))
			if _, err := w.invoke(ctx, m, request); err != nil {
				return fmt.Errorf("%s of %s: %w", m.FullName(), e.Stream, err)
			}
		}
	}
	return nil
}

// timed is the category of the streams whose timers a method runs: the id that
// it takes says so, and for a pathway whose service it is.
func timed(m protoreflect.MethodDescriptor) string {
	name := string(m.Input().Fields().Get(1).Name())
	if name == "pathway_id" {
		return strings.Split(string(m.FullName()), ".")[1]
	}
	return strings.TrimSuffix(name, "_id")
}

// verify verifies what was recorded since it was last called.
func (w *world) verify() error {
	events := w.log.Events()
	for _, e := range events[w.verified:] {
		if err := w.verifier.Next(e); err != nil {
			return err
		}
	}
	w.verified = len(events)
	if w.verifier.Faults > 0 {
		return fmt.Errorf("the record breaks a rule: %+v", w.verifier.First[0])
	}
	return nil
}

// accountable is who answered for a pathway at an instant, from the events
// alone: nobody before it started and after its ledger closed.
func (w *world) accountable(pathway string, at time.Time) (string, error) {
	holder := "nobody"
	for _, e := range w.log.Events() {
		if e.Recorded.After(at) || e.Stream != "pathway-"+pathway && e.Stream != "carelead-"+pathway {
			continue
		}
		m, err := es.Decode(e)
		if err != nil {
			return "", err
		}
		switch v := m.(type) {
		case *referralv1.PathwayStarted:
			holder = v.Facts.GetResponsibleTeam().GetName()
		case *carev1.LedgerOpened:
			holder = v.Holder.GetName()
		case *carev1.AccountabilityTransferred:
			holder = v.To.GetName()
		case *carev1.LedgerReopened:
			holder = v.Holder.GetName()
		case *carev1.LedgerClosed:
			holder = "nobody"
		}
	}
	return holder, nil
}

// recorded lists the names of the events of a stream.
func (w *world) recorded(stream string) (names []string) {
	for _, e := range w.log.Events() {
		if e.Stream == stream {
			names = append(names, e.Type[strings.LastIndex(e.Type, ".")+1:])
		}
	}
	return names
}

// methods are all methods of all services that are linked in.
func methods() (all []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "waymark.") {
			return true
		}
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				all = append(all, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	return all
}

// method finds "carelead.AcceptHandover", or with its service between the two
// where one name has several.
func method(name string) (protoreflect.MethodDescriptor, error) {
	var found []protoreflect.MethodDescriptor
	for _, m := range methods() {
		full := strings.Split(string(m.FullName()), ".") // waymark.carelead.v1.HandoverService.AcceptHandover
		if name == full[1]+"."+full[4] || name == full[1]+"."+full[3]+"."+full[4] {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("there is no method %s", name)
	}
	return nil, fmt.Errorf("%s is several: name its service too, as %s.%s.%s", name, strings.Split(name, ".")[0], found[0].Parent().Name(), found[0].Name())
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return mt.New().Interface(), nil
}

// head sets the command header of a request, where it has one.
func head(request proto.Message, c *metav1.Command) {
	m := request.ProtoReflect()
	if f := m.Descriptor().Fields().ByName("command"); f != nil {
		m.Set(f, protoreflect.ValueOfMessage(c.ProtoReflect()))
	}
}
