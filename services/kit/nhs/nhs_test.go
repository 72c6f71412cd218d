package nhs

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// vectors returns the rows of a file below its heading; an empty file fails.
func vectors(t *testing.T, file string) [][]string {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%s: %d rows, %v", file, len(rows), err)
	}
	return rows[1:]
}

func TestNumberVectors(t *testing.T) {
	for _, row := range vectors(t, "nhs_numbers.csv") {
		n, err := ParseNumber(row[0])
		if accepted := err == nil; accepted != (row[2] == "true") {
			t.Errorf("%s (%s): accepted %v", row[0], row[3], accepted)
		}
		if err == nil && n.Reveal() != row[0] {
			t.Errorf("%s: reveals %s", row[0], n.Reveal())
		}
	}
}

func TestNumberForms(t *testing.T) {
	want, err := ParseNumber("9990000018")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"999 000 0018", " 9990000018 ", "99 900 000 18"} {
		if n, err := ParseNumber(text); err != nil || n != want {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", " ", "999000001", "99900000180", "999-000-0018", "999000001８", "9990000019", "0000000000", "999000001x"} {
		if _, err := ParseNumber(text); err != ErrNumber {
			t.Errorf("%q: %v, want ErrNumber", text, err)
		}
	}
}

// Each way that a value is commonly printed, nested and not, must show no digit.
func TestNumberNeverPrints(t *testing.T) {
	const digits = "9990000018"
	n, err := ParseNumber(digits)
	if err != nil {
		t.Fatal(err)
	}
	type hidden struct{ n Number }
	type open struct{ N Number }
	var out bytes.Buffer
	for _, v := range []any{n, &n, hidden{n}, &hidden{n}, open{n}, []Number{n}, map[Number]Number{n: n}, []any{hidden{n}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%10.3s", "%w"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			l := slog.New(h)
			l.Info("x", "v", v)
			l.With("v", v).Error("x")
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	// Also not in hex, as %x prints a string.
	for _, leak := range []string{digits, "0000018", fmt.Sprintf("%x", digits), fmt.Sprintf("%X", digits)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed %q", leak)
		}
	}
	if !strings.Contains(out.String(), "[NHS number]") {
		t.Error("no mask in the output: nothing was tested")
	}
	if (Number{}).String() != "[no NHS number]" || (Number{}).Reveal() != "" || !(Number{}).IsZero() {
		t.Error("the zero value is not no number")
	}
}

func TestODS(t *testing.T) {
	for _, code := range []string{"RJ1", "RJ121", "X26", "8HX32", "A1B2C3D4E5"} {
		if o, err := ParseODS(code); err != nil || o.String() != code {
			t.Errorf("%s: %v", code, err)
		}
	}
	for _, code := range []string{"", "RJ", "rj1", "RJ 1", "RJ-1", "A1B2C3D4E56", "RÉ1"} {
		if o, err := ParseODS(code); err != ErrODS || !o.IsZero() {
			t.Errorf("%q: %v, want ErrODS", code, err)
		}
	}
}

func TestInstantVectors(t *testing.T) {
	for _, row := range vectors(t, "instants.csv") {
		at, err := time.Parse(time.RFC3339, row[1])
		if err != nil {
			t.Fatal(err)
		}
		if d := DateOf(at); d.String() != row[2] {
			t.Errorf("%s: %s is %s, want %s (%s)", row[0], row[1], d, row[2], row[3])
		}
	}
}

// The calendar agrees with package time on every day of four centuries, and the
// order, the differences and the text of dates agree with each other.
func TestDateCalendar(t *testing.T) {
	start, err := NewDate(1800, time.January, 1)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(1800, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 400 * 365 {
		d := start.AddDays(i)
		text := at.Format(time.DateOnly)
		back, err := ParseDate(text)
		if err != nil || back != d || d.String() != text || start.DaysUntil(d) != i || d.DaysUntil(start) != -i ||
			d.Weekday() != at.Weekday() || d.AddDays(-i) != start || d.IsZero() {
			t.Fatalf("day %d: %s, want %s", i, d, text)
		}
		if next := d.AddDays(1); !d.Before(next) || d.After(next) || !next.After(d) || d.Compare(d) != 0 {
			t.Fatalf("order of %s and %s", d, next)
		}
		// Before 1 December 1847 London kept its own mean time.
		if s := d.Start(); at.Year() > 1847 && (DateOf(s) != d || DateOf(s.Add(-1)) != d.AddDays(-1)) {
			t.Fatalf("%s starts at %s", d, s)
		}
		at = at.AddDate(0, 0, 1)
	}
	var none Date
	if none.String() != "" || !none.IsZero() || none.AddDays(1) != none || !none.Before(start) || start.Compare(none) != 1 || none.Compare(none) != 0 {
		t.Error("the zero value is not no date")
	}
}

func TestDateRefuses(t *testing.T) {
	for _, text := range []string{"", "2026-02-29", "2026-13-01", "2026-00-10", "2026-6-1", "26-06-01", "20260601", "2026-06-01T00:00:00Z", "0000-01-01", "2026-04-31", " 2026-04-01"} {
		if d, err := ParseDate(text); err != ErrDate || !d.IsZero() {
			t.Errorf("%q: %s, %v", text, d, err)
		}
	}
	if _, err := NewDate(2025, time.February, 29); err != ErrDate {
		t.Errorf("29 February 2025: %v", err)
	}
}

// FuzzNumber holds ParseNumber to a second reading of the rule: strip the
// spaces, weigh the digits 10 down to 1, and the sum divides by 11.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"9990000018", "999 000 0018", "3333333333", "", "99900000180", "9990000019"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bare := strings.ReplaceAll(text, " ", "")
		valid := len(bare) == 10 && strings.Trim(bare, "0123456789") == "" && strings.Trim(bare, bare[:1]) != ""
		sum := 0
		for i, c := range bare {
			sum += int(c-'0') * (10 - i)
		}
		n, err := ParseNumber(text)
		if want := valid && sum%11 == 0; (err == nil) != want {
			t.Fatalf("%q: %v, want valid %v", text, err, want)
		}
		if err == nil && n.Reveal() != bare {
			t.Fatalf("%q reveals %q", text, n.Reveal())
		}
		if err != nil && err != ErrNumber {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
