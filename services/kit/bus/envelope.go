package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"waymark/services/kit/es"
)

// Mapping says how stored events become messages. All relays of one stream, and
// Scrub, must use the same. The zero value is sound.
type Mapping struct {
	// Env is the environment in the source attribute, such as "live"; "" is "dev".
	Env string
	// Exclude lists the stream categories that are not relayed; nil means
	// DefaultExclude.
	Exclude []string
	// Types finds event types by full name; nil means those linked into the
	// program, so a relay imports the contracts of every service.
	Types *protoregistry.Types
}

// DefaultExclude is what nobody outside the log needs: its own schema and the
// checkpoints of consumers.
func DefaultExclude() []string { return []string{"schema", "checkpoint"} }

// UnknownType says that an event of ours has a type that this program was built
// without: a newer release wrote it. An old relay must not publish it with its
// data missing, and waits for the newer one.
type UnknownType struct {
	Type     string
	Position es.Position
}

func (e *UnknownType) Error() string {
	return fmt.Sprintf("event type %s at position %d is not known to this build", e.Type, e.Position)
}

const (
	typePrefix  = "uk.nhs.waymark."
	schemaURL   = "https://waymark.nhs.uk/schemas/"
	protoPrefix = "waymark."
	dataFormat  = "application/json"
)

// perPathway are the categories whose stream id is the pathway's.
var perPathway = map[string]bool{"pathway": true, "referral": true, "plan": true, "appointment": true, "carelead": true}

var (
	odsCode = regexp.MustCompile(`^[A-Z0-9]{3,10}$`)
	word    = regexp.MustCompile(`^[a-z0-9]+$`)
)

// mapper applies a Mapping. It belongs to one goroutine.
type mapper struct {
	env     string
	exclude map[string]bool
	types   *protoregistry.Types
	plans   map[protoreflect.FullName]*plan
}

func newMapper(m Mapping) *mapper {
	out := &mapper{env: m.Env, exclude: map[string]bool{}, types: m.Types, plans: map[protoreflect.FullName]*plan{}}
	if out.env == "" {
		out.env = "dev"
	}
	if out.types == nil {
		out.types = protoregistry.GlobalTypes
	}
	exclude := m.Exclude
	if exclude == nil {
		exclude = DefaultExclude()
	}
	for _, c := range exclude {
		out.exclude[c] = true
	}
	return out
}

// name tells mappings apart that lead to different messages.
func (m *mapper) name() string {
	excluded := slices.Sorted(maps.Keys(m.exclude))
	return "1 env=" + m.env + " exclude=" + strings.Join(excluded, ",")
}

// relays reports whether the event goes on the bus: it is of a category that is
// not excluded and of a type of ours. Streams of others may share the store.
func (m *mapper) relays(e *es.Recorded) bool {
	category, id := splitStream(e.Stream)
	return !strings.HasPrefix(e.Stream, "$") && id != "" && !m.exclude[category] && strings.HasPrefix(e.Type, protoPrefix)
}

// message maps one event; previous is the position of the event relayed before.
// The same arguments give the same bytes in every build.
func (m *mapper) message(e *es.Recorded, previous es.Position) (*nats.Msg, error) {
	category, id := splitStream(e.Stream)
	desc, err := m.types.FindMessageByName(protoreflect.FullName(e.Type))
	if errors.Is(err, protoregistry.NotFound) {
		return nil, &UnknownType{Type: e.Type, Position: e.Position}
	}
	if err != nil {
		return nil, fmt.Errorf("event type %s: %w", e.Type, err)
	}
	fail := func(err error) (*nats.Msg, error) {
		return nil, fmt.Errorf("map the %s at position %d: %w", e.Type, e.Position, err)
	}
	name, err := parseName(desc.Descriptor().FullName())
	if err != nil {
		return fail(err)
	}
	if !word.MatchString(category) {
		return fail(errors.New("category must be lower-case letters and digits"))
	}
	data, err := m.data(desc, e.Data)
	if err != nil {
		return fail(err)
	}
	meta, err := es.ParseMetadata(*e) // of another writer: what it lacks is unknown
	if err != nil && len(e.Metadata) > 0 && !json.Valid(e.Metadata) {
		return fail(errors.New("metadata is not the JSON it should be"))
	}
	tenant := meta.Tenant
	if !odsCode.MatchString(tenant) {
		tenant = unknownTenant
	}
	occurred := e.Recorded
	if !meta.Occurred.IsZero() {
		occurred = meta.Occurred
	}

	subject := category
	if perPathway[category] {
		subject = "pathway"
	}
	env := envelope{
		id: e.ID.String(), kind: typePrefix + category + "." + strings.ToLower(name.event) + "." + name.version,
		source:  "/nhs/" + tenant + "/waymark/" + m.env + "/" + name.service,
		subject: subject + "/" + id, schema: schemaURL + e.Type + ".json", occurred: occurred.UTC(), data: data,
		extensions: [...][2]string{ // in the order of their names
			{"causationid", meta.CausationID}, {"correlationid", meta.CorrelationID}, {"partitionkey", id},
			{"recordedtime", e.Recorded.UTC().Format(time.RFC3339Nano)}, {"sequence", fmt.Sprintf("%020d", e.Revision)}, {"traceparent", meta.Traceparent}},
	}
	body, plain := env.plain()
	if !plain {
		if body, err = env.any(); err != nil {
			return fail(err)
		}
	}

	msg := nats.NewMsg(Subject(tenant, category, name.event))
	msg.Data = body
	msg.Header[HeaderContentType] = []string{ContentType}
	msg.Header[HeaderPosition] = []string{strconv.FormatUint(uint64(e.Position), 10)}
	msg.Header[HeaderPrevious] = []string{strconv.FormatUint(uint64(previous), 10)}
	if meta.Traceparent != "" {
		Carrier(msg.Header).Set(HeaderTraceparent, meta.Traceparent)
	}
	return msg, nil
}

