// Package nhs holds the identifiers of the NHS: its number for a patient, its
// codes for organisations, and its calendar. A value of these types is valid:
// only the Parse functions make one.
//
// An NHS number is the one thing in Waymark that names a person to everybody.
// It must never reach a log, an error, a metric or a panic's text, so a Number
// prints a fixed mask under every verb, also deep inside another value, and
// gives its digits to nothing but Reveal, which is easy to search for.
package nhs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// ErrNumber says that a text is no NHS number. It never says which text.
var ErrNumber = errors.New("must be an NHS number: ten digits, the last one the modulus 11 check digit, not one digit repeated")

// errMarshal keeps numbers out of JSON and the like, where a mask would be
// stored as if it were the value.
var errMarshal = errors.New("an NHS number is not marshalled: call Reveal where it may be seen")

// Number is a valid NHS number. It is comparable; the zero value is no number.
type Number struct {
	// The handle is a pointer, so that reflection, which fmt uses for unexported
	// fields of a struct around this one, finds an address and no digits.
	digits unique.Handle[string]
}

// ParseNumber takes ten digits, with or without spaces (943 476 5919). It
// refuses a wrong check digit (NHS Data Dictionary, NHS NUMBER, modulus 11) and
// ten equal digits, which pass the sum but are fillers in test messages.
func ParseNumber(text string) (Number, error) {
	var digits [10]byte
	n := 0
	for i := range len(text) {
		c := text[i]
		switch {
		case c == ' ':
		case c < '0' || c > '9' || n == len(digits):
			return Number{}, ErrNumber
		default:
			digits[n] = c
			n++
		}
	}
	if n != len(digits) {
		return Number{}, ErrNumber
	}
	sum, same := 0, true
	for i, c := range digits {
		if i < 9 {
			sum += int(c-'0') * (10 - i)
		}
		same = same && c == digits[0]
	}
	// 11 minus the remainder; 11 stands for 0, and 10 never is a check digit.
	if check := (11 - sum%11) % 11; same || check != int(digits[9]-'0') {
		return Number{}, ErrNumber
	}
	return Number{unique.Make(string(digits[:]))}, nil
}

// IsZero reports whether n is no number.
func (n Number) IsZero() bool { return n == Number{} }

// Reveal returns the ten digits, "" for no number. Every caller must be a place
// that may see who the patient is.
func (n Number) Reveal() string {
	if n.IsZero() {
		return ""
	}
	return n.digits.Value()
}

// String returns a mask without any digit.
func (n Number) String() string {
	if n.IsZero() {
		return "[no NHS number]"
	}
	return "[NHS number]"
}

// GoString returns the mask.
func (n Number) GoString() string { return n.String() }

// Format writes the mask for every verb and flag.
func (n Number) Format(s fmt.State, _ rune) { io.WriteString(s, n.String()) }

// LogValue is the mask.
func (n Number) LogValue() slog.Value { return slog.StringValue(n.String()) }

// MarshalText always fails: a mask in a message would pass for the value.
func (n Number) MarshalText() ([]byte, error) { return nil, errMarshal }
