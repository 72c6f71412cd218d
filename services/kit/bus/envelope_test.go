package bus

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	_ "waymark/proto/waymark/person/v1"
	_ "waymark/proto/waymark/plan/v1"
	_ "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

var golden = flag.Bool("golden", false, "write testdata/envelope.txt anew")

const fullMetadata = `{"commandId":"6f1c3f4e-8f52-4a58-9d2e-0f7f5b1d2a11","$correlationId":"corr-1","$causationId":"cause-1","actor":{"user":"555086689106","role":"R8000","organisation":"RJ1","onBehalfOf":"555086689107"},"purpose":"TREAT","reason":"secret reason","tenant":"RJ1","occurredAt":"2026-11-20T08:00:00+01:00","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","chain":"x"}`

func recorded(t *testing.T, stream string, m proto.Message, metadata string) *es.Recorded {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &es.Recorded{
		ID: uuid.MustParse("7a0d2c54-2f0b-5d0e-9a75-0a4f1f3b6c22"), Stream: stream, Revision: 4, Position: 4096,
		Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data, Metadata: []byte(metadata),
		Recorded: time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC),
	}
}

// TestEnvelope holds the whole message: changing it is changing what every
// subscriber reads.
func TestEnvelope(t *testing.T) {
	m := newMapper(Mapping{Env: "test"})
	e := recorded(t, "appointment-5b0c7a52-98a1-4a0e-8d57-2f6a4a0c9a01", &appointmentv1.AppointmentBooked{
		AppointmentId: "a-1", ReferralId: "r-1", Purpose: "clinical purpose", Needs: []string{"clinical need"}, OverlapOverrideReason: "free text",
		Booking: &appointmentv1.Booking{Start: timestamppb.New(time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)), Site: "RJ101", Room: "private room", TreatmentFunction: "800"},
	}, fullMetadata)
	msg, err := m.message(e, 4032)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newMapper(Mapping{Env: "test"}).message(e, 4032)
	if err != nil || !reflect.DeepEqual(msg, again) {
		t.Error("the same event gave two messages")
	}
	var pretty strings.Builder
	pretty.WriteString(msg.Subject + "\n")
	for _, name := range ourHeaders {
		pretty.WriteString(name + ": " + header(msg.Header, name) + "\n")
	}
	var body any
	if err := json.Unmarshal(msg.Data, &body); err != nil {
		t.Fatal(err)
	}
	indented, _ := json.MarshalIndent(body, "", "  ")
	pretty.Write(append(indented, '\n'))
	file := filepath.Join("testdata", "envelope.txt")
	if *golden {
		if err := os.WriteFile(file, []byte(pretty.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if pretty.String() != string(want) {
		t.Errorf("the message is now\n%s", pretty.String())
	}
	for _, secret := range []string{"clinical", "private", "free text", "secret", "5550866", "R8000", "TREAT", "commandId"} {
		if strings.Contains(pretty.String(), secret) {
			t.Errorf("%q is on the bus", secret)
		}
	}

	got, err := decode(protoregistry.GlobalTypes, place{sequence: 9, position: 4096, previous: 4032}, msg.Subject, msg.Data)
	if err != nil {
		t.Fatal(err)
	}
	booked := got.Message.(*appointmentv1.AppointmentBooked)
	if booked.GetAppointmentId() != "a-1" || booked.GetPurpose() != "" || booked.GetBooking().GetSite() != "RJ101" || booked.GetBooking().GetRoom() != "" {
		t.Errorf("%v", booked)
	}
	got.Message = nil
	if wantEvent := (Event{
		ID: e.ID, Category: "appointment", StreamID: "5b0c7a52-98a1-4a0e-8d57-2f6a4a0c9a01", Revision: 4, Position: 4096, Tenant: "RJ1",
		CorrelationID: "corr-1", CausationID: "cause-1", Occurred: time.Date(2026, 11, 20, 7, 0, 0, 0, time.UTC), Recorded: e.Recorded,
	}); !got.Occurred.Equal(wantEvent.Occurred) || got.Tenant != "RJ1" || got.Recorded != wantEvent.Recorded || got.ID != e.ID || got.StreamID != wantEvent.StreamID || got.Revision != 4 {
		t.Errorf("%+v", got)
	}
}

// TestEnvelopeOfEveryEvent maps each event type there is, with every field set,
// and looks that nothing above PSEUDONYMOUS comes through.
func TestEnvelopeOfEveryEvent(t *testing.T) {
	m := newMapper(Mapping{})
	events, fields := 0, 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		d := mt.Descriptor()
		category := proto.GetExtension(d.Options(), metav1.E_Category).(string)
		if category == "" {
			return true
		}
		events++
		msg := mt.New()
		fields += fillSecrets(msg, true, 0)
		out, err := m.message(recorded(t, category+"-1", msg.Interface(), fullMetadata), 0)
		if err != nil {
			t.Errorf("%s: %v", d.FullName(), err)
			return true
		}
		if strings.Contains(string(out.Data), secretText) {
			t.Errorf("%s: a field above PSEUDONYMOUS is on the bus: %s", d.FullName(), out.Data)
		}
		if want := Subject("RJ1", category, string(d.Name())); out.Subject != want {
			t.Errorf("subject %s, want %s", out.Subject, want)
		}
		var ce cloudevents.Event
		if err := ce.UnmarshalJSON(out.Data); err != nil || ce.Validate() != nil {
			t.Errorf("%s: not a valid CloudEvent", d.FullName())
		}
		if _, err := decode(protoregistry.GlobalTypes, place{sequence: 1, position: 1}, out.Subject, out.Data); err != nil {
			t.Errorf("%s: %v", d.FullName(), err)
		}
		return true
	})
	t.Logf("events=%d secret_fields=%d", events, fields)
	if events < 50 || fields < 20 {
		t.Errorf("looked at %d events and %d fields", events, fields)
	}
}