// envelope is a CloudEvent in structured mode. Extensions without value are left out.
type envelope struct {
	id, kind, source, subject, schema string
	occurred                          time.Time
	data                              []byte // JSON
	extensions                        [6][2]string
}

// any writes it with the SDK, which checks it and escapes what needs it.
func (v *envelope) any() ([]byte, error) {
	ce := cloudevents.New()
	ce.SetID(v.id)
	ce.SetType(v.kind)
	ce.SetSource(v.source)
	ce.SetSubject(v.subject)
	ce.SetTime(v.occurred)
	ce.SetDataSchema(v.schema)
	ce.SetDataContentType(dataFormat)
	ce.DataEncoded = v.data
	for _, e := range v.extensions {
		if e[1] != "" {
			ce.SetExtension(e[0], e[1])
		}
	}
	if err := ce.Validate(); err != nil {
		return nil, err
	}
	return ce.MarshalJSON()
}

// plain writes the same bytes in a tenth of the time where no text needs to be
// escaped or checked, which is nearly always.
func (v *envelope) plain() ([]byte, bool) {
	b := make([]byte, 0, 768+len(v.data))
	ok := true
	add := func(before, text string) {
		b = append(append(b, before...), text...)
		ok = ok && text != "" && isPlain(text)
	}
	add(`{"specversion":"1.0","id":"`, v.id)
	add(`","source":"`, v.source)
	add(`","type":"`, v.kind)
	add(`","subject":"`, v.subject)
	add(`","datacontenttype":"`+dataFormat+`","dataschema":"`, v.schema)
	b = append(b, `","time":"`...)
	b = v.occurred.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	b = append(b, v.data...)
	for _, e := range v.extensions {
		if e[1] != "" {
			b = append(append(b, `,"`...), e[0]...)
			add(`":"`, e[1])
			b = append(b, '"')
		}
	}
	return append(b, '}'), ok
}

func isPlain(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '/', c == ':':
		default:
			return false
		}
	}
	return true
}

// typeName is waymark.<service>.<version>.<event>, taken apart.
type typeName struct{ service, version, event string }

func parseName(full protoreflect.FullName) (typeName, error) {
	p := strings.Split(string(full), ".")
	if len(p) != 4 || p[0] != "waymark" {
		return typeName{}, fmt.Errorf("type %s is not waymark.<service>.<version>.<event>", full)
	}
	return typeName{service: p[1], version: p[2], event: p[3]}, nil
}

// data decodes the event, drops what is too sensitive and writes JSON.
func (m *mapper) data(t protoreflect.MessageType, stored []byte) ([]byte, error) {
	msg := t.New()
	if err := proto.Unmarshal(stored, msg.Interface()); err != nil {
		return nil, errors.New("data is not the protobuf it should be")
	}
	m.planFor(t.Descriptor()).redact(msg)
	raw, err := protojson.Marshal(msg.Interface())
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer // protojson varies its white space from build to build on purpose
	if err := json.Compact(&out, raw); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decode turns a message of the stream back into an event. An event type that
// is not known to this build is an *UnknownType.
func decode(types *protoregistry.Types, p place, subject string, body []byte) (Event, error) {
	var ce cloudevents.Event
	if err := ce.UnmarshalJSON(body); err != nil {
		return Event{}, fmt.Errorf("message %d is not a CloudEvent", p.sequence)
	}
	fail := func(what string) (Event, error) {
		return Event{}, fmt.Errorf("message %d: %s is not as the bus writes it", p.sequence, what)
	}
	tokens := strings.Split(strings.TrimPrefix(subject, subjectPrefix), ".")
	if len(tokens) != 3 {
		return fail("subject")
	}
	ext := func(name string) string { s, _ := ce.Extensions()[name].(string); return s }
	e := Event{
		Category: tokens[1], StreamID: ext("partitionkey"), Position: p.position,
		CorrelationID: ext("correlationid"), CausationID: ext("causationid"), Occurred: ce.Time(),
	}
	if tokens[0] != unknownTenant {
		e.Tenant = tokens[0]
	}
	var err error
	if e.ID, err = uuid.Parse(ce.ID()); err != nil {
		return fail("id")
	}
	revision, err := strconv.ParseInt(ext("sequence"), 10, 64)
	if err != nil {
		return fail("sequence")
	}
	e.Revision = es.Revision(revision)
	if e.Recorded, err = time.Parse(time.RFC3339Nano, ext("recordedtime")); err != nil {
		return fail("recordedtime")
	}
	full := strings.TrimSuffix(path.Base(ce.DataSchema()), ".json")
	t, err := types.FindMessageByName(protoreflect.FullName(full))
	if errors.Is(err, protoregistry.NotFound) {
		return Event{}, &UnknownType{Type: full, Position: p.position}
	}
	if err != nil {
		return fail("dataschema")
	}
	msg := t.New().Interface()
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(ce.Data(), msg); err != nil {
		return fail("data")
	}
	e.Message = msg
	return e, nil
}

// envelopeID reads only the event id, "" when there is none.
func envelopeID(body []byte) string {
	var v struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(body, &v) // what cannot be read has no id
	return v.ID
}
