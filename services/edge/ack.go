package edge

import (
	"strconv"
	"strings"
	"time"
	_ "time/tzdata"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
)

// london is where times without an offset are read.
var london = func() *time.Location {
	l, err := time.LoadLocation("Europe/London")
	if err != nil {
		panic(err) // cannot be: tzdata is linked in
	}
	return l
}()

// verdict is how an outcome is told to the sender.
func verdict(outcome proto.Message) (code string, reason *pb.Reason, at time.Time) {
	switch o := outcome.(type) {
	case *pb.MessageApplied:
		return "AA", o.Note, o.At.AsTime()
	case *pb.MessageParked:
		return "AA", o.Reason, o.At.AsTime()
	case *pb.MessageRefused:
		code = "AE"
		if o.UnknownKind {
			code = "AR"
		}
		return code, o.Reason, o.At.AsTime()
	}
	return "", nil, time.Time{}
}

// acknowledge makes the acknowledgement of a message from what is recorded: the
// same each time it is asked for. m is the zero message for what is no HL7 v2.
func acknowledge(m message, id string, outcome proto.Message) []byte {
	code, reason, at := verdict(outcome)
	if m.segments == nil {
		m.sep = separators{'|', '^', '~', '\\', '&'}
	}
	field, component := string(m.sep.field), string(m.sep.component)
	version := m.get("MSH-12")
	if version == "" {
		version = "2.4"
	}
	kind := "ACK"
	applied, _ := outcome.(*pb.MessageApplied)
	if applied.GetReferralStatus() != "" {
		kind = "RRI"
	}
	if trigger := m.get("MSH-9.2"); trigger != "" {
		kind += component + m.escape(trigger)
	}
	processing := m.raw("MSH", 11)
	if processing == "" {
		processing = "P"
	}
	line := func(fields ...string) string { return strings.Join(fields, field) + "\r" }
	coding := string([]byte{m.sep.component, m.sep.repetition, m.sep.escape, m.sep.subcomponent})
	out := line("MSH", coding, m.raw("MSH", 5), m.raw("MSH", 6), m.raw("MSH", 3), m.raw("MSH", 4),
		at.In(london).Format("20060102150405-0700"), "", kind, strings.ReplaceAll(id, "-", "")[:20], processing, m.escape(version))
	text := ""
	switch {
	case reason != nil && applied != nil:
		text = reason.Code + ": " + reason.Text
	case reason != nil && code == "AA":
		text = "kept for review: " + reason.Code
	case reason != nil:
		text = reason.Code + ": " + reason.Text
	}
	out += line("MSA", code, m.raw("MSH", 10), m.escape(short(text, 200)))
	if s := applied.GetReferralStatus(); s != "" {
		out += line("RF1", s, m.raw("RF1", 2), m.raw("RF1", 3), m.raw("RF1", 4), m.raw("RF1", 5), m.raw("RF1", 6))
	}
	if reason == nil || code == "AA" {
		return []byte(out)
	}
	var at1, at2 string
	if p, err := parsePath(reason.Field); err == nil {
		at1 = strings.Join([]string{p.segment, "1", strconv.Itoa(p.field)}, component)
		at2 = at1 + component + strconv.Itoa(p.repetition)
		if p.component > 0 {
			at2 += component + strconv.Itoa(p.component)
		}
	}
	number := hl70357(reason.Code)
	out += line("ERR", at1, at2, number+component+component+"HL70357", "E", m.escape(reason.Code), "", m.escape(reason.Field), m.escape(reason.Text))
	return []byte(out)
}

