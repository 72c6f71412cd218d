package fhir

import (
	"strings"
	"time"
	"unicode"
)

// malformed says what is wrong with the form of a primitive value, "" when nothing is.
func malformed(kind, text string) string {
	switch kind {
	case "date":
		if !isDate(text) {
			return "must be a date: YYYY, YYYY-MM or YYYY-MM-DD"
		}
	case "dateTime":
		if !isDate(text) && !isInstant(text) {
			return "must be a date, or an instant with seconds and offset: 2026-02-03T14:05:00Z"
		}
	case "instant":
		if !isInstant(text) {
			return "must be an instant with seconds and offset: 2026-02-03T14:05:00Z"
		}
	case "time":
		if _, err := time.Parse("15:04:05", text); err != nil || len(text) < 8 {
			return "must be a time: hh:mm:ss"
		}
	case "code":
		if strings.TrimSpace(text) != text || strings.Contains(text, "  ") || strings.ContainsAny(text, "\t\r\n") {
			return "must be a code: no space at its ends, single spaces inside"
		}
	case "id":
		if len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool {
			return !(r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == '-' || r == '.')
		}) {
			return "must be an id: 1 to 64 letters, digits, - and ."
		}
	case "uri", "url", "canonical":
		if strings.ContainsFunc(text, unicode.IsSpace) {
			return "must be a " + kind + ": without white space"
		}
	case "oid":
		if !isOID(text) {
			return "must be an oid: urn:oid:1.2.3"
		}
	case "uuid":
		if !isUUID(text) {
			return "must be a uuid: urn:uuid: and 36 characters in lower case"
		}
	case "base64Binary":
		if !isBase64(text) {
			return "must be base64"
		}
	case "xhtml":
		if !strings.HasPrefix(strings.TrimSpace(text), "<div") {
			return "must be one XHTML div"
		}
	case "string", "markdown":
		if strings.TrimSpace(text) == "" {
			return "must not be only white space"
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\n' }) {
			return "must not have control characters"
		}
	}
	return ""
}

// isDate takes a year, a month or a day that the calendar has.
func isDate(text string) bool {
	layout := map[int]string{4: "2006", 7: "2006-01", 10: "2006-01-02"}[len(text)]
	if layout == "" {
		return false
	}
	t, err := time.Parse(layout, text)
	return err == nil && t.Year() > 0
}

func isInstant(text string) bool {
	// time.Parse takes a comma as the decimal mark, and "24:00" as no time: R4 takes neither.
	if strings.Contains(text, ",") {
		return false
	}
	if len(text) > 19 && text[17:19] == "60" { // a leap second
		text = text[:17] + "59" + text[19:]
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1 {
		return false
	}
	_, offset := t.Zone()
	return offset >= -14*3600 && offset <= 14*3600
}

func isOID(text string) bool {
	rest, ok := strings.CutPrefix(text, "urn:oid:")
	arcs := strings.Split(rest, ".")
	if !ok || len(arcs) < 2 || len(arcs[0]) != 1 || arcs[0] > "2" {
		return false
	}
	for _, arc := range arcs {
		if arc == "" || len(arc) > 1 && arc[0] == '0' || strings.Trim(arc, "0123456789") != "" {
			return false
		}
	}
	return true
}

func isUUID(text string) bool {
	rest, ok := strings.CutPrefix(text, "urn:uuid:")
	if !ok || len(rest) != 36 {
		return false
	}
	for i := range len(rest) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (rest[i] == '-') || !dash && strings.IndexByte("0123456789abcdef", rest[i]) < 0 {
			return false
		}
	}
	return true
}

// isBase64 allows white space, as R4 does.
func isBase64(text string) bool {
	n, padding := 0, 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case c == '=':
			padding++
		case padding > 0:
			return false
		case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/':
			n++
		default:
			return false
		}
	}
	return padding <= 2 && (n+padding)%4 == 0
}

// plain is true for what may stand in a FHIRPath or a code list as it is.
func plain(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || r <= ' ' || r == 0x7f
	})
}
