package edge

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

// otherPatient marks the key of a patient whom a message names besides the one it
// is about: the one merged into them.
const otherPatient = "other:"

// stop says why a message is not applied; it is an outcome, not a failure.
type stop struct {
	reason *pb.Reason
	refuse bool // answered AE, or AR with kind; otherwise parked
	kind   bool
	holds  bool // parked, and later messages of the patient wait
}

func (s *stop) Error() string { return s.reason.Code }

func refuse(code, field, text string) error {
	return &stop{reason: &pb.Reason{Code: code, Field: field, Text: text}, refuse: true}
}

func refuseKind(code, field, text string) error {
	return &stop{reason: &pb.Reason{Code: code, Field: field, Text: text}, refuse: true, kind: true}
}

func park(code, field, text string) error {
	return &stop{reason: &pb.Reason{Code: code, Field: field, Text: text}}
}

// arrival is a message on its way in.
type arrival struct {
	raw       []byte
	content   content
	id        string
	keys      []string
	redriveOf string
	commands  string                 // whose commands these are
	received  *timestamppb.Timestamp // of a redrive, when what it repeats or corrects came
}

// content is a message in its format: what the intake must know of it.
type content interface {
	// name is what its sender calls it, "" where it does not say, and the field that says so.
	name() (name, field string)
	// digest is the same for a repeat, and another for any other message.
	digest() [sha256.Size]byte
	// reusesNames reports whether other content under the name of a message that was
	// kept is a message of its own. Otherwise it is refused.
	reusesNames() bool
	// header is what MessageReceived says of it, besides its bytes.
	header() *pb.MessageReceived
	// sender is whose commands these are: an ODS code, or UNKNOWN, and a system.
	sender() (organisation, system string)
	// patients are those whom it names; other ones with the prefix otherPatient.
	patients() []patientName
	apply(context.Context, *work) error
	// answer is made of what is recorded: the same each time.
	answer(id string, outcome proto.Message) []byte
	// fields lists its values; an error says why they cannot be shown.
	fields() ([]*pb.Field, error)
	corrected([]*pb.Correction) ([]byte, error)
}

// patientName is an identifier of a patient in a message.
type patientName struct {
	prefix, assigner, value string
}

// taken is what became of it.
type taken struct {
	state     es.State[state]
	duplicate bool
	ack       []byte
}

// take keeps a message, applies it and concludes it. An error means that there
// is no outcome: the sender gets no answer and sends the message again, which
// goes on where this one stopped.
func (s *service) take(ctx context.Context, a arrival) (taken, error) {
	if err := s.index.Wait(ctx, 0); err != nil {
		return taken{}, err
	}
	name, nameField := a.content.name()
	if a.id == "" {
		a.id = uuid.NewSHA1(space, a.raw).String()
		if name != "" {
			a.id = uuid.NewSHA1(space, []byte(name)).String()
		}
	}
	if a.commands == "" {
		a.commands = a.id
	}
	a.keys = s.keys(a.content)
	unlock, err := s.locks.lock(ctx, append([]string{"message " + a.id}, a.keys...))
	if err != nil {
		return taken{}, err
	}
	defer unlock()

	st, err := s.messages.Load(ctx, a.id)
	if err != nil {
		return taken{}, err
	}
	var reused error
	renamed := st.Value.Received != nil && st.Value.Digest != a.content.digest()
	if renamed {
		if !a.content.reusesNames() {
			reused = refuse("edge.control_id.reused", nameField, "another message with this id was taken before: give each message its own")
		}
		sum := a.content.digest()
		a.id = uuid.NewSHA1(uuid.MustParse(a.id), sum[:]).String()
		a.commands = a.id
		if st, err = s.messages.Load(ctx, a.id); err != nil {
			return taken{}, err
		}
	}
	if st.Value.Outcome != nil {
		return taken{st, true, a.content.answer(a.id, st.Value.Outcome)}, nil
	}
	id := uuid.MustParse(a.id)
	by, _ := a.content.sender()
	header := func(step string) *metav1.Command {
		return &metav1.Command{CommandId: uuid.NewSHA1(id, []byte(step)).String(), Actor: &metav1.Actor{User: "edge", Organisation: by}}
	}
	received := a.content.header()
	received.MessageId, received.PatientKeys, received.RedriveOf, received.CommandsOf = a.id, a.keys, a.redriveOf, a.commands
	received.ControlIdReused = renamed
	if received.ReceivedAt = a.received; a.received == nil {
		received.ReceivedAt = timestamppb.New(s.clock())
	}
	if received.Raw, received.Gzip, err = pack(a.raw); err != nil {
		return taken{}, err
	}
	if planted.Is("applied before it is kept") {
		st.Value.Received = received
	} else if st, err = s.messages.Do(ctx, a.id, &pb.KeepMessageRequest{Command: header("keep"), MessageId: a.id}, keep(received)); err != nil {
		return taken{}, err
	}
	outcome, err := s.outcome(ctx, a, st.Value.Received.ReceivedAt.AsTime(), reused)
	if err != nil {
		return taken{}, err
	}
	decide := conclude(outcome)
	if planted.Is("applied before it is kept") {
		decide = func(state) ([]proto.Message, error) { return []proto.Message{received, outcome}, nil }
	}
	end := func(ctx context.Context) (es.State[state], error) {
		return s.messages.Do(ctx, a.id, &pb.ConcludeMessageRequest{Command: header("conclude"), MessageId: a.id}, decide)
	}
	if planted.Is("answered before the outcome") {
		ctx := context.WithoutCancel(ctx)
		go func() { _, _ = end(ctx) }()
		return taken{st, false, a.content.answer(a.id, outcome)}, nil
	}
	if st, err = end(ctx); err != nil {
		return taken{}, err
	}
	// The next message of this patient must see it.
	if err := s.index.Wait(ctx, st.Position); err != nil {
		return taken{}, err
	}
	return taken{st, false, a.content.answer(a.id, st.Value.Outcome)}, nil
}