// answers is what the sender asked to hear. In original mode that is the
// acknowledgement. In enhanced mode, when MSH-15 or MSH-16 has a value, a commit
// acknowledgement comes first: CA says that the message is kept, whatever becomes
// of it; CR that its kind is not taken, CE that it has no control id to speak of.
func answers(m message, id string, outcome proto.Message, ack []byte) [][]byte {
	accept, apply := strings.ToUpper(m.get("MSH-15")), strings.ToUpper(m.get("MSH-16"))
	if accept == "" && apply == "" {
		return [][]byte{ack}
	}
	code, reason, _ := verdict(outcome)
	commit := "CA"
	switch {
	case code == "AR":
		commit = "CR"
	case m.get("MSH-10") == "":
		commit = "CE"
	}
	wanted := func(condition string, good bool) bool {
		return condition == "AL" || condition == "SU" && good || condition == "ER" && !good
	}
	var out [][]byte
	if wanted(accept, commit == "CA") {
		head, rest, _ := strings.Cut(string(acknowledge(m, uuid.NewSHA1(uuid.MustParse(id), []byte("commit")).String(), &pb.MessageApplied{At: at(outcome)})), "\r")
		rest = strings.Replace(rest, "MSA"+string(m.sep.field)+"AA", "MSA"+string(m.sep.field)+commit, 1)
		if commit != "CA" {
			rest = strings.TrimSuffix(rest, "\r") + m.escape(short(reason.GetCode()+": "+reason.GetText(), 200)) + "\r"
		}
		out = append(out, []byte(head+"\r"+rest))
	}
	if commit == "CA" && wanted(apply, code == "AA") {
		out = append(out, ack)
	}
	return out
}

func at(outcome proto.Message) *timestamppb.Timestamp {
	_, _, t := verdict(outcome)
	return timestamppb.New(t)
}

// sequence is MSH-13, 0 where it is none.
func (m message) sequence() int64 {
	n, err := strconv.ParseInt(m.get("MSH-13"), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// hl70357 is the error code of HL7 table 0357 for a reason of ours.
func hl70357(code string) string {
	switch code {
	case "edge.hl7.unreadable":
		return "100"
	case "edge.field.required":
		return "101"
	case "edge.field.invalid", "edge.charset", "person.nhs_number.invalid":
		return "102"
	case "edge.type.unknown":
		return "200"
	case "edge.version.unknown":
		return "203"
	case "edge.control_id.reused":
		return "205"
	}
	return "207"
}

// escape makes a value safe to stand in a message with these separators.
func (m message) escape(s string) string {
	e := string(m.sep.escape)
	return strings.NewReplacer(e, e+"E"+e, string(m.sep.field), e+"F"+e, string(m.sep.component), e+"S"+e,
		string(m.sep.subcomponent), e+"T"+e, string(m.sep.repetition), e+"R"+e, "\r", " ", "\n", " ").Replace(s)
}

// set puts a value at a path of the first segment of its name, and reports
// whether there is such a segment. Missing fields before it are made.
func (m *message) set(p path, value string) bool {
	for i, s := range m.segments {
		if s.name != p.segment {
			continue
		}
		fields := append([]string{}, s.fields...)
		for len(fields) <= p.field {
			fields = append(fields, "")
		}
		put := m.escape(value)
		if p.subcomponent > 0 {
			old := m.part(fields[p.field], m.sep.repetition, p.repetition)
			old = m.part(old, m.sep.component, max(p.component, 1))
			put = replaced(old, m.sep.subcomponent, p.subcomponent, put)
		}
		if p.component > 0 {
			put = replaced(m.part(fields[p.field], m.sep.repetition, p.repetition), m.sep.component, p.component, put)
		}
		fields[p.field] = replaced(fields[p.field], m.sep.repetition, p.repetition, put)
		m.segments[i].fields = fields
		return true
	}
	return false
}

func (m *message) part(s string, sep byte, n int) string { return nth(s, sep, n) }

func replaced(s string, sep byte, n int, value string) string {
	parts := strings.Split(s, string(sep))
	for len(parts) < n {
		parts = append(parts, "")
	}
	parts[n-1] = value
	return strings.Join(parts, string(sep))
}

// bytes returns the message as UTF-8 and says so in MSH-18.
func (m message) bytes() []byte {
	m.set(path{segment: "MSH", field: 18, repetition: 1}, "UNICODE UTF-8")
	var b strings.Builder
	for _, s := range m.segments {
		fields := s.fields
		if s.name == "MSH" {
			fields = append([]string{"MSH"}, fields[2:]...)
		}
		b.WriteString(strings.Join(fields, string(m.sep.field)) + "\r")
	}
	return []byte(b.String())
}
