package edge

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
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
	id        string
	message   message
	unread    error // why message is empty
	keys      []string
	redriveOf string
	commands  string // whose commands these are
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
	a.message, a.unread = parseMessage(a.raw)
	if a.id == "" {
		a.id = uuid.NewSHA1(space, a.raw).String()
		if a.unread == nil && a.message.raw("MSH", 10) != "" {
			a.id = messageID(a.message).String()
		}
	}
	if a.commands == "" {
		a.commands = a.id
	}
	a.keys = s.keys(a.message)
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
	if st.Value.Received != nil && st.Value.Digest != digest(a.raw) {
		sum := digest(a.raw)
		a.id = uuid.NewSHA1(uuid.MustParse(a.id), sum[:]).String()
		a.commands = a.id
		reused = refuse("edge.control_id.reused", "MSH-10", "another message with this control id was taken before: give each message its own")
		if st, err = s.messages.Load(ctx, a.id); err != nil {
			return taken{}, err
		}
	}
	if st.Value.Outcome != nil {
		return taken{st, true, acknowledge(a.message, a.id, st.Value.Outcome)}, nil
	}
	id := uuid.MustParse(a.id)
	header := func(step string) *metav1.Command {
		return &metav1.Command{CommandId: uuid.NewSHA1(id, []byte(step)).String(), Actor: &metav1.Actor{User: "edge", Organisation: organisation(a.message)}}
	}
	if st, err = s.messages.Do(ctx, a.id, &pb.KeepMessageRequest{Command: header("keep"), MessageId: a.id}, keep(&pb.MessageReceived{
		MessageId: a.id, Raw: a.raw,
		Application: coded(a.message.get("MSH-3")), Facility: coded(a.message.get("MSH-4")), ControlId: coded(a.message.get("MSH-10")),
		Type: coded(a.message.kind()), Version: coded(a.message.get("MSH-12")), PatientKeys: a.keys, RedriveOf: a.redriveOf, CommandsOf: a.commands,
	})); err != nil {
		return taken{}, err
	}
	outcome, err := s.outcome(ctx, a, reused)
	if err != nil {
		return taken{}, err
	}
	if st, err = s.messages.Do(ctx, a.id, &pb.ConcludeMessageRequest{Command: header("conclude"), MessageId: a.id}, conclude(outcome)); err != nil {
		return taken{}, err
	}
	// The next message of this patient must see it.
	if err := s.index.Wait(ctx, st.Position); err != nil {
		return taken{}, err
	}
	return taken{st, false, acknowledge(a.message, a.id, st.Value.Outcome)}, nil
}

// outcome applies the message and says how that went.
func (s *service) outcome(ctx context.Context, a arrival, reused error) (proto.Message, error) {
	now := timestamppb.New(s.clock())
	work := &work{service: s, m: a.message, arrival: a}
	err := reused
	if err == nil {
		err = s.apply(ctx, work)
	}
	if err == nil {
		return &pb.MessageApplied{Effects: work.effects, PersonId: work.person, At: now}, nil
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
	return &pb.MessageParked{Reason: why.reason, Holds: why.holds, At: now}, nil
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

// apply checks what every message must have, then does what its kind asks for.
func (s *service) apply(ctx context.Context, w *work) error {
	m := w.m
	switch {
	case errors.Is(w.arrival.unread, errEncoding):
		return refuse("edge.charset", "MSH-18", "the bytes are not in the character set that MSH-18 declares, or that set is not taken")
	case w.arrival.unread != nil:
		return refuseKind("edge.hl7.unreadable", "MSH-1", w.arrival.unread.Error())
	case m.get("MSH-10") == "":
		return refuse("edge.field.required", "MSH-10", "the message control id is missing")
	case !versions.MatchString(m.get("MSH-12")):
		return refuseKind("edge.version.unknown", "MSH-12", "versions 2.3 to 2.8 are taken")
	}
	do, known := kinds[m.kind()]
	switch {
	case known && do == nil:
		return refuseKind("edge.type.not_taken", "MSH-9.2", "messages of this type are not taken yet")
	case !known:
		return refuseKind("edge.type.unknown", "MSH-9", "messages of this type are not known")
	}
	if !odsCode.MatchString(m.get("MSH-4")) {
		return park("edge.facility.unknown", "MSH-4", "the sending facility is no ODS code (3 to 10 capital letters and digits)")
	}
	if w.arrival.redriveOf == "" && s.index.holding(w.arrival.keys, "") {
		return &stop{reason: &pb.Reason{Code: "edge.waits_behind", Text: "an earlier message of the patient is held: apply that one first"}, holds: true}
	}
	return do(ctx, w)
}

var (
	versions = regexp.MustCompile(`^2\.[3-8](\.[0-9])?$`)
	odsCode  = regexp.MustCompile(`^[A-Z0-9]{3,10}$`)
)

// organisation is whose record the message is; UNKNOWN where it does not say.
func organisation(m message) string {
	if facility := m.get("MSH-4"); odsCode.MatchString(facility) {
		return facility
	}
	return "UNKNOWN"
}

// keys hashes the identifiers of the patients in a message.
func (s *service) keys(m message) (keys []string) {
	for _, p := range []struct{ segment, prefix string }{{"PID", ""}, {"MRG", otherPatient}} {
		ids := identifiers(m, p.segment)
		for _, id := range ids {
			mac := hmac.New(sha256.New, s.key)
			mac.Write([]byte("edge patient\x00" + id.assigner + "\x00" + id.value))
			key := p.prefix + hex.EncodeToString(mac.Sum(nil)[:16])
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// locks lets one message of a patient in at a time.
type locks struct {
	mu   sync.Mutex // guards all below
	held map[string]chan struct{}
}

// lock takes all names, in one order for everybody.
func (l *locks) lock(ctx context.Context, names []string) (unlock func(), err error) {
	sorted := make([]string, len(names))
	for i, n := range names {
		sorted[i] = strings.TrimPrefix(n, otherPatient)
	}
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	var got []string
	unlock = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, n := range got {
			close(l.held[n])
			delete(l.held, n)
		}
	}
	for _, n := range sorted {
		for {
			l.mu.Lock()
			busy := l.held[n]
			if busy == nil {
				l.held[n] = make(chan struct{})
				got = append(got, n)
			}
			l.mu.Unlock()
			if busy == nil {
				break
			}
			select {
			case <-busy:
			case <-ctx.Done():
				unlock()
				return nil, fault.Unavailable("edge.patient.busy", "an earlier message of this patient is still being applied: send it again", time.Second)
			}
		}
	}
	return unlock, nil
}