const secretText = "must-not-be-seen"

// fillSecrets sets every text field, secret ones to secretText, and returns how
// many were secret.
func fillSecrets(msg protoreflect.Message, open bool, depth int) (secrets int) {
	if depth > 4 || whole[msg.Descriptor().FullName()] {
		return 0
	}
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		open := open && public(f)
		text := protoreflect.ValueOfString("x")
		if !open {
			text = protoreflect.ValueOfString(secretText)
		}
		switch {
		case f.IsMap():
		case f.Kind() == protoreflect.StringKind && f.IsList():
			msg.Mutable(f).List().Append(text)
		case f.Kind() == protoreflect.StringKind:
			msg.Set(f, text)
		case f.Message() != nil && f.IsList():
			v := msg.Mutable(f).List().AppendMutable()
			secrets += fillSecrets(v.Message(), open, depth+1)
			continue
		case f.Message() != nil:
			secrets += fillSecrets(msg.Mutable(f).Message(), open, depth+1)
			continue
		default:
			continue
		}
		if !open {
			secrets++
		}
	}
	return secrets
}

// TestEnvelopePlain: both ways of writing an envelope give the same bytes, and
// the short one leaves what it cannot write to the other.
func TestEnvelopePlain(t *testing.T) {
	plains := 0
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.StringMatching(`[a-zA-Z0-9._:/-]{1,20}`)
		if rapid.Bool().Draw(t, "odd") {
			texts = rapid.OneOf(texts, rapid.String())
		}
		v := envelope{
			id: texts.Draw(t, "id"), kind: typePrefix + texts.Draw(t, "type"), source: "/nhs/" + texts.Draw(t, "source"), subject: texts.Draw(t, "subject"),
			schema:   schemaURL + texts.Draw(t, "schema"),
			occurred: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(), data: []byte(`{"a":1}`),
			extensions: [...][2]string{{"causationid", texts.Draw(t, "a")}, {"correlationid", ""}, {"partitionkey", texts.Draw(t, "p")}, {"recordedtime", texts.Draw(t, "r")}, {"sequence", "1"}, {"traceparent", ""}},
		}
		short, plain := v.plain()
		if plain {
			plains++
		}
		long, err := v.any()
		if plain && (err != nil || string(short) != string(long)) {
			t.Fatalf("%s\nis not %s\n%v", short, long, err)
		}
	})
	if plains == 0 {
		t.Error("nothing was written the short way")
	}
	v := envelope{id: "1", kind: "a.b", source: "/nhs/RJ1", subject: "plan/1", schema: schemaURL + "x", data: []byte("{}")}
	if _, plain := v.plain(); !plain {
		t.Error("what is plain is not written so")
	}
	for _, odd := range []string{"", "a b", `a"b`, "é", "a\n", "<", "%"} {
		v.subject = odd
		if b, plain := v.plain(); plain {
			t.Errorf("%q is plain: %s", odd, b)
		}
	}
}

func TestEnvelopeDefaults(t *testing.T) {
	m := newMapper(Mapping{})
	for _, metadata := range []string{"", "{}", `{"tenant":"","occurredAt":""}`, `{"tenant":"a.b>*","occurredAt":"yesterday"}`} {
		e := recorded(t, "lead-l1", &careleadv1.LeadActivated{}, metadata)
		msg, err := m.message(e, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(protoregistry.GlobalTypes, place{sequence: 1, position: 1}, msg.Subject, msg.Data)
		if err != nil || msg.Subject != "waymark.v1.UNKNOWN.lead.LeadActivated" || got.Tenant != "" || !got.Occurred.Equal(e.Recorded) {
			t.Errorf("metadata %q: %s, %+v, %v", metadata, msg.Subject, got, err)
		}
		if !strings.Contains(string(msg.Data), `"subject":"lead/l1"`) {
			t.Errorf("%s", msg.Data)
		}
	}
	for stream, kind := range map[string]string{"$ce-plan": "waymark.x.v1.Y", "schema-1": "waymark.x.v1.Y", "checkpoint-1": "waymark.x.v1.Y", "plan": "waymark.x.v1.Y", "plan-1": "SomethingElse"} {
		if m.relays(&es.Recorded{Stream: stream, Type: kind}) {
			t.Errorf("%s of %s is relayed", kind, stream)
		}
	}
}

func TestCarrier(t *testing.T) {
	h := nats.Header{}
	Carrier(h).Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if h["traceparent"] == nil || len(h) != 1 || len(Carrier(h).Keys()) != 1 {
		t.Errorf("%v", h)
	}
	if l, ok := link(h); !ok || l.SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Error("no link")
	}
	if _, ok := link(nats.Header{"Traceparent": h["traceparent"]}); ok {
		t.Error("names are compared case by case")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("waymark.v1.RJ1.lead.LeadActivated", []byte(`{"specversion":"1.0","id":"x","source":"/nhs/RJ1","type":"t"}`))
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		e, err := decode(protoregistry.GlobalTypes, place{sequence: 1, position: 1}, subject, body)
		if err == nil && e.Message == nil {
			t.Error("an event without a message")
		}
	})
}
