package edge

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

const category = "message"

// state is the fold of a stream message-<id>. It does not hold the raw bytes:
// many folds are kept in memory.
type state struct {
	Received *pb.MessageReceived // without raw
	Digest   [sha256.Size]byte
	Outcome  proto.Message // MessageApplied, MessageParked or MessageRefused; nil while there is none
	Redriven string
}

func decider() es.Decider[state] { return es.Decider[state]{Category: category, Evolve: evolve} }

func evolve(s state, event proto.Message) state {
	switch e := event.(type) {
	case *pb.MessageReceived:
		if raw, err := unpack(e); err == nil { // it was packed here
			s.Digest = digestOf(e, raw)
		}
		kept := proto.CloneOf(e)
		kept.Raw = nil
		s.Received = kept
	case *pb.MessageApplied, *pb.MessageParked, *pb.MessageRefused:
		s.Outcome = event
	case *pb.MessageRedriven:
		s.Redriven = e.ByMessageId
	default:
		panic(es.Unhandled(event))
	}
	return s
}

// keep records the message as it came, once.
func keep(received *pb.MessageReceived) func(state) ([]proto.Message, error) {
	return func(s state) ([]proto.Message, error) {
		if s.Received != nil {
			return nil, nil
		}
		return []proto.Message{received}, nil
	}
}

// conclude records the outcome. The first one stands.
func conclude(outcome proto.Message) func(state) ([]proto.Message, error) {
	return func(s state) ([]proto.Message, error) {
		if s.Outcome != nil {
			return nil, nil
		}
		return []proto.Message{outcome}, nil
	}
}

// redrive records that another message takes the place of this one.
func redrive(by string) func(state) ([]proto.Message, error) {
	return func(s state) ([]proto.Message, error) {
		switch s.Outcome.(type) {
		case nil:
			if s.Received == nil {
				return nil, errUnknown()
			}
		case *pb.MessageApplied:
			return nil, fault.Refused("edge.redrive.done", "the message was applied: there is nothing to do again")
		}
		if s.Redriven != "" && s.Redriven != by {
			return nil, fault.Refused("edge.redrive.done", "another message took the place of this one already: look at redriven_by")
		}
		if s.Redriven == by {
			return nil, nil
		}
		return []proto.Message{&pb.MessageRedriven{ByMessageId: by}}, nil
	}
}

func errUnknown() error {
	return fault.NotFound("edge.message.unknown", "no message has this id")
}

// space is the namespace of message ids.
var space = uuid.MustParse("0d0f6a34-57a5-5d7c-9a1e-3b1f6c2f8e52")

// messageName is what its sender calls a message.
func messageName(m message) string {
	return m.raw("MSH", 3) + "\x00" + m.raw("MSH", 4) + "\x00" + m.raw("MSH", 10)
}

// read is a message in the format in which it was received.
func read(received *pb.MessageReceived, raw []byte, facilities map[string]string) content {
	if received.ContentType == fhirJSON {
		return readDocument(raw, received.Facility, received.Application)
	}
	return readV2(raw, facilities)
}

// digestOf is the digest of a message that was received. Of most documents it is
// that of the bytes: they are not read again for it.
func digestOf(e *pb.MessageReceived, raw []byte) [sha256.Size]byte {
	if e.ContentType == fhirJSON && !strings.HasPrefix(e.Type, "Bundle/message") {
		return sha256.Sum256(raw)
	}
	return read(e, raw, nil).digest()
}

// packFrom is the size from which a message is kept packed. An append to the log
// holds 1 MiB, and records of whole lives in FHIR are larger, but pack well.
const packFrom = 64 << 10

func pack(raw []byte) ([]byte, bool, error) {
	if len(raw) < packFrom {
		return raw, false, nil
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		return nil, false, err
	}
	if err := w.Close(); err != nil {
		return nil, false, err
	}
	return b.Bytes(), true, nil
}

func unpack(e *pb.MessageReceived) ([]byte, error) {
	if !e.Gzip {
		return e.Raw, nil
	}
	return gunzip(e.Raw)
}

// maxDocument bounds what is unpacked.
const maxDocument = 16 << 20

func gunzip(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = errors.New("it is larger than 16 MiB unpacked")
	}
	return raw, err
}

// digest tells two messages apart but for how they were sent: line ends and
// MSH-7, the time of sending, which a repeat may renew.
func digest(raw []byte) [sha256.Size]byte {
	m, err := parseMessage(raw)
	if err != nil {
		return sha256.Sum256(raw)
	}
	h := sha256.New()
	for _, s := range m.segments {
		fields := s.fields
		if s.name == "MSH" && len(fields) > 7 {
			fields = slices.Clone(fields)
			fields[7] = ""
		}
		h.Write([]byte(strings.Join(fields, string(m.sep.field)) + "\r"))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// raw returns a whole field of the first segment of a name, as it was sent.
func (m message) raw(segment string, field int) string {
	s, ok := m.first(segment)
	if !ok || field >= len(s.fields) {
		return ""
	}
	return s.fields[field]
}

// kind is MSH-9 as TYPE/TRIGGER. Where the trigger is missing it is what EVN-1
// says, or what the structure can only mean; some write both into one component.
func (m message) kind() string {
	code, trigger := m.get("MSH-9.1"), m.get("MSH-9.2")
	if trigger == "" {
		for _, sep := range []string{"_", "-"} {
			if left, right, ok := strings.Cut(code, sep); ok && len(left) == 3 && len(right) == 3 {
				code, trigger = left, right
			}
		}
	}
	if trigger == "" {
		trigger = m.get("EVN-1")
	}
	if trigger == "" && code == "ORU" {
		if _, ok := m.first("OBR"); ok || m.get("MSH-9.3") == "ORU_R01" {
			trigger = "R01" // all that an unsolicited report with an order can be
		}
	}
	return code + "/" + trigger
}

// coded keeps what is safe to show of a header's value.
func coded(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._:/-", r) {
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), 64)]
}
