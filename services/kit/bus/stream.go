package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
)

// StreamName is the one JetStream stream of the bus.
const StreamName = "EVENTS"

// Headers of a message. NATS compares header names case by case.
const (
	HeaderPosition    = "Log-Position" // of this event in the log
	HeaderPrevious    = "Log-Previous" // of the event relayed before it, 0 for the first
	HeaderContentType = "Content-Type"
	HeaderTraceparent = "traceparent"
)

// ContentType of every message: a CloudEvent in structured mode.
const ContentType = "application/cloudevents+json"

const (
	subjectPrefix = "waymark.v1."
	subjectAll    = subjectPrefix + ">"
	unknownTenant = "UNKNOWN"
)

// Subject is the subject of an event, or, with "" for what may be anything, the
// subject to subscribe to: Subject("RJ1", "referral", "") is every event of the
// referrals of trust RJ1.
func Subject(tenant, category, event string) string {
	if tenant == "" && category == "" && event == "" {
		return subjectAll
	}
	return subjectPrefix + token(tenant) + "." + token(category) + "." + token(event)
}

func token(s string) string {
	if s == "" {
		return "*"
	}
	return s
}

// streamConfig is the safe configuration. DenyPurge and DenyDelete keep a stray
// command from making a hole; AllowDirect is off because the tail must be read
// at the leader, which a direct get does not promise; no MaxAge, because a
// consumer may come late.
func streamConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               StreamName,
		Description:        "events of the Waymark log, a copy that can be rebuilt",
		Subjects:           []string{subjectAll},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowAtomicPublish: true,
	}
}

// UnsafeStream says that EVENTS exists with settings that could lose or hide
// events and that cannot be changed in place.
type UnsafeStream struct{ Setting string }

func (e *UnsafeStream) Error() string {
	return "stream " + StreamName + " has an unsafe setting: " + e.Setting + "; rebuild it"
}

// Ensure returns the stream EVENTS, which it creates (on a cluster with three
// replicas) or, where that is possible in place, corrects. Replicas and limits of size are left as the operator set
// them. It fails with *UnsafeStream when only a rebuild would help.
func Ensure(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	want := streamConfig()
	if js.Conn().ConnectedClusterName() != "" {
		want.Replicas = 3
	}
	s, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, StreamName) // someone else was first
		}
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", StreamName, err)
	}
	have := s.CachedInfo().Config
	switch {
	case have.Storage != jetstream.FileStorage:
		return nil, &UnsafeStream{"storage is memory"}
	case have.Retention != jetstream.LimitsPolicy:
		return nil, &UnsafeStream{"retention is not limits"}
	case !have.DenyDelete || !have.DenyPurge:
		return nil, &UnsafeStream{"messages can be deleted or purged"}
	case have.Mirror != nil || len(have.Sources) > 0 || have.SubjectTransform != nil:
		return nil, &UnsafeStream{"it is filled from elsewhere"}
	}
	fixed := have
	fixed.Subjects, fixed.AllowAtomicPublish, fixed.AllowDirect = want.Subjects, true, false
	fixed.MaxAge, fixed.MaxMsgs, fixed.MaxMsgsPerSubject, fixed.Discard = 0, -1, -1, want.Discard
	if have.AllowAtomicPublish && !have.AllowDirect && have.MaxAge == 0 && have.MaxMsgs <= 0 && have.MaxMsgsPerSubject <= 0 &&
		have.Discard == want.Discard && len(have.Subjects) == 1 && have.Subjects[0] == subjectAll {
		return s, nil
	}
	if s, err = js.UpdateStream(ctx, fixed); err != nil {
		return nil, fmt.Errorf("stream %s: correct its settings: %w", StreamName, err)
	}
	return s, nil
}

// metaMapping is where the stream's own metadata names its mapping.
const metaMapping = "waymark.mapping"

// WrongMapping says that the stream was filled by relays with another mapping.
// The fence counts messages, so it holds only between relays that agree on which
// events there are: one that does not must not write.
type WrongMapping struct{ Stream, Own string }

func (e *WrongMapping) Error() string {
	return fmt.Sprintf("stream %s was filled with mapping %q, this relay has %q: rebuild it", StreamName, e.Stream, e.Own)
}

