package appointment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/eventstore"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

// heard returns the log as the service hears it from the bus.
func heard(t *testing.T, log *estest.Log) []bus.Event { t.Helper(); return hear(t, log.Events()) }

func hear(t *testing.T, events []es.Recorded) (out []bus.Event) {
	t.Helper()
	for _, e := range events {
		m, err := es.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		category, stream, _ := strings.Cut(e.Stream, "-")
		out = append(out, bus.Event{ID: e.ID, Category: category, StreamID: stream, Revision: e.Revision, Position: e.Position, Message: m, Tenant: "RJ1"})
	}
	return out
}

// audit reads the log from its beginning and returns what is wrong: a slot that
// two appointments have at one moment, by the pathways' own streams, and at the
// end a session that says otherwise than they do.
func audit(t *testing.T, events []es.Recorded, settled bool) (wrong []string, bookings int) {
	t.Helper()
	owners := map[string]string{} // slot -> appointment
	sessions := map[string]Session{}
	place := func(b *pb.Booking) string { return b.GetSessionId() + "/" + b.GetSlotId() }
	book := func(b *pb.Booking, appointment string) {
		if b.GetSessionId() == "" {
			return
		}
		bookings++
		if other := owners[place(b)]; other != "" {
			wrong = append(wrong, fmt.Sprintf("slot %s: %s while %s has it", place(b), appointment, other))
		}
		owners[place(b)] = appointment
	}
	free := func(appointment string) {
		maps.DeleteFunc(owners, func(_, a string) bool { return a == appointment })
	}
	for _, e := range hear(t, events) {
		switch m := e.Message.(type) {
		case *pb.AppointmentBooked:
			book(m.Booking, m.AppointmentId)
		case *pb.AppointmentRescheduled:
			free(m.AppointmentId)
			book(m.To, m.AppointmentId)
		case *pb.AppointmentCancelled:
			free(m.AppointmentId)
		case *pb.AppointmentEnteredInError:
			free(m.AppointmentId)
		}
		if e.Category == "session" {
			sessions[e.StreamID] = EvolveSession(sessions[e.StreamID], e.Message)
		}
	}
	if !settled {
		return wrong, bookings
	}
	for id, s := range sessions {
		for slot, c := range s.claims {
			if !c.taken || owners[id+"/"+slot] != c.appointmentID {
				wrong = append(wrong, fmt.Sprintf("slot %s/%s: the session says %v, the pathway %q", id, slot, c, owners[id+"/"+slot]))
			}
			delete(owners, id+"/"+slot)
		}
	}
	for slot, a := range owners {
		wrong = append(wrong, fmt.Sprintf("slot %s: %s has it, and the session does not know", slot, a))
	}
	return wrong, bookings
}

// dying is a log whose process dies at its n-th append, before or after it.
type dying struct {
	*estest.Log
	n     int
	after bool
	die   context.CancelFunc
}

var errDied = errors.New("died")

func (d *dying) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	d.n--
	if d.n == 0 && d.after {
		if _, err := d.Log.Append(ctx, stream, expected, events); err != nil {
			return es.Appended{}, err
		}
	}
	if d.n <= 0 {
		d.die()
		return es.Appended{}, errDied
	}
	return d.Log.Append(ctx, stream, expected, events)
}

