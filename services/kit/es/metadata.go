package es

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
)

// Metadata is what stands beside each event, as JSON that any EventStoreDB tool
// shows. Every default is written out, so that a reader needs no rule of ours:
// purpose, tenant and correlation are never empty.
type Metadata struct {
	CommandID     uuid.UUID `json:"commandId"`
	CommandHash   string    `json:"commandHash"` // keyed, see Options.Key; only equality means anything
	CorrelationID string    `json:"$correlationId"`
	CausationID   string    `json:"$causationId,omitempty"`
	Actor         Actor     `json:"actor"`
	Purpose       string    `json:"purpose"`
	Reason        string    `json:"reason,omitempty"`
	Tenant        string    `json:"tenant"` // ODS code
	// Occurred is when it happened, where the command says so; else it is the
	// time of recording, which is the store's.
	Occurred    time.Time `json:"occurredAt,omitzero"`
	Traceparent string    `json:"traceparent,omitempty"`
	// Index and Count place the event within its command: 0 of 1, 1 of 3.
	Index int `json:"index"`
	Count int `json:"count"`
}

// Actor is who sent the command. No name of a person.
type Actor struct {
	User         string `json:"user"`
	Role         string `json:"role,omitempty"`
	Organisation string `json:"organisation"`
	OnBehalfOf   string `json:"onBehalfOf,omitempty"`
}

// ParseMetadata reads the metadata of an event that Streams wrote.
func ParseMetadata(e Recorded) (Metadata, error) {
	var m Metadata
	if err := json.Unmarshal(e.Metadata, &m); err != nil || m.CommandID == uuid.Nil {
		return Metadata{}, fault.Lost("es.metadata_unreadable", fmt.Sprintf("stream %s, revision %d: its metadata is not ours", e.Stream, e.Revision))
	}
	return m, nil
}

// hashLen is how much of the keyed hash of a request is kept.
const hashLen = 16

// command is a request as Do needs it.
type command struct {
	id     uuid.UUID
	hash   [hashLen]byte
	header *metav1.Command
}

func parseCommand(key []byte, req Request) (command, error) {
	header := req.GetCommand()
	if header == nil {
		return command{}, fault.Invalid("command.missing", "command", "is required")
	}
	// uuid.Parse also takes forms that are not the canonical one.
	id, err := uuid.Parse(header.GetCommandId())
	if err != nil || len(header.GetCommandId()) != 36 || id == uuid.Nil {
		return command{}, fault.Invalid("command.id_invalid", "command.command_id", "must be a UUID chosen by the caller")
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return command{}, fault.Invalid("command.unreadable", "command", "the request cannot be encoded: text must be UTF-8")
	}
	c := command{id: id, header: header}
	mac := hmac.New(sha256.New, key)
	mac.Write(id[:])
	mac.Write(body)
	var sum [sha256.Size]byte
	mac.Sum(sum[:0])
	copy(c.hash[:], sum[:])
	return c, nil
}

// The head of each metadata has one length, so that a fold finds the command
// without parsing JSON.
const (
	idHead   = `{"commandId":"`
	hashHead = `","commandHash":"`
	hashTail = `","$correlationId":"`
)

var (
	uuidLen     = len(uuid.Nil.String())
	hashTextLen = base64.StdEncoding.EncodedLen(hashLen)
	headLen     = len(idHead) + uuidLen + len(hashHead) + hashTextLen + len(hashTail)
)

// parseHead returns the command that wrote a metadata.
func parseHead(metadata []byte) (id uuid.UUID, hash [hashLen]byte, ok bool) {
	if len(metadata) < headLen || string(metadata[:len(idHead)]) != idHead {
		return id, hash, false
	}
	rest := metadata[len(idHead):]
	id, err := uuid.ParseBytes(rest[:uuidLen])
	rest = rest[uuidLen:]
	if err != nil || string(rest[:len(hashHead)]) != hashHead {
		return id, hash, false
	}
	rest = rest[len(hashHead):]
	var raw [hashLen + 2]byte // base64 decodes in groups of three
	n, err := base64.StdEncoding.Decode(raw[:], rest[:hashTextLen])
	copy(hash[:], raw[:])
	return id, hash, err == nil && n == hashLen && string(rest[hashTextLen:hashTextLen+len(hashTail)]) == hashTail
}

// shared returns the part of a metadata that all events of a command share,
// ready for the members index, count and chain.
//
// A command that names no tenant keeps the stream's: a receiver of another
// organisation who acts on a trust's record does not carry it away. The first
// command of a stream settles it, by its tenant or its actor's organisation.
func (c command) shared(ctx context.Context, streamTenant string) []byte {
	b := make([]byte, 0, 768)
	b = append(b, idHead...)
	b = append(b, c.id.String()...)
	b = append(b, hashHead...)
	b = base64.StdEncoding.AppendEncode(b, c.hash[:])
	b = append(b, hashTail[:len(hashTail)-1]...)
	h := c.header
	correlation := h.GetCorrelationId()
	if correlation == "" {
		correlation = c.id.String()
	}
	b = appendString(b, correlation)
	b = appendMember(b, `,"$causationId":`, h.GetCausationId())
	a := h.GetActor()
	b = append(b, `,"actor":{"user":`...)
	b = appendString(b, a.GetUser())
	b = appendMember(b, `,"role":`, a.GetRoleCode())
	b = append(b, `,"organisation":`...)
	b = appendString(b, a.GetOrganisation())
	b = appendMember(b, `,"onBehalfOf":`, a.GetOnBehalfOf())
	purpose := h.GetPurpose()
	if purpose == "" {
		purpose = "TREAT"
	}
	b = append(b, `},"purpose":`...)
	b = appendString(b, purpose)
	b = appendMember(b, `,"reason":`, h.GetReason())
	tenant := c.tenant(streamTenant)
	b = append(b, `,"tenant":`...)
	b = appendString(b, tenant)
	if t := h.GetOccurredAt(); t != nil {
		b = append(b, `,"occurredAt":"`...)
		b = t.AsTime().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		b = fmt.Appendf(b, `,"traceparent":"00-%s-%s-%s"`, span.TraceID(), span.SpanID(), span.TraceFlags())
	}
	return b
}

// tenant is whose record the events of a command belong to.
func (c command) tenant(stream string) string {
	return cmp.Or(c.header.GetTenant(), stream, c.header.GetActor().GetOrganisation())
}

// place adds index and count to a copy of a shared part.
func place(shared []byte, index, count int) []byte {
	b := make([]byte, 0, len(shared)+40+chainLen)
	b = append(b, shared...)
	b = append(b, `,"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"count":`...)
	return strconv.AppendInt(b, int64(count), 10)
}

// appendMember leaves out an empty member.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
