package es

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
)

// Metadata is what stands beside each event. As stored it is JSON with short
// names that leaves out what can be told from the rest, because every event
// keeps it for 30 years; ParseMetadata fills everything in again, so that
// purpose, tenant and correlation are never empty. The JSON names below are
// those that people are shown, and those of the first form (see parseLong). As
// stored, in this order:
//
//	c               command id and hash of the request: 32 letters, of 16 and 8 bytes
//	h               in its place the hash alone, where the command id is the correlation
//	$correlationId  correlation; EventStoreDB's projections read this name, so it is
//	                never left out, not even where it is the command id
//	$causationId    causation, where there is one
//	u r o b         actor: user, role, organisation, on behalf of; empty ones left out
//	p               purpose, unless TREAT
//	reason
//	t               tenant, unless it is the actor's organisation
//	at              when it happened, where the command says so: seconds since 1970,
//	                before 1970 as RFC 3339
//	traceparent     where the trace is sampled: of others nothing is kept to look up
//	i n             index and count, unless 0 of 1
//	x               the chain, always last, see Chain
//
// Bytes are base64url without padding, so an id is 22 letters. In a correlation
// or causation a UUID is so written where it is all or what follows the last
// colon; any text that could be taken for that stands behind "=".
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
	m, ok := parseMetadata(e.Metadata)
	if !ok || m.CommandID == uuid.Nil {
		return Metadata{}, fault.Lost("es.metadata_unreadable", fmt.Sprintf("stream %s, revision %d: its metadata is not ours", e.Stream, e.Revision))
	}
	return m, nil
}

// parseMetadata is strict: what it accepts is what command.shared writes or wrote,
// and members that a later release adds. Two forms were written before, both by
// November 2026: the first with every name and default in full, the second with
// $correlationId first, the command id as c where it is not the correlation, 16
// bytes of the hash as h, at as RFC 3339, and only whole UUIDs short.
func parseMetadata(metadata []byte) (m Metadata, ok bool) {
	if bytes.HasPrefix(metadata, []byte(firstHead)) {
		return m, json.Unmarshal(metadata, &m) == nil
	}
	c, h, ok := m.read(metadata)
	if !ok {
		return m, false
	}
	m.Purpose = cmp.Or(m.Purpose, defaultPurpose)
	m.Tenant = cmp.Or(m.Tenant, m.Actor.Organisation)
	if bytes.HasPrefix(metadata, []byte(secondHead)) {
		var sum [16]byte
		if m.CommandID, ok = parseID([]byte(cmp.Or(c, m.CorrelationID))); ok {
			sum, ok = parseID([]byte(h))
		}
		m.CommandHash = base64.StdEncoding.EncodeToString(sum[:])
		for _, s := range []*string{&m.CorrelationID, &m.CausationID} {
			if len(*s) == idLen || strings.HasPrefix(*s, "=") {
				*s = longID(*s)
			}
		}
		return m, ok
	}
	var sum [hashLen]byte
	m.CommandID, sum, ok = placedCommand(metadata)
	m.CommandHash = base64.StdEncoding.EncodeToString(sum[:])
	m.CorrelationID, m.CausationID = longID(m.CorrelationID), longID(m.CausationID)
	return m, ok
}

// read reads the members as they stand; c and h are only for the second form.
func (m *Metadata) read(metadata []byte) (c, h string, ok bool) {
	m.Count = 1
	ok = members(metadata, func(name string, value string) bool {
		var err error
		switch name {
		case "c":
			c = value
		case "h":
			h = value
		case "$correlationId":
			m.CorrelationID = value
		case "$causationId":
			m.CausationID = value
		case "u":
			m.Actor.User = value
		case "r":
			m.Actor.Role = value
		case "o":
			m.Actor.Organisation = value
		case "b":
			m.Actor.OnBehalfOf = value
		case "p":
			m.Purpose = value
		case "reason":
			m.Reason = value
		case "t":
			m.Tenant = value
		case "at":
			m.Occurred, err = parseTime(value)
		case "traceparent":
			m.Traceparent = value
		case "i":
			m.Index, err = strconv.Atoi(value)
		case "n":
			m.Count, err = strconv.Atoi(value)
		}
		return err == nil
	})
	return c, h, ok
}