// TestCrashes kills the process before and after each append of booking,
// rescheduling, cancelling and suspending. The repeat by another process ends as
// if nothing had happened; without a repeat, events and timers leave no slot
// held, and sessions and pathways agree.
func TestCrashes(t *testing.T) {
	t.Parallel()
	path := id("pathway", 1)
	prepare := func(log *estest.Log) {
		s := instance(log, now)
		_, err := s.clinics().OpenSession(t.Context(), clinic(0, 0, 4))
		if err == nil {
			_, err = s.front().BookAppointment(t.Context(), booking(1, 1, 0, 0))
		}
		if err == nil {
			_, err = s.front().BookAppointment(t.Context(), booking(2, 2, 0, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first := appointmentID(commandID(&pb.RunTimersRequest{Command: by(1)}))
	commands := map[string]func(context.Context, *service) (proto.Message, error){
		"book": func(ctx context.Context, s *service) (proto.Message, error) {
			return s.front().BookAppointment(ctx, booking(3, 3, 0, 2))
		},
		"reschedule": func(ctx context.Context, s *service) (proto.Message, error) {
			return s.front().RescheduleAppointment(ctx, &pb.RescheduleAppointmentRequest{Command: by(4), PathwayId: path, AppointmentId: first, To: inSlot(0, 3), Reason: "x"})
		},
		"cancel": func(ctx context.Context, s *service) (proto.Message, error) {
			return s.front().CancelAppointment(ctx, &pb.CancelAppointmentRequest{Command: by(5), PathwayId: path, AppointmentId: first, By: pb.CancelledBy_CANCELLED_BY_PATIENT, Reason: "x"})
		},
		"suspend": func(ctx context.Context, s *service) (proto.Message, error) {
			return s.clinics().SuspendSession(ctx, &pb.SuspendSessionRequest{Command: by(6), SessionId: id("session", 0), Reason: "x"})
		},
	}
	kills := 0
	for name, run := range commands {
		whole := estest.NewAuditedLog(t)
		prepare(whole)
		prepared := len(whole.Events())
		want, err := run(t.Context(), instance(whole, now))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		appends := map[string]bool{}
		for _, e := range whole.Events()[prepared:] {
			m, _ := es.ParseMetadata(e)
			appends[e.Stream+fmt.Sprint(m.CommandID)] = true
		}
		for n := 1; n <= len(appends); n++ {
			for _, after := range []bool{false, true} {
				for _, repeat := range []bool{true, false} {
					kills++
					log := estest.NewAuditedLog(t)
					prepare(log)
					ctx, die := context.WithCancel(t.Context())
					if _, err := run(ctx, instance(&dying{log, n, after, die}, now)); err == nil {
						t.Fatalf("%s survived its death at %d", name, n)
					}
					die()
					what := fmt.Sprintf("%s killed at append %d, after it: %v, repeated: %v", name, n, after, repeat)
					s := instance(log, now)
					if repeat {
						got, err := run(t.Context(), s)
						if err != nil {
							t.Fatalf("%s: %v", what, err)
						}
						if a, b := shown(got), shown(want); !proto.Equal(a, b) {
							t.Errorf("%s:\n got %v\nwant %v", what, a, b)
						}
						if len(log.Events()) != len(whole.Events()) || slotsOf(t, s, id("session", 0)) != slotsOf(t, instance(whole, now), id("session", 0)) {
							t.Errorf("%s: %d events, slots %s", what, len(log.Events()), slotsOf(t, s, id("session", 0)))
						}
					} else {
						for range 2 { // what a reaction writes is heard too
							for _, e := range heard(t, log) {
								if err := s.react(t.Context(), e); err != nil {
									t.Fatalf("%s: %v", what, err)
								}
							}
						}
						later := instance(log, now.Add(holdFor))
						if _, err := later.clinics().RunSessionTimers(t.Context(), &pb.RunSessionTimersRequest{Command: by(7), SessionId: id("session", 0)}); err != nil {
							t.Fatalf("%s: %v", what, err)
						}
					}
					if wrong, _ := audit(t, log.Events(), true); len(wrong) > 0 {
						t.Errorf("%s: %v", what, wrong)
					}
					roomAudit(t, log)
				}
			}
		}
	}
	if kills < 40 {
		t.Errorf("only %d kills", kills)
	}
	t.Logf("%d kills", kills)
}

// shown is a reply without where in the log it stands.
func shown(m proto.Message) proto.Message {
	switch r := m.(type) {
	case *pb.AppointmentReply:
		return r.Appointment
	case *pb.SessionReply:
		return &pb.Session{SessionId: r.Session.SessionId, State: r.Session.State}
	}
	return m
}

// TestLapsedHoldIsFenced: while a booking is between its hold and its pathway,
// the hold lapses and another patient gets the slot. The booking must then be
// refused. Released without the fence, the slot is booked twice.
func TestLapsedHoldIsFenced(t *testing.T) {
	t.Parallel()
	for _, unfenced := range []bool{false, true} {
		log := estest.NewLog()
		s := instance(log, now)
		if _, err := s.clinics().OpenSession(t.Context(), clinic(0, 0, 1)); err != nil {
			t.Fatal(err)
		}
		other := instance(log, now.Add(holdFor))
		other.unfenced = unfenced
		once := false
		var second error
		log.SetFaults(estest.Faults{Before: func(ctx context.Context, call, stream string) error {
			if call == "Append" && stream == "appointment-"+id("pathway", 1) && !once {
				once = true
				_, second = other.front().BookAppointment(ctx, booking(2, 2, 0, 0))
			}
			return nil
		}})
		_, err := s.front().BookAppointment(t.Context(), booking(1, 1, 0, 0))
		wrong, bookings := audit(t, log.Events(), !unfenced)
		if second != nil {
			t.Fatal(second)
		}
		if unfenced {
			if len(wrong) == 0 {
				t.Error("the planted bug was not caught: a lapsed hold released without asking the pathway")
			}
			continue
		}
		if fault.CodeOf(err) != "appointment.hold.lapsed" || bookings != 1 || len(wrong) > 0 {
			t.Errorf("%v, %d bookings, %v", err, bookings, wrong)
		}
		log.SetFaults(estest.Faults{})
		if _, err := s.front().BookAppointment(t.Context(), booking(1, 1, 0, 0)); fault.CodeOf(err) != "appointment.hold.lapsed" {
			t.Errorf("repeated: %v", err)
		}
	}
}

type crashKey struct{}

// rush is R9: clients book and cancel on all slots at once, over a log that
// executes appends and reports them failed, through processes that die.
func rush(t *testing.T, sessions, slots, clients, attempts int, plant func(*service, *estest.Faults)) (wrong []string, bookings int) {
	log := estest.NewLog()
	log.Seed(7)
	return rushOver(t, log, log.SetFaults, sessions, slots, clients, attempts, plant)
}

func rushOver(t *testing.T, log es.Log, setFaults func(estest.Faults), sessions, slots, clients, attempts int, plant func(*service, *estest.Faults)) (wrong []string, bookings int) {
	opener := instance(log, now)
	for i := range sessions {
		if _, err := opener.clinics().OpenSession(t.Context(), clinic(10+i, i, slots)); err != nil {
			t.Fatal(err)
		}
	}
	var dice sync.Mutex
	source := rand.New(rand.NewPCG(1, 9))
	draw := func(n int) int { dice.Lock(); defer dice.Unlock(); return source.IntN(n) }

	faults := estest.Faults{Lost: 0.10, Refused: 0.02, Stale: 0.02, Before: func(ctx context.Context, call, stream string) error {
		if die, ok := ctx.Value(crashKey{}).(context.CancelFunc); ok && call == "Append" && draw(30) == 0 {
			die()
			return errDied
		}
		runtime.Gosched() // between deciding and appending: let others decide too
		return nil
	}}
	instances := make([]*service, 4)
	for i := range instances {
		instances[i] = instance(log, now)
		plant(instances[i], &faults)
	}
	setFaults(faults)

	// ask repeats one request until it is answered, each time from another process.
	ask := func(run func(context.Context, *service) error) (err error) {
		for range 200 {
			ctx, die := context.WithCancel(t.Context())
			err = run(context.WithValue(ctx, crashKey{}, die), instances[draw(len(instances))])
			die()
			if err == nil || fault.IsAnswer(err) {
				return err
			}
			if fault.CodeOf(err) == "es.chain_broken" {
				return err
			}
		}
		return err
	}
	type answer struct {
		req       *pb.BookAppointmentRequest
		err       error
		cancelled bool
	}
	var mu sync.Mutex
	var answers []answer
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := range attempts {
				n := 1000 + c*attempts + i
				a := answer{req: booking(n, n, draw(sessions), draw(slots))}
				if draw(10) == 0 { // gives up at the first failure, and leaves what it began
					ctx, die := context.WithCancel(t.Context())
					_, _ = instances[draw(len(instances))].front().BookAppointment(context.WithValue(ctx, crashKey{}, die), a.req)
					die()
					continue
				}
				a.err = ask(func(ctx context.Context, s *service) error {
					_, err := s.front().BookAppointment(ctx, a.req)
					return err
				})
				if a.err == nil && draw(5) == 0 {
					a.cancelled = true
					cancel := &pb.CancelAppointmentRequest{Command: by(1_000_000 + n), PathwayId: a.req.PathwayId, AppointmentId: appointmentID(commandID(a.req)), By: pb.CancelledBy_CANCELLED_BY_PATIENT, Reason: "x"}
					if err := ask(func(ctx context.Context, s *service) error {
						_, err := s.front().CancelAppointment(ctx, cancel)
						return err
					}); err != nil {
						a.err = err
					}
				}
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	setFaults(estest.Faults{})

	later := instance(log, now.Add(holdFor))
	for i := range sessions {
		if _, err := later.clinics().RunSessionTimers(t.Context(), &pb.RunSessionTimersRequest{Command: by(i), SessionId: id("session", i)}); err != nil {
			return append(wrong, err.Error()), 0
		}
	}
	var events []es.Recorded
	if err := log.ReadAll(t.Context(), 0, func(e es.Recorded) error {
		if !strings.HasPrefix(e.Stream, "$") {
			events = append(events, e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wrong, bookings = audit(t, events, true)
	for _, err := range audited(t, events) {
		wrong = append(wrong, err.Error())
	}
	counts := map[string]int{}
	for _, a := range answers {
		state, err := later.appointments.Load(t.Context(), a.req.PathwayId)
		if err != nil {
			return append(wrong, err.Error()), bookings
		}
		got := state.Value.Appointment(appointmentID(commandID(a.req)))
		counts[fault.CodeOf(a.err)]++
		switch {
		case a.err == nil && !a.cancelled && (got.GetStatus() != booked || got.Booking.SlotId != a.req.Place.GetSlot().SlotId):
			wrong = append(wrong, fmt.Sprintf("answered booked, the log says %v", got))
		case a.err == nil && a.cancelled && got.GetStatus() != cancelled:
			wrong = append(wrong, fmt.Sprintf("answered cancelled, the log says %v", got))
		case fault.IsAnswer(a.err) && got != nil:
			wrong = append(wrong, fmt.Sprintf("answered %v, the log says %v", a.err, got))
		case a.err != nil && !fault.IsAnswer(a.err):
			wrong = append(wrong, fmt.Sprintf("never answered: %v", a.err))
		}
	}
	t.Logf("%d slots, %d clients, answers %v, %d bookings, %d events, %d wrong", sessions*slots, clients, counts, bookings, len(events), len(wrong))
	return wrong, bookings
}

// TestRush: 64 clients on 1,000 slots; at most one booking a slot at any moment,
// and every client's answer agrees with the log.
func TestRush(t *testing.T) {
	t.Parallel()
	wrong, bookings := rush(t, 40, 25, 64, 30, func(*service, *estest.Faults) {})
	for _, w := range wrong[:min(len(wrong), 10)] {
		t.Error(w)
	}
	if bookings < 500 {
		t.Errorf("%d bookings: the test looks at nothing", bookings)
	}
}

// TestRushCatches: the same rush finds what it is for.
func TestRushCatches(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*service, *estest.Faults){
		"no hold":              func(s *service, _ *estest.Faults) { s.unheld = true },
		"revision not checked": func(_ *service, f *estest.Faults) { f.Unchecked = true },
	} {
		wrong, _ := rush(t, 2, 5, 16, 4, plant)
		if len(wrong) == 0 {
			t.Errorf("planted bug not caught: %s", name)
		}
	}
}

// shaky is the log of a real store whose appends are sometimes executed and
// reported as failed, or cut off by the death of the process.
type shaky struct {
	es.Log
	mu     sync.Mutex
	dice   *rand.Rand // under mu
	faults atomic.Pointer[estest.Faults]
}

func (l *shaky) set(f estest.Faults) { l.faults.Store(&f) }

func (l *shaky) chance(p float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dice.Float64() < p
}

func (l *shaky) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	f := l.faults.Load()
	if f.Before != nil {
		if err := f.Before(ctx, "Append", stream); err != nil {
			return es.Appended{}, err
		}
	}
	if l.chance(f.Refused) {
		return es.Appended{}, fault.Unavailable("es.unavailable", "planted", 0)
	}
	done, err := l.Log.Append(ctx, stream, expected, events)
	if err == nil && l.chance(f.Lost) {
		return es.Appended{}, fault.Unavailable("es.unavailable", "planted", 0)
	}
	return done, err
}

// TestRushOnTheNode is R9 over the node itself: its appends are on disk and
// checked by its own sequencer, and the client is the official one. The control
// books without holds and must be caught.
func TestRushOnTheNode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                               string
		sessions, slots, clients, attempts int
		plant                              func(*service, *estest.Faults)
		caught                             bool
	}{
		{"whole", 40, 25, 64, 8, func(*service, *estest.Faults) {}, false},
		{"no hold", 2, 5, 16, 4, func(s *service, _ *estest.Faults) { s.unheld = true }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node, err := eventstore.Open(eventstore.Config{Dir: t.TempDir(), MinFree: 1})
			if err != nil {
				t.Fatal(err)
			}
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- node.Serve(lis) }()
			client, err := es.Open(es.Config{URL: fmt.Sprintf("esdb://%s?tls=false", lis.Addr()), Timeout: 30 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				client.Close()
				if err := errors.Join(node.Close(), <-served); err != nil {
					t.Error(err)
				}
			}()
			log := &shaky{Log: client, dice: rand.New(rand.NewPCG(3, 4))}
			log.set(estest.Faults{})
			wrong, bookings := rushOver(t, log, log.set, tt.sessions, tt.slots, tt.clients, tt.attempts, tt.plant)
			if tt.caught {
				if len(wrong) == 0 {
					t.Errorf("planted bug not caught: %s", tt.name)
				}
				return
			}
			for _, w := range wrong[:min(len(wrong), 10)] {
				t.Error(w)
			}
			if bookings < 200 {
				t.Errorf("%d bookings: the test looks at nothing", bookings)
			}
		})
	}
}

// TestReactions: events heard twice, in any order within what the bus allows,
// change nothing that was done, and a surveillance item that is due is a task.
func TestReactionsRepeat(t *testing.T) {
	t.Parallel()
	st := begin(t)
	a := st.book(1, 0)
	_, err := st.s.front().RescheduleAppointment(t.Context(), &pb.RescheduleAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, To: inSlot(0, 3), Reason: "x"})
	st.ok(err)
	before := len(st.log.Events())
	events := heard(t, st.log)
	for range 3 {
		for _, e := range slices.Concat(events, events) {
			if err := st.s.react(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := len(st.log.Events()); after != before {
		t.Errorf("%d events more", after-before)
	}
}