// claim makes sure that the stream is of this mapping, and marks a new one.
func claim(ctx context.Context, js jetstream.JetStream, s jetstream.Stream, mapping string) error {
	info := s.CachedInfo()
	switch had := info.Config.Metadata[metaMapping]; {
	case had == mapping:
		return nil
	case had != "" && info.State.LastSeq > 0:
		return &WrongMapping{Stream: had, Own: mapping}
	}
	cfg := info.Config
	cfg.Metadata = maps.Clone(cfg.Metadata)
	if cfg.Metadata == nil {
		cfg.Metadata = map[string]string{}
	}
	cfg.Metadata[metaMapping] = mapping
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("stream %s: name its mapping: %w", StreamName, err)
	}
	return nil
}

// place is what a message says about where it stands.
type place struct {
	sequence uint64      // in the stream, 0 before the first
	position es.Position // in the log
	previous es.Position
	id       string    // of the event; set by readTail only
	created  time.Time // of the stream; set by readTail only
}

// placeOf reads the place from the headers of a message.
func placeOf(sequence uint64, h nats.Header) (place, error) {
	position, err := strconv.ParseUint(header(h, HeaderPosition), 10, 64)
	if err != nil || position == 0 {
		return place{}, fmt.Errorf("message %d has no valid %s", sequence, HeaderPosition)
	}
	previous, err := strconv.ParseUint(header(h, HeaderPrevious), 10, 64)
	if err != nil {
		return place{}, fmt.Errorf("message %d has no valid %s", sequence, HeaderPrevious)
	}
	return place{sequence: sequence, position: es.Position(position), previous: es.Position(previous)}, nil
}

func header(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// generation tells one life of the stream from the next.
func generation(info *jetstream.StreamInfo) time.Time { return info.Created.UTC() }

// readTail asks the leader for the last message: the checkpoint of every relay.
func readTail(ctx context.Context, s jetstream.Stream) (place, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return place{}, fmt.Errorf("read the tail: %w", err)
	}
	if info.State.LastSeq == 0 {
		return place{created: generation(info)}, nil
	}
	m, err := s.GetMsg(ctx, info.State.LastSeq)
	if err != nil {
		// Going back to the message before would publish the last one again.
		return place{}, fmt.Errorf("read the tail: message %d of %s: %w (if this lasts, scrub and rebuild)", info.State.LastSeq, StreamName, err)
	}
	p, err := placeOf(m.Sequence, m.Header)
	if err != nil {
		return place{}, fmt.Errorf("read the tail: %w (if this lasts, scrub and rebuild)", err)
	}
	p.id, p.created = envelopeID(m.Data), generation(info)
	return p, nil
}

// sequenceAfter returns the first sequence whose event is after position. It
// asks for about log2(n) messages, which are in log order. Holes do not hurt it.
func sequenceAfter(ctx context.Context, s jetstream.Stream, after es.Position) (uint64, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return 0, err
	}
	first, last := info.State.FirstSeq, info.State.LastSeq
	if last == 0 || after == 0 {
		return max(first, 1), nil
	}
	n := int(last-first) + 1
	i := sort.Search(n, func(i int) bool {
		if err != nil {
			return true
		}
		var m *jetstream.RawStreamMsg
		m, err = s.GetMsg(ctx, first+uint64(i), jetstream.WithGetMsgSubject(subjectAll)) // the next one there is
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			err = nil
			return true // nothing from here on
		}
		if err != nil {
			return true
		}
		var p place
		if p, err = placeOf(m.Sequence, m.Header); err != nil {
			return true
		}
		return p.position > after
	})
	if err != nil {
		return 0, fmt.Errorf("find the place after position %d: %w", after, err)
	}
	return first + uint64(i), nil
}

// subjectsOf lists what a reader of the categories subscribes to; nil is all.
func subjectsOf(categories []string) []string {
	var out []string
	for _, c := range categories {
		out = append(out, Subject("", c, ""))
	}
	return out
}

// splitStream cuts a stream name at its first hyphen.
func splitStream(stream string) (category, id string) {
	category, id, _ = strings.Cut(stream, "-")
	return category, id
}
