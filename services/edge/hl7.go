package edge

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"waymark/services/kit/mllp"
)

// message is one HL7 v2 message, split into segments and fields. It is lenient
// about what trusts send (any separators, any line ends, leading white space,
// missing fields, segments of their own) and keeps all of it.
type message struct {
	sep      separators
	segments []segment
	org      string // ODS code of the sending facility; UNKNOWN where it does not say
}

// separators are the five characters that MSH-1 and MSH-2 declare.
type separators struct{ field, component, repetition, escape, subcomponent byte }

// segment is one line. fields[0] is its name; in MSH, fields[1] is the field
// separator itself, so that fields[n] is field n in every segment.
type segment struct {
	name   string
	fields []string
}

var (
	errNotHL7   = errors.New("the text does not begin with an MSH segment")
	errEncoding = errors.New("the text is not in the character set that MSH-18 declares")
)

const maxSegments = 20_000

// parseMessage splits one message. The text is decoded by MSH-18 first.
func parseMessage(raw []byte) (message, error) {
	text, err := decodeText(raw)
	if err != nil {
		return message{}, err
	}
	m := message{sep: separators{'|', '^', '~', '\\', '&'}}
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\r' || r == '\n' }) {
		line = strings.TrimRight(strings.TrimLeft(line, " \t\v\ufeff"), "\x00\x1c")
		if line == "" {
			continue
		}
		if m.segments == nil {
			if !strings.HasPrefix(line, "MSH") || len(line) < 5 {
				return message{}, errNotHL7
			}
			if m.sep, err = declared(line); err != nil {
				return message{}, err
			}
		}
		if len(m.segments) == maxSegments {
			return message{}, errors.New("the message has too many segments")
		}
		m.segments = append(m.segments, m.split(line))
	}
	if m.segments == nil {
		return message{}, errNotHL7
	}
	return m, nil
}

// declared reads MSH-1 and MSH-2. What MSH-2 leaves out keeps its usual value.
func declared(msh string) (separators, error) {
	s := separators{msh[3], '^', '~', '\\', '&'}
	coding, _, _ := strings.Cut(msh[4:], msh[3:4])
	for i, to := range []*byte{&s.component, &s.repetition, &s.escape, &s.subcomponent} {
		if i < len(coding) {
			*to = coding[i]
		}
	}
	ascii := max(s.field, s.component, s.repetition, s.escape, s.subcomponent) < utf8.RuneSelf // any other is no character of its own in UTF-8
	if !ascii || s.field == ' ' || s.field == s.component || s.field == s.repetition || s.component == s.repetition {
		return s, errors.New("MSH-1 and MSH-2 declare no usable separators: they are ASCII, and differ")
	}
	return s, nil
}

func (m message) split(line string) segment {
	fields := strings.Split(line, string(m.sep.field))
	if fields[0] == "MSH" {
		fields = append([]string{"MSH", string(m.sep.field)}, fields[1:]...)
	}
	return segment{fields[0], fields}
}

// path names a value: PID-3[2].4.1 is the first subcomponent of component 4 of
// the second repetition of field 3 of the first PID. Numbers are from 1; a
// component of 0 is the whole repetition.
type path struct {
	segment                                    string
	field, repetition, component, subcomponent int
}

func (p path) String() string {
	s := p.segment + "-" + strconv.Itoa(p.field)
	if p.repetition > 1 {
		s += "[" + strconv.Itoa(p.repetition) + "]"
	}
	if p.component > 0 {
		s += "." + strconv.Itoa(p.component)
	}
	if p.subcomponent > 0 {
		s += "." + strconv.Itoa(p.subcomponent)
	}
	return s
}

// parsePath reads what String writes.
func parsePath(text string) (path, error) {
	bad := fmt.Errorf("a field path looks like PID-3[2].4")
	name, rest, ok := strings.Cut(text, "-")
	if !ok || len(name) != 3 {
		return path{}, bad
	}
	p := path{segment: name, repetition: 1}
	parts := strings.Split(rest, ".")
	if len(parts) > 3 {
		return path{}, bad
	}
	number := func(s string, to *int) bool {
		n, err := strconv.Atoi(s)
		*to = n
		return err == nil && n > 0 && n < 10_000
	}
	field, repetition, has := strings.Cut(parts[0], "[")
	if has {
		inner, closed := strings.CutSuffix(repetition, "]")
		if !closed || !number(inner, &p.repetition) {
			return path{}, bad
		}
	}
	if !number(field, &p.field) || len(parts) > 1 && !number(parts[1], &p.component) || len(parts) > 2 && !number(parts[2], &p.subcomponent) {
		return path{}, bad
	}
	return p, nil
}

// get returns the value at a path such as "PID-5.1", without escapes; "" where
// there is none. `""`, which says "delete", counts as none.
func (m message) get(text string) string {
	p, err := parsePath(text)
	if err != nil {
		panic("edge: " + text + ": " + err.Error()) // a constant of ours
	}
	s, ok := m.first(p.segment)
	if !ok {
		return ""
	}
	return m.at(s, p.field, p.repetition, p.component, p.subcomponent)
}

