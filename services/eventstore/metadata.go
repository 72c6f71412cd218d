package eventstore

import (
	"encoding/json"
	"math"
	"strings"
	"time"
)

// softDeleted is the $tb of a stream that Delete has hidden.
const softDeleted = math.MaxInt64

// streamMeta is what the last event of a stream's metastream says. Bad JSON is
// empty metadata, and a key of the wrong type is left out.
type streamMeta struct {
	maxCount int64         // $maxCount; 0 is none
	maxAge   time.Duration // $maxAge; 0 is none
	before   int64         // $tb: the first revision that is visible; softDeleted hides all
	acl      *acl          // $acl; nil is none
}

// acl lists the roles that may do each thing; a nil list means the default.
type acl struct{ read, write, delete, metaRead, metaWrite []string }

func parseMetadata(data []byte) streamMeta {
	var raw map[string]json.RawMessage
	if json.Unmarshal(data, &raw) != nil {
		return streamMeta{}
	}
	var m streamMeta
	number := func(key string) int64 {
		var n int64
		if v, ok := raw[key]; !ok || json.Unmarshal(v, &n) != nil || n < 0 {
			return 0
		}
		return n
	}
	m.maxCount = number("$maxCount")
	if age := number("$maxAge"); age <= math.MaxInt64/int64(time.Second) {
		m.maxAge = time.Duration(age) * time.Second
	}
	m.before = number("$tb")
	var list map[string]json.RawMessage
	if v, ok := raw["$acl"]; ok && json.Unmarshal(v, &list) == nil && list != nil {
		m.acl = &acl{
			read: roles(list["$r"]), write: roles(list["$w"]), delete: roles(list["$d"]),
			metaRead: roles(list["$mr"]), metaWrite: roles(list["$mw"]),
		}
	}
	return m
}

// roles reads a role or a list of them.
func roles(raw json.RawMessage) []string {
	var one string
	var many []string
	switch {
	case raw == nil:
		return nil
	case json.Unmarshal(raw, &one) == nil:
		return []string{one}
	case json.Unmarshal(raw, &many) == nil:
		return many
	}
	return nil
}

// undeleted returns the metadata document with $tb set to before and all else
// kept; ok is false when data is no JSON object.
func undeleted(data []byte, before int64) (_ []byte, ok bool) {
	var raw map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if d.Decode(&raw) != nil || raw == nil {
		return nil, false
	}
	raw["$tb"] = before
	out, err := json.Marshal(raw)
	return out, err == nil
}

// head is what decides about a stream: its end and its metadata.
type head struct {
	last       int64  // revision of the last event; -1 when none
	position   uint64 // of the last event
	tombstoned bool   // for ever deleted; true for the metastream too
	hasMeta    bool   // its metastream has an event
	metaLast   []byte // data of that event
	meta       streamMeta
}

func (h *head) deleted() bool { return h.meta.before == softDeleted }

// first is the revision of the first event that a reader may see, not counting
// $maxAge.
func (h *head) first() int64 {
	first := h.meta.before
	if n := h.meta.maxCount; n > 0 && h.last-n+1 > first {
		first = h.last - n + 1
	}
	return first
}

func (h *head) setMeta(data []byte) {
	h.hasMeta, h.metaLast, h.meta = true, data, parseMetadata(data)
}

// metastreams have an implicit $maxCount of 1 and no metadata of their own.
func metastreamMeta() streamMeta { return streamMeta{maxCount: 1} }

func isMetastream(stream string) bool     { return strings.HasPrefix(stream, "$$") }
func metastreamOf(stream string) string   { return "$$" + stream }
func originalOf(metastream string) string { return metastream[2:] }
func isSystem(stream string) bool         { return strings.HasPrefix(stream, "$") }
func ticks(t time.Time) int64             { return t.UnixNano() / 100 }
func ticksTime(created int64) time.Time   { return time.Unix(0, created*100) }