// members calls yield for each member of a flat JSON object of strings and
// numbers; a string comes without its quotes.
func members(b []byte, yield func(name, value string) bool) bool {
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return false
	}
	for rest := b[1 : len(b)-1]; ; rest = rest[1:] {
		name, after, ok := cutText(rest)
		if !ok || len(after) == 0 || after[0] != ':' {
			return false
		}
		var value string
		if rest = after[1:]; len(rest) > 0 && rest[0] == '"' {
			if value, rest, ok = cutText(rest); !ok {
				return false
			}
		} else {
			n := bytes.IndexByte(rest, ',')
			if n < 0 {
				n = len(rest)
			}
			value, rest = string(rest[:n]), rest[n:]
		}
		if !yield(name, value) {
			return false
		}
		if len(rest) == 0 {
			return true
		}
		if rest[0] != ',' {
			return false
		}
	}
}

// cutText takes a JSON string off the front of b.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	raw, rest, plain := cutPlain(b)
	if plain {
		return string(raw), rest, true
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return text, b[i+1:], json.Unmarshal(b[:i+1], &text) == nil
		}
	}
	return "", nil, false
}

// cutPlain takes a JSON string without escapes off the front of b.
func cutPlain(b []byte) (raw, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[1:i], b[i+1:], true
		case c == '\\' || c < ' ' || c >= utf8.RuneSelf:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// Ids as they are stored.
const idLen = 22

func appendID(b []byte, id [16]byte) []byte { return base64.RawURLEncoding.AppendEncode(b, id[:]) }

func parseID(text []byte) (id [16]byte, ok bool) {
	if len(text) != idLen {
		return id, false
	}
	var raw [18]byte // base64 decodes in groups of three
	n, err := base64.RawURLEncoding.Strict().Decode(raw[:], text)
	copy(id[:], raw[:])
	return id, err == nil && n == len(id)
}

// shortID is a correlation or causation as it is stored; longID takes it back.
func shortID(s string) string {
	short := s
	if n := len(s) - uuidLen; n >= 0 && (n == 0 || s[n-1] == ':') {
		if id, err := uuid.Parse(s[n:]); err == nil && id.String() == s[n:] {
			short = string(appendID([]byte(s[:n]), id))
		}
	}
	if longID(short) != s {
		return "=" + s
	}
	return short
}

func longID(s string) string {
	if text, is := strings.CutPrefix(s, "="); is {
		return text
	}
	if n := len(s) - idLen; n >= 0 && (n == 0 || s[n-1] == ':') {
		if id, ok := parseID([]byte(s[n:])); ok {
			return s[:n] + uuid.UUID(id).String()
		}
	}
	return s
}

var uuidLen = len(uuid.Nil.String())

// Times as they are stored.
func appendTime(b []byte, t time.Time) []byte {
	if t.Unix() < 0 { // of a negative number the fraction would count backwards
		b = t.AppendFormat(append(b, '"'), time.RFC3339Nano)
		return append(b, '"')
	}
	b = strconv.AppendInt(b, t.Unix(), 10)
	if t.Nanosecond() != 0 {
		b = bytes.TrimRight(fmt.Appendf(b, ".%09d", t.Nanosecond()), "0")
	}
	return b
}

func parseTime(s string) (time.Time, error) {
	whole, part, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Parse(time.RFC3339Nano, s)
	}
	var nanos uint64
	if part != "" {
		nanos, err = strconv.ParseUint((part + "000000000")[:max(9, len(part))], 10, 30)
	}
	return time.Unix(seconds, int64(nanos)).UTC(), err
}

const defaultPurpose = "TREAT"

// hashLen is how much of the keyed hash of a request is kept. It finds out a
// caller who uses a command id twice by mistake; without the key nobody can look
// for another request with the same 64 bits.
const hashLen = 8

// command is a request as Do needs it.
type command struct {
	id     uuid.UUID
	hash   [hashLen]byte
	header *metav1.Command
}

func (s *Streams[S]) parseCommand(req Request) (command, error) {
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
	mac := s.macs.Get().(hash.Hash)
	defer s.macs.Put(mac)
	mac.Reset()
	mac.Write(id[:])
	mac.Write(body)
	copy(c.hash[:], mac.Sum(body[:0]))
	return c, nil
}

