package feed

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/appointment"
	"waymark/services/edge"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/mllp"
	"waymark/services/kit/run"
	"waymark/services/pathway"
	"waymark/services/person"
	"waymark/services/plan"
	"waymark/services/referral"
)

// house serves the edge with the person and referral services, over one log.
type house struct {
	edge pb.EdgeServiceClient
	log  es.Log

	referrals    referralv1.ReferralServiceClient
	appointments appointmentv1.AppointmentServiceClient

	mllp string
	fhir string // URL
	conn grpc.ClientConnInterface
	fail atomic.Pointer[failure] // what calls of the edge to others do
	late atomic.Int64            // by how much the clock has moved on
	stop func()                  // ends it before the test does

	updating  atomic.Int32 // calls of UpdateDemographics in progress
	overtaken atomic.Bool  // there were two at once
}

type failure struct {
	method string
	after  bool // the call is made, its answer is lost
	err    error
}

// dial makes calls fail as the test says.
type dial struct {
	grpc.ClientConnInterface
	h *house
}

func (d dial) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if strings.HasSuffix(method, "/UpdateDemographics") {
		if d.h.updating.Add(1) > 1 {
			d.h.overtaken.Store(true)
		}
		defer d.h.updating.Add(-1)
	}
	f := d.h.fail.Load()
	if f == nil || !strings.HasSuffix(method, f.method) {
		return d.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	}
	if f.after {
		if err := d.ClientConnInterface.Invoke(ctx, method, args, reply, opts...); err != nil {
			return err
		}
	}
	return f.err
}

func open(t testing.TB, log es.Log, opts edge.ListenOptions) *house {
	t.Helper()
	return openWith(t, log, opts, func(c grpc.ClientConnInterface) grpc.ClientConnInterface { return c })
}

// openWith opens a house whose listener reaches the edge through what wrap makes.
func openWith(t testing.TB, log es.Log, opts edge.ListenOptions, wrap func(grpc.ClientConnInterface) grpc.ClientConnInterface) *house {
	t.Helper()
	return openFor(t, log, opts, wrap, nil)
}

