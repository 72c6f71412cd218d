package edge

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	pb "waymark/proto/waymark/edge/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
)

// subject identifies the person of a message that registers nobody: a trust's
// feeds tell of all its patients, and only those on a pathway are our business.
func (w *work) subject(ctx context.Context) (patient, error) {
	p, err := w.patient()
	if err != nil {
		return p, err
	}
	w.said = p.source.SentAt
	if w.person, err = w.identify(ctx, p); err == nil && w.person == "" {
		err = park(reasonNoPerson, "PID-3", "nobody with these identifiers is known: the message is applied by itself once a pathway starts for them")
	}
	return p, err
}

// thing adds to what the message changes: the booking, visit, result, document or
// referral that the sender's organisation calls id. It reports whether a message
// about it that was sent later has been applied; then this one changes nothing.
func (w *work) thing(kind, id string) (outdated bool) {
	key := w.service.keyed("edge thing\x00" + kind + "\x00" + w.m.org + "\x00" + id)
	w.about = append(w.about, key)
	if !w.service.index.older(key, w.said.AsTime()) {
		return false
	}
	w.note = &pb.Reason{Code: "edge.outdated", Text: "a message about the same that was sent later was applied: this one is kept and changes nothing"}
	return true
}

// noted says what of the message a person should know; it is applied all the same.
func (w *work) noted(code, field, text string) {
	w.note = &pb.Reason{Code: code, Field: field, Text: text}
}

// pathways lists all pathways of the person, closed ones too, oldest first.
func (w *work) pathways() (ids []string) {
	for _, p := range w.service.index.pathwaysOf(w.person, false) {
		ids = append(ids, p.id)
	}
	return ids
}

// pathway picks the open pathway of the person that something new belongs to:
// the one that the message names, or the only one.
func (w *work) pathway(ctx context.Context) (string, error) {
	var open []string
	for _, id := range w.pathways() {
		got, err := w.service.pathways.GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: id})
		if err != nil {
			return "", answered(err, "PID-3")
		}
		if got.Pathway.GetClosed() == nil {
			open = append(open, id)
		}
	}
	for _, field := range []string{"PID-18.1", "PV1-50.1", "SCH-26.1"} {
		if named := strings.ToLower(w.m.get(field)); slices.Contains(open, named) {
			return named, nil
		}
	}
	if id, err := w.pathwayID(); err == nil && slices.Contains(open, id) {
		return id, nil
	}
	switch len(open) {
	case 0:
		return "", park(reasonNoPathway, "PID-3", "the person has no open pathway: the message is applied by itself once one starts")
	case 1:
		return open[0], nil
	}
	return "", park("edge.pathway.several", "PID-18", "the person has several open pathways: redrive it with the id of the right one in PID-18.1")
}

// derived is the id of a thing of another system, the same in every message.
func (w *work) derived(kind, id string) string {
	return uuid.NewSHA1(space, []byte(kind+"\x00"+w.m.org+"\x00"+id)).String()
}

// external is what the sender's organisation calls a thing; where that is needed.
func (w *work) external(field string, longest int) (string, error) {
	id := w.m.get(field)
	switch {
	case id == "":
		return "", refuse("edge.field.required", field, "the identifier is missing: without it later messages about the same cannot be told apart")
	case len(id) > longest:
		return "", refuse("edge.field.invalid", field, "the identifier is too long")
	}
	return id, nil
}

// firstOf returns the first of some fields that has a value.
func (m message) firstOf(fields ...string) (value, field string) {
	for _, field := range fields {
		if value := m.get(field); value != "" {
			return value, field
		}
	}
	return "", fields[0]
}

// second is the message from its second patient on, for those about two; empty
// when there is only one.
func (m message) second() message {
	seen := false
	for i, s := range m.segments {
		if s.name != "PID" {
			continue
		}
		if seen {
			m.segments = append([]segment{m.segments[0]}, m.segments[i:]...)
			return m
		}
		seen = true
	}
	return message{}
}

// short cuts text to at most n bytes, between characters.
func short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && text[n]&0xc0 == 0x80 {
		n--
	}
	return text[:n]
}
