package edge

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"waymark/services/kit/mllp"
)

// envelope is the outside of a batch: what FHS, BHS, BTS and FTS say.
type envelope struct {
	msg     message // parses BHS, or FHS, as if it were MSH: the fields have the same places
	file    bool    // it has an FHS
	said    string  // how many messages BTS-1 counts, in all batches; "" where it does not
	batches int
	files   string // how many batches FTS-1 counts
}

// batchOf reads the envelope of a frame; nil when it has none.
func batchOf(raw []byte) *envelope {
	var e envelope
	total, counted := 0, false
	if text, ok := mllp.UTF16(raw); ok {
		raw = []byte(text)
	}
	for line := range bytes.FieldsFuncSeq(raw, func(r rune) bool { return r == '\r' || r == '\n' }) {
		line = bytes.TrimLeft(line, " \t\v\x1c\xef\xbb\xbf")
		if len(line) < 4 {
			continue
		}
		name, sep := string(line[:3]), line[3:4]
		switch name {
		case "FHS", "BHS":
			if e.msg.segments == nil || name == "BHS" {
				if m, err := parseMessage(append([]byte("MSH"), line[3:]...)); err == nil {
					e.msg = m
				}
			}
			e.file = e.file || name == "FHS"
			if name == "BHS" {
				e.batches++
			}
		case "BTS", "FTS":
			fields := bytes.Split(line, sep)
			if len(fields) < 2 {
				continue
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(fields[1])))
			switch {
			case err != nil:
			case name == "FTS":
				e.files = strconv.Itoa(n)
			default:
				total, counted = total+n, true
			}
		}
	}
	if counted {
		e.said = strconv.Itoa(total)
	}
	if e.msg.segments == nil {
		return nil
	}
	return &e
}

// differs says in words how the counts of the trailers differ from what came; ""
// where they do not. The messages that did come are taken all the same: each is
// whole, and a repeat of the batch does nothing twice.
func (e *envelope) differs(came int) string {
	var all []string
	if e.said != "" && e.said != strconv.Itoa(came) {
		all = append(all, fmt.Sprintf("BTS-1 counts %s messages, %d came", e.said, came))
	}
	if e.files != "" && e.files != strconv.Itoa(e.batches) {
		all = append(all, fmt.Sprintf("FTS-1 counts %s batches, %d came", e.files, e.batches))
	}
	return short(strings.Join(all, "; "), 200)
}

// head begins the answer to a batch: the acknowledgements of its messages follow.
func (e *envelope) head(now time.Time, differs string) []byte {
	m := e.msg
	sep := string(m.sep.field)
	coding := string([]byte{m.sep.component, m.sep.repetition, m.sep.escape, m.sep.subcomponent})
	line := func(name string) string {
		// Field 10 is a comment, 12 the id of the batch that is answered.
		return strings.Join([]string{name, coding, m.raw("MSH", 5), m.raw("MSH", 6), m.raw("MSH", 3), m.raw("MSH", 4), now.In(london).Format("20060102150405-0700"), "", "", m.escape(differs), "", m.raw("MSH", 11)}, sep) + "\r"
	}
	out := line("BHS")
	if e.file {
		out = line("FHS") + out
	}
	return []byte(out)
}

// tail ends it.
func (e *envelope) tail(acks int, differs string) []byte {
	sep := string(e.msg.sep.field)
	out := "BTS" + sep + strconv.Itoa(acks) + sep + e.msg.escape(differs) + "\r"
	if e.file {
		out += "FTS" + sep + "1\r"
	}
	return []byte(out)
}