// outcome applies the message and says how that went.
func (s *service) outcome(ctx context.Context, a arrival, received time.Time, reused error) (proto.Message, error) {
	now := timestamppb.New(s.clock())
	work := &work{service: s, arrival: a, received: received, read: s.index.position()}
	defer work.end()
	work.organisation, work.system = a.content.sender()
	err := reused
	if err == nil {
		err = a.content.apply(ctx, work)
	}
	if err == nil {
		done := &pb.MessageApplied{Effects: work.effects, PersonId: work.person, Kept: work.kept, People: work.people, FocusId: work.focus, At: now,
			Note: work.note, About: work.about, SaidAt: work.said, ReferralStatus: work.referralStatus}
		if !work.focusSaid.IsZero() {
			done.FocusSaidAt = timestamppb.New(work.focusSaid)
		}
		return done, nil
	}
	var why *stop
	if !errors.As(err, &why) {
		if passing(ctx, err) {
			return nil, err
		}
		s.slog.ErrorContext(ctx, "a message could not be applied and is parked", "event.name", "edge.message.parked", "message", a.id, "error", err)
		why = &stop{reason: &pb.Reason{Code: "edge.apply.failed", Text: "a service failed on this message; later messages of the patient wait for it"}, holds: true}
	}
	if why.refuse {
		return &pb.MessageRefused{Reason: why.reason, UnknownKind: why.kind, At: now}, nil
	}
	return &pb.MessageParked{Reason: why.reason, Holds: why.holds, At: now, ReadAt: uint64(work.read)}, nil
}

// passing reports whether an error may be gone when the sender tries again.
func passing(ctx context.Context, err error) bool {
	code := status.Code(err)
	var f *fault.Error
	if errors.As(err, &f) {
		code = f.GRPC
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.ResourceExhausted:
		return true
	}
	return ctx.Err() != nil
}

// keys hashes the identifiers of the patients in a message.
func (s *service) keys(c content) (keys []string) {
	for _, p := range c.patients() {
		key := p.prefix + s.hash(p.assigner, p.value)
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// hash is the key of an identifier of a patient.
func (s *service) hash(assigner, value string) string {
	return s.keyed("edge patient\x00" + assigner + "\x00" + value)
}

func (s *service) keyed(text string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// waits reports whether an earlier message of a patient holds this one back.
func (w *work) waits() error {
	if w.arrival.redriveOf == "" && w.service.index.holding(w.arrival.keys, "") && !planted.Is("held patient passed") {
		return &stop{reason: &pb.Reason{Code: "edge.waits_behind", Text: "an earlier message of the patient is held: apply that one first"}, holds: true}
	}
	return nil
}

// locks lets one message of a patient in at a time.
type locks struct {
	log es.Log // of a simulation it gives turns to those who wait for one message

	mu    sync.Mutex // guards all below
	held  map[string]chan struct{}
	waits int // how many have had to wait so far
}

// lock takes all names, in one order for everybody.
func (l *locks) lock(ctx context.Context, names []string) (unlock func(), err error) {
	sorted := make([]string, len(names))
	for i, n := range names {
		sorted[i] = strings.TrimPrefix(n, otherPatient)
	}
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	if planted.Is("patient not locked") {
		sorted = slices.DeleteFunc(sorted, func(n string) bool { return !strings.HasPrefix(n, "message ") })
	}
	var got []string
	unlock = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, n := range got {
			close(l.held[n])
			delete(l.held, n)
		}
	}
	turn := 0
	for _, n := range sorted {
		for {
			l.mu.Lock()
			busy := l.held[n]
			if busy == nil {
				l.held[n] = make(chan struct{})
				got = append(got, n)
			} else if turn == 0 {
				l.waits++
				turn = l.waits
			}
			l.mu.Unlock()
			if busy == nil {
				break
			}
			select {
			case <-busy:
				if t, ok := l.log.(es.Turns); ok {
					_ = t.Turn(ctx, fmt.Sprint("edge.patient ", turn)) // without one, the next message is whoever wakes first
				}
			case <-ctx.Done():
				unlock()
				return nil, fault.Unavailable("edge.patient.busy", "an earlier message of this patient is still being applied: send it again", time.Second)
			}
		}
	}
	return unlock, nil
}
