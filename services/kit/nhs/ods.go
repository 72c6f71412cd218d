package nhs

import "errors"

// ErrODS says that a text has not the form of an ODS code.
var ErrODS = errors.New("must be an ODS code: 3 to 10 capital letters and digits, for example RJ1")

// ODS is the code of an organisation or site in the form that the Organisation
// Data Service gives out; whether such an organisation exists is the directory's
// business. Codes are public and print as they are. The zero value is no code.
type ODS struct{ code string }

// ParseODS takes 3 to 10 capital letters and digits, the rule of the contracts.
func ParseODS(text string) (ODS, error) {
	if len(text) < 3 || len(text) > 10 {
		return ODS{}, ErrODS
	}
	for i := range len(text) {
		if c := text[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return ODS{}, ErrODS
		}
	}
	return ODS{text}, nil
}

// String returns the code, "" for none.
func (o ODS) String() string { return o.code }

// IsZero reports whether o is no code.
func (o ODS) IsZero() bool { return o.code == "" }

// MarshalText returns the code.
func (o ODS) MarshalText() ([]byte, error) { return []byte(o.code), nil }