// first returns the first segment of a name.
func (m message) first(name string) (segment, bool) {
	for _, s := range m.segments {
		if s.name == name {
			return s, true
		}
	}
	return segment{}, false
}

// count returns how many repetitions a field has; 0 when it is empty.
func (m message) count(s segment, field int) int {
	if field >= len(s.fields) || s.fields[field] == "" {
		return 0
	}
	return strings.Count(s.fields[field], string(m.sep.repetition)) + 1
}

// at returns one value of a segment. Component 0 asks for component 1, as does
// subcomponent 0 for a value that has no subcomponents.
func (m message) at(s segment, field, repetition, component, subcomponent int) string {
	if field >= len(s.fields) {
		return ""
	}
	value := s.fields[field]
	if s.name == "MSH" && field <= 2 {
		return value
	}
	value = nth(value, m.sep.repetition, repetition)
	value = nth(value, m.sep.component, max(component, 1))
	value = nth(value, m.sep.subcomponent, max(subcomponent, 1))
	if value == `""` {
		return ""
	}
	return strings.TrimSpace(m.unescape(value))
}

func nth(s string, sep byte, n int) string {
	for ; n > 1; n-- {
		_, rest, ok := strings.Cut(s, string(sep))
		if !ok {
			return ""
		}
		s = rest
	}
	s, _, _ = strings.Cut(s, string(sep))
	return s
}

// unescape resolves the escapes of HL7 v2.x chapter 2.7. One that it does not
// know stays as it is: nothing is lost.
func (m message) unescape(s string) string {
	if strings.IndexByte(s, m.sep.escape) < 0 {
		return s
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, string(m.sep.escape))
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		code, after, closed := strings.Cut(rest, string(m.sep.escape))
		if !closed {
			b.WriteByte(m.sep.escape)
			b.WriteString(rest)
			return b.String()
		}
		b.WriteString(m.escaped(code))
		s = after
	}
}

func (m message) escaped(code string) string {
	switch code {
	case "F":
		return string(m.sep.field)
	case "S":
		return string(m.sep.component)
	case "T":
		return string(m.sep.subcomponent)
	case "R":
		return string(m.sep.repetition)
	case "E":
		return string(m.sep.escape)
	case "H", "N":
		return "" // highlighting
	case ".br", ".sp", ".ce":
		return "\n"
	}
	if hex, ok := strings.CutPrefix(code, "X"); ok && len(hex) > 0 && len(hex)%2 == 0 {
		out := make([]byte, 0, len(hex)/2)
		for i := 0; i < len(hex); i += 2 {
			n, err := strconv.ParseUint(hex[i:i+2], 16, 8)
			if err != nil {
				return string(m.sep.escape) + code + string(m.sep.escape)
			}
			out = append(out, byte(n))
		}
		if utf8.Valid(out) {
			return string(out)
		}
		return latin1(out)
	}
	return string(m.sep.escape) + code + string(m.sep.escape)
}

// decodeText turns the bytes into text by MSH-18. Where it says nothing, UTF-8 is
// taken where it is valid, else Windows-1252, which is what old systems send.
func decodeText(raw []byte) (string, error) {
	if text, ok := mllp.UTF16(raw); ok {
		return text, nil
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	switch charset(raw) {
	case "UNICODE UTF-8", "UTF-8", "UTF8":
		if !utf8.Valid(raw) {
			return "", errEncoding
		}
		return string(raw), nil
	case "8859/1", "8859/15", "ISO-8859-1", "ISO8859-1", "ISO IR100", "LATIN1":
		return latin1(raw), nil
	case "WINDOWS-1252", "CP1252":
		return latin1(raw), nil
	case "", "ASCII", "UNICODE":
		if utf8.Valid(raw) {
			return string(raw), nil
		}
		return latin1(raw), nil
	}
	if utf8.Valid(raw) {
		return string(raw), nil // only what is the same in all of them, or UTF-8 mislabelled
	}
	return "", errEncoding
}

// charset reads MSH-18 from bytes that are not decoded yet.
func charset(raw []byte) string {
	i := bytes.Index(raw, []byte("MSH"))
	if i < 0 || len(raw) < i+5 {
		return ""
	}
	line := raw[i:]
	if end := bytes.IndexAny(line, "\r\n"); end >= 0 {
		line = line[:end]
	}
	fields := bytes.Split(line, line[3:4])
	if len(fields) < 18 {
		return ""
	}
	value, _, _ := bytes.Cut(fields[17], []byte("~"))
	return strings.ToUpper(strings.TrimSpace(string(value)))
}

// windows1252 is what 0x80 to 0x9f mean there; the rest is Latin-1. Latin-1 has
// control characters in that place, which no message means.
var windows1252 = [32]rune{
	'€', 0xfffd, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', 0xfffd, 'Ž', 0xfffd,
	0xfffd, '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', 0xfffd, 'ž', 'Ÿ',
}

func latin1(raw []byte) string {
	var b strings.Builder
	b.Grow(len(raw))
	for _, c := range raw {
		if c >= 0x80 && c < 0xa0 {
			b.WriteRune(windows1252[c-0x80])
		} else {
			b.WriteRune(rune(c))
		}
	}
	return b.String()
}