// What a metadata begins with, so that a fold finds the command without parsing
// all of it.
const (
	bothHead        = `{"c":"`
	hashHead        = `{"h":"`
	correlationHead = `","$correlationId":"`

	firstHead  = `{"commandId":"`
	secondHead = `{"$correlationId":`
)

var (
	bothLen     = base64.RawURLEncoding.EncodedLen(len(uuid.Nil) + hashLen)
	hashTextLen = base64.RawURLEncoding.EncodedLen(hashLen)
)

// parseHead returns the command that wrote a metadata.
func parseHead(metadata []byte) (id uuid.UUID, hash [hashLen]byte, ok bool) {
	if id, hash, ok = placedCommand(metadata); ok {
		return id, hash, true
	}
	m, ok := parseMetadata(metadata)
	if !ok {
		return id, hash, false
	}
	sum, err := base64.StdEncoding.DecodeString(m.CommandHash)
	return m.CommandID, hash, err == nil && copy(hash[:], sum) == hashLen
}

// placedCommand reads the command from its place in the form of today.
func placedCommand(metadata []byte) (id uuid.UUID, hash [hashLen]byte, ok bool) {
	var raw [len(id) + hashLen]byte
	if rest, both := bytes.CutPrefix(metadata, []byte(bothHead)); both && len(rest) > bothLen && rest[bothLen] == '"' {
		n, err := base64.RawURLEncoding.Strict().Decode(raw[:], rest[:bothLen])
		copy(hash[:], raw[copy(id[:], raw[:]):])
		return id, hash, err == nil && n == len(raw)
	}
	rest, is := bytes.CutPrefix(metadata, []byte(hashHead))
	if !is || len(rest) <= hashTextLen+len(correlationHead)+idLen || rest[hashTextLen+len(correlationHead)+idLen] != '"' {
		return id, hash, false
	}
	n, err := base64.RawURLEncoding.Strict().Decode(raw[:], rest[:hashTextLen])
	copy(hash[:], raw[:])
	rest, is = bytes.CutPrefix(rest[hashTextLen:], []byte(correlationHead))
	if err != nil || n != hashLen || !is {
		return id, hash, false
	}
	own, ok := parseID(rest[:idLen])
	return own, hash, ok
}

// shared returns the part of a metadata that all events of a command share,
// ready for the members i, n and x.
//
// A command that names no tenant keeps the stream's: a receiver of another
// organisation who acts on a trust's record does not carry it away. The first
// command of a stream settles it, by its tenant or its actor's organisation.
func (c command) shared(ctx context.Context, streamTenant string) []byte {
	b := make([]byte, 0, 384)
	h, a := c.header, c.header.GetActor()
	if correlation := h.GetCorrelationId(); correlation == "" || correlation == c.id.String() {
		b = base64.RawURLEncoding.AppendEncode(append(b, hashHead...), c.hash[:])
		b = append(appendID(append(b, correlationHead...), c.id), '"')
	} else {
		b = base64.RawURLEncoding.AppendEncode(append(b, bothHead...), append(c.id[:], c.hash[:]...))
		b = appendMember(append(b, '"'), `,"$correlationId":`, shortID(correlation))
	}
	b = appendMember(b, `,"$causationId":`, shortID(h.GetCausationId()))
	b = appendMember(b, `,"u":`, a.GetUser())
	b = appendMember(b, `,"r":`, a.GetRoleCode())
	b = appendMember(b, `,"o":`, a.GetOrganisation())
	b = appendMember(b, `,"b":`, a.GetOnBehalfOf())
	if h.GetPurpose() != defaultPurpose {
		b = appendMember(b, `,"p":`, h.GetPurpose())
	}
	b = appendMember(b, `,"reason":`, h.GetReason())
	if tenant := c.tenant(streamTenant); tenant != a.GetOrganisation() {
		b = appendMember(b, `,"t":`, tenant)
	}
	if t := h.GetOccurredAt(); t != nil {
		b = appendTime(append(b, `,"at":`...), t.AsTime())
	}
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
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
	b := make([]byte, 0, len(shared)+96)
	b = append(b, shared...)
	if count == 1 {
		return b
	}
	b = append(b, `,"i":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"n":`...)
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