// openFor opens one that knows facilities by name.
func openFor(t testing.TB, log es.Log, opts edge.ListenOptions, wrap func(grpc.ClientConnInterface) grpc.ClientConnInterface, facilities map[string]string) *house {
	t.Helper()
	h := &house{log: log}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	p, err := run.Listen(t.Context(), run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond, HealthEvery: 20 * time.Millisecond}, "edge-test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	deps := p.Deps(log, nil, []byte("0123456789abcdef0123456789abcdef"))
	deps.Clock = func() time.Time {
		return time.Date(2026, 6, 15, 9, 0, 0, 0, time.UTC).Add(time.Duration(h.late.Load()))
	}
	deps.Facilities = facilities
	plain := deps.Dial
	deps.Dial = func(service string) grpc.ClientConnInterface {
		if service == "edge" {
			return wrap(plain(service))
		}
		return dial{plain(service), h}
	}
	var parts []run.Part
	for _, make := range []func(run.Deps) (run.Part, error){person.New, referral.New, appointment.New, plan.New, pathway.New, edge.New} {
		part, err := make(deps)
		if err != nil {
			t.Fatal(err)
		}
		part.React = nil
		parts = append(parts, part)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.mllp = lis.Addr().String()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.fhir = "http://" + web.Addr().String() + edge.FHIRPath
	parts = append(parts, edge.Listener(deps, lis, opts), edge.FHIR(deps, web, edge.FHIROptions{Hidden: map[string]bool{"tfc:360": true, "site:RJ199": true}}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, deps, parts...) }()
	conn, err := run.Dial(p.GRPC(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.edge = pb.NewEdgeServiceClient(conn)
	h.referrals, h.appointments = referralv1.NewReferralServiceClient(conn), appointmentv1.NewAppointmentServiceClient(conn)
	h.conn = conn
	h.stop = sync.OnceFunc(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// adt is a message about Testcase, born 4 May 1961, with NHS number 9990000018.
func adt(trigger, control, rest string) string {
	return fmt.Sprintf("MSH|^~\\&|PAS|RJ1|WAYMARK|X26|20260601120000||ADT^%s^ADT_A05|%s|P|2.4\rEVN|%s|20260601120000\rPID|1||9990000018^^^NHS~H1^^^RJ1||TESTCASE^ANN^^^MRS||19610504|2|||1 HIGH ST^^LEEDS^^LS1 1AA||01130000000%s\r", trigger, control, trigger, rest)
}

func (h *house) take(t testing.TB, raw string) *pb.TakeMessageReply {
	t.Helper()
	r, err := h.edge.TakeMessage(t.Context(), &pb.TakeMessageRequest{Raw: []byte(raw)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h *house) want(t testing.TB, raw, ack, reason string) *pb.TakeMessageReply {
	t.Helper()
	r := h.take(t, raw)
	if r.Message.Acknowledgement != ack || r.Message.Reason.GetCode() != reason {
		t.Errorf("%s: %s %q (%s), want %s %q", r.Message.Type, r.Message.Acknowledgement, r.Message.Reason.GetCode(), r.Message.Reason.GetText(), ack, reason)
	}
	if !strings.Contains(string(r.Acknowledgement), "\rMSA|"+ack+"|") {
		t.Errorf("%s is not acknowledged with %s: %q", r.Message.Type, ack, r.Acknowledgement)
	}
	return r
}

// head is the position of the newest event that the edge follows.
func (h *house) head(t testing.TB) (head uint64) {
	t.Helper()
	if err := h.log.ReadAll(t.Context(), 0, func(e es.Recorded) error {
		switch category, _, _ := strings.Cut(e.Stream, "-"); category {
		case "message", "pathway", "person", "referral", "appointment":
			head = uint64(e.Position)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return head
}

// count counts the events of a type in the log.
func (h *house) count(t testing.TB, name string) (n int) {
	t.Helper()
	if err := h.log.ReadAll(t.Context(), 0, func(e es.Recorded) error {
		if strings.HasSuffix(e.Type, "."+name) {
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func ref(trigger, control, rf1 string) string {
	return strings.Replace(adt(trigger, control, ""), "ADT^"+trigger+"^ADT_A05", "REF^"+trigger+"^REF_"+trigger, 1) + rf1 + "\rPRD|RP\r"
}

// What each kind of message becomes.
func TestKinds(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	first := h.want(t, adt("A28", "1", ""), "AA", "")
	who := first.Message.PersonId
	if who == "" || first.Message.Effects[0].Command != "person.RegisterPerson" {
		t.Errorf("A28: %v", first.Message)
	}
	if r := h.want(t, adt("A31", "2", ""), "AA", ""); r.Message.PersonId != who {
		t.Error("A31 is about somebody else")
	}
	h.want(t, adt("A31", "3", strings.Repeat("|", 16)+"20260530|Y"), "AA", "")
	if h.count(t, "DeathReportedInformally") != 1 {
		t.Error("PID-30 noted no death")
	}
	h.want(t, strings.Replace(adt("A31", "4", ""), "TESTCASE", "OTHER", 1), "AA", "") // two of three agree
	h.want(t, adt("A31", "4b", ""), "AA", "")
	h.want(t, strings.NewReplacer("TESTCASE", "ELSE", "19610504", "19900101").Replace(adt("A31", "5", "")), "AA", "person.identity.mismatch")
	h.want(t, strings.Replace(adt("A31", "6", ""), "9990000018", "9990000019", 1), "AE", "person.nhs_number.invalid")
	h.want(t, strings.Replace(adt("A31", "7", ""), "19610504", "19611350", 1), "AE", "edge.field.invalid")
	h.want(t, strings.Replace(adt("A31", "8", ""), "|RJ1|", "|St Elsewhere|", 1), "AA", "edge.facility.unknown")
	h.want(t, strings.Replace(adt("A31", "9", ""), "|P|2.4", "|P|3.0", 1), "AR", "edge.version.unknown")
	h.want(t, adt("A99", "10", ""), "AR", "edge.type.unknown")
	h.want(t, adt("A09", "11", ""), "AR", "edge.type.unknown")
	h.want(t, strings.Replace(adt("A31", "12", ""), "|12|", "||", 1), "AE", "edge.field.required")
	h.want(t, "no HL7 at all", "AR", "edge.hl7.unreadable")

	// Another record of the same patient, and its merge.
	other := strings.NewReplacer("9990000018^^^NHS~H1^^^RJ1", "H2^^^RJ1").Replace(adt("A28", "20", ""))
	if r := h.want(t, other, "AA", ""); r.Message.PersonId == who {
		t.Error("a person without a number was taken for another")
	}
	if r := h.want(t, strings.Replace(strings.Replace(other, "A28", "A31", 2), "|20|", "|21|", 1), "AA", ""); r.Message.Effects[0].Command != "person.UpdateDemographics" {
		t.Error("a local identifier was not recognised")
	}
	h.want(t, adt("A40", "22", "")+"MRG|H2^^^RJ1\r", "AA", "")
	if h.count(t, "MergeHeldForReview") != 1 {
		t.Error("A40 held no merge for review")
	}
	h.want(t, adt("A40", "23", "")+"MRG|H7^^^RJ1\r", "AA", "edge.person.unknown")
	h.want(t, strings.Replace(adt("A47", "24", ""), "~H1^", "~H9^", 1)+"MRG|H1^^^RJ1\r", "AA", "")
	if h.count(t, "LocalIdentifierReplaced") != 1 {
		t.Error("A47 replaced no identifier")
	}

	// Referrals.
	h.want(t, ref("I12", "30", "RF1|P|3|01|||REF1^RJ1|20260601"), "AA", "")
	h.want(t, ref("I12", "30b", "RF1|P|3|01|||REF1^RJ1|20260601"), "AA", "edge.referral.known")
	h.want(t, ref("I13", "30c", "RF1|P|3|01|||REF1^RJ1|20260602"), "AA", "edge.referral.facts_differ")
	h.want(t, ref("I12", "31", "RF1|P|R|MED|||REF2^RJ1|20260601"), "AA", "edge.referral.not_suspected_cancer")
	h.want(t, ref("I12", "32", "RF1|P|3|01|||REF3^RJ1|"), "AE", "edge.field.invalid")
	h.want(t, ref("I12", "33", "RF1|P|2WW||||REF4^RJ1|20270601"), "AE", "cwt.date.in_future")
	h.want(t, ref("I14", "34", "RF1|C|3|01|||REF1^RJ1|20260601|||CHANGED"), "AA", "edge.referral.cancel_reason")
	h.want(t, ref("I14", "35", "RF1|C|3|01|||REF1^RJ1|20260601|||EIE"), "AA", "")
	h.want(t, ref("I14", "36", "RF1|C|3|01|||REF9^RJ1|20260601|||EIE"), "AA", "edge.referral.unknown")
	if started, closed := h.count(t, "PathwayStarted"), h.count(t, "PathwayClosed"); started != 1 || closed != 1 {
		t.Errorf("%d pathways were started and %d closed, want one each", started, closed)
	}
	stored := h.count(t, "MessageReceived")
	outcomes := h.count(t, "MessageApplied") + h.count(t, "MessageParked") + h.count(t, "MessageRefused")
	if stored != outcomes || stored != 28 {
		t.Errorf("%d messages kept, %d outcomes, want 28", stored, outcomes)
	}
	estest.Audit(t, h.log)
}

// A repeat gets the first answer, byte for byte; another message under the same
// control id is another message, and marked.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	first := h.want(t, adt("A28", "1", ""), "AA", "")
	again := h.want(t, strings.ReplaceAll(strings.Replace(adt("A28", "1", ""), "|20260601120000||ADT", "|20260601130000||ADT", 1), "\r", "\r\n"), "AA", "")
	if !again.Duplicate || string(again.Acknowledgement) != string(first.Acknowledgement) || again.Message.MessageId != first.Message.MessageId {
		t.Errorf("the repeat was answered %q, the first %q", again.Acknowledgement, first.Acknowledgement)
	}
	another := strings.Replace(adt("A28", "1", ""), "ANN", "JO", 1)
	if r := h.want(t, another, "AA", ""); r.Duplicate || !r.Message.ControlIdReused {
		t.Errorf("another message with the control id of an earlier one: %v", r)
	}
	if r := h.want(t, another, "AA", ""); !r.Duplicate {
		t.Error("its repeat was no duplicate")
	}
	if r := h.want(t, adt("A31", "1", ""), "AA", ""); r.Duplicate || !r.Message.ControlIdReused {
		t.Errorf("a message of another type with the control id of an earlier one: %v", r)
	}
	if n := h.count(t, "MessageReceived"); n != 3 {
		t.Errorf("%d messages kept, want 3", n)
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() { h.want(t, adt("A31", "2", ""), "AA", "") })
	}
	wait.Wait()
	if n := h.count(t, "MessageReceived"); n != 4 {
		t.Errorf("%d messages kept, want 4", n)
	}
}

// A service that fails with or without having done its work leaves the message
// without an answer; its repeat ends as if nothing had been.
func TestRepeatAfterFailure(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"/FindPerson", "/RegisterPerson", "/StartPathway"} {
		for _, after := range []bool{false, true} {
			if method == "/FindPerson" && after {
				continue // it does nothing
			}
			h := open(t, estest.NewLog(), edge.ListenOptions{})
			h.fail.Store(&failure{method, after, status.Error(codes.DeadlineExceeded, "gone")})
			raw := ref("I12", "1", "RF1|P|3|01|||REF1^RJ1|20260601")
			if _, err := h.edge.TakeMessage(t.Context(), &pb.TakeMessageRequest{Raw: []byte(raw)}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: answered %v", method, err)
			}
			if h.count(t, "MessageReceived") != 1 {
				t.Errorf("%s: the message was not kept first", method)
			}
			h.fail.Store(nil)
			h.want(t, raw, "AA", "")
			if p, s := h.count(t, "PersonRegistered"), h.count(t, "PathwayStarted"); p != 1 || s != 1 {
				t.Errorf("%s, done %v: %d persons and %d pathways, want one each", method, after, p, s)
			}
		}
	}
}

// A poison message holds later ones of its patient and of nobody else; redriving
// them in order mends it.
func TestPoison(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.want(t, adt("A28", "1", ""), "AA", "")
	h.fail.Store(&failure{"/UpdateDemographics", false, status.Error(codes.Internal, "broken")})
	poison := h.want(t, adt("A31", "2", ""), "AA", "edge.apply.failed")
	h.fail.Store(nil)
	behind := h.want(t, adt("A31", "3", ""), "AA", "edge.waits_behind")
	h.want(t, strings.NewReplacer("9990000018", "9990000026", "H1^", "H5^").Replace(adt("A28", "4", "")), "AA", "")

	again := func(id, name string, corrections ...*pb.Correction) (*pb.RedriveMessageReply, error) {
		return h.edge.RedriveMessage(t.Context(), &pb.RedriveMessageRequest{
			Command:   &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte(name)).String(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}},
			MessageId: id, Corrections: corrections,
		})
	}
	if _, err := again(behind.Message.MessageId, "too early"); fault.CodeOf(err) != "edge.redrive.order" {
		t.Errorf("out of order: %v", err)
	}
	for i, m := range []*pb.Message{poison.Message, behind.Message} {
		r, err := again(m.MessageId, fmt.Sprint("redrive", i))
		if err != nil {
			t.Fatal(err)
		}
		if r.Message.Acknowledgement != "AA" || r.Message.State != pb.MessageState_MESSAGE_STATE_APPLIED || r.Message.RedriveOf != m.MessageId {
			t.Errorf("redriven: %v", r.Message)
		}
		if repeat, err := again(m.MessageId, fmt.Sprint("redrive", i)); err != nil || repeat.Message.MessageId != r.Message.MessageId {
			t.Errorf("the same command again: %v", err)
		}
		if _, err := again(m.MessageId, fmt.Sprint("another", i)); fault.CodeOf(err) != "edge.redrive.done" {
			t.Errorf("a second redrive: %v", err)
		}
	}
	h.want(t, adt("A31", "5", ""), "AA", "")

	// A correction mends a refused one.
	bad := h.want(t, strings.Replace(adt("A31", "6", ""), "9990000018", "9990000019", 1), "AE", "person.nhs_number.invalid")
	r, err := again(bad.Message.MessageId, "corrected", &pb.Correction{Path: "PID-3.1", Value: "9990000018"}, &pb.Correction{Path: "PID-5.1", Value: "O'TEST & CO"})
	if err != nil || r.Message.Acknowledgement != "AA" || r.Message.State != pb.MessageState_MESSAGE_STATE_APPLIED {
		t.Fatalf("corrected: %v, %v", r, err)
	}
	shown, err := h.edge.GetMessage(t.Context(), &pb.GetMessageRequest{MessageId: r.Message.MessageId})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, f := range shown.Fields {
		values[f.Path] = f.Value
	}
	if values["PID-3.1"] != "9990000018" || values["PID-3[2].1"] != "H1" || values["PID-5.1"] != "O'TEST & CO" || values["MSH-10"] != "6" {
		t.Errorf("shown: %v", values)
	}
	list, err := h.edge.ListMessages(t.Context(), &pb.ListMessagesRequest{PageSize: 2, State: pb.MessageState_MESSAGE_STATE_REDRIVEN})
	if err != nil || len(list.Messages) != 2 || list.NextPageToken == "" {
		t.Fatalf("list: %v, %v", list, err)
	}
	rest, err := h.edge.ListMessages(t.Context(), &pb.ListMessagesRequest{PageSize: 2, State: pb.MessageState_MESSAGE_STATE_REDRIVEN, PageToken: list.NextPageToken})
	if err != nil || len(rest.Messages) != 1 || rest.NextPageToken != "" {
		t.Errorf("the rest: %v, %v", rest, err)
	}
}

// Messages of one patient from many connections are applied one at a time.
func TestOrder(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			id := strings.ReplaceAll(adt("A28", fmt.Sprint(i), ""), "9990000018^^^NHS~H1^", fmt.Sprintf("L%d^", i%2))
			h.want(t, id, "AA", "")
		})
	}
	wait.Wait()
	if n := h.count(t, "PersonRegistered"); n != 2 {
		t.Errorf("%d persons were registered for 2 local identifiers", n)
	}
}

// One patient's messages keep their order whichever identifiers they have: the
// NHS number in one, the hospital's own in the next.
func TestOneOrderForAllIdentifiers(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.want(t, adt("A28", "1", ""), "AA", "")
	number := func(control string) string { return strings.Replace(adt("A31", control, ""), "~H1^^^RJ1", "", 1) }
	local := func(control string) string {
		return strings.Replace(adt("A31", control, ""), "9990000018^^^NHS~", "", 1)
	}
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			one := number
			if i%2 == 0 {
				one = local
			}
			h.want(t, one(fmt.Sprint("p", i)), "AA", "")
		})
	}
	wait.Wait()
	if h.overtaken.Load() {
		t.Error("two messages of one patient were applied at once")
	}
	h.fail.Store(&failure{"/UpdateDemographics", false, status.Error(codes.Internal, "broken")})
	h.want(t, number("q1"), "AA", "edge.apply.failed")
	h.fail.Store(nil)
	h.want(t, local("q2"), "AA", "edge.waits_behind")
}

// The log alone says who is who and who waits, after a restart.
func TestRestart(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	local := strings.ReplaceAll(adt("A28", "1", ""), "9990000018^^^NHS~", "")
	first := open(t, log, edge.ListenOptions{}).want(t, local, "AA", "")
	second := open(t, log, edge.ListenOptions{})
	if r := second.want(t, local, "AA", ""); !r.Duplicate || string(r.Acknowledgement) != string(first.Acknowledgement) {
		t.Error("another answer after a restart")
	}
	if r := second.want(t, strings.Replace(local, "|1|P|", "|2|P|", 1), "AA", ""); r.Message.PersonId != first.Message.PersonId {
		t.Error("another person after a restart")
	}
}

func (h *house) connect(t testing.TB) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", h.mllp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}

// Over a socket: several messages, a batch, an oversized one, a half-open
// connection, and more connections than are taken.
func TestSocket(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{Connections: 4, First: 200 * time.Millisecond, Frame: 5 * time.Second})
	conn, r := h.connect(t)
	answer := func(ack string) {
		t.Helper()
		got, err := mllp.Read(r, mllp.MaxMessage)
		if err != nil || !strings.Contains(string(got), "\rMSA|"+ack+"|") {
			t.Fatalf("%q, %v; want %s", got, err, ack)
		}
	}
	conn.Write(mllp.Frame([]byte(adt("A28", "1", ""))))
	answer("AA")
	conn.Write(append(mllp.Frame([]byte(adt("A31", "2", ""))), mllp.Frame([]byte(adt("A99", "3", "")))...))
	answer("AA")
	answer("AR")
	conn.Write(mllp.Frame([]byte("FHS|^~\\&\rBHS|^~\\&\r" + adt("A31", "4", "") + adt("A31", "5", "") + "BTS|2\rFTS|1\r")))
	if got, err := mllp.Read(r, mllp.MaxMessage); err != nil || strings.Count(string(got), "\rMSA|AA|") != 2 || !strings.HasSuffix(string(got), "\rBTS|2|\rFTS|1\r") {
		t.Fatalf("a batch was answered with %q, %v", got, err)
	}
	go conn.Write(mllp.Frame([]byte(strings.Repeat("x", 2*mllp.MaxMessage))))
	answer("AR")
	if _, err := r.ReadByte(); err == nil {
		t.Error("the connection of an oversized message is still open")
	}

	idle, ri := h.connect(t)
	if _, err := ri.ReadByte(); err == nil {
		t.Error("a half-open connection said something")
	}
	idle.Close()

	for i := range 4 { // all that are taken, each proved by an answer
		conn, r = h.connect(t)
		conn.Write(mllp.Frame([]byte(adt("A31", fmt.Sprint(10+i), ""))))
		answer("AA")
	}
	for range 50 {
		_, more := h.connect(t)
		if _, err := more.ReadByte(); err == nil {
			t.Error("a connection beyond the bound was answered")
		}
	}
	conn.Write(mllp.Frame([]byte(adt("A31", "20", ""))))
	answer("AA")
}
