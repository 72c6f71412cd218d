package nhs

import (
	"cmp"
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // the clocks must not depend on the machine's time zone files
)

// ErrDate says that a text is not a date that exists.
var ErrDate = errors.New("must be a date that exists, as YYYY-MM-DD")

// london is where every NHS date is read off a calendar.
var london = func() *time.Location {
	l, err := time.LoadLocation("Europe/London")
	if err != nil {
		panic(err) // cannot be: tzdata is linked in
	}
	return l
}()

const secondsPerDay = 24 * 60 * 60

// Date is a day of the civil calendar in England, what cancer clocks count in:
// an instant's date is that of Europe/London, whatever offset its sender wrote.
// Dates are comparable with ==. The zero value is no date.
type Date struct {
	day int32 // days after the Unix epoch, plus one, so that 0 is free
}

// NewDate returns the date, or ErrDate for one that does not exist or whose year
// is not within 1 to 9999.
func NewDate(year int, month time.Month, day int) (Date, error) {
	t := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	if y, m, d := t.Date(); y != year || m != month || d != day || year < 1 || year > 9999 {
		return Date{}, ErrDate
	}
	return fromUTC(t), nil
}

// ParseDate takes YYYY-MM-DD and nothing else.
func ParseDate(text string) (Date, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Year() < 1 {
		return Date{}, ErrDate
	}
	return fromUTC(t), nil
}

// DateOf returns the date on which instant t falls in England.
func DateOf(t time.Time) Date {
	y, m, d := t.In(london).Date()
	return fromUTC(time.Date(y, m, d, 0, 0, 0, 0, time.UTC))
}

// fromUTC takes a midnight in UTC.
func fromUTC(t time.Time) Date {
	day := int32(t.Unix() / secondsPerDay)
	if day >= 0 {
		day++
	}
	return Date{day}
}

// unix returns days after the Unix epoch.
func (d Date) unix() int32 {
	if d.day > 0 {
		return d.day - 1
	}
	return d.day
}

func (d Date) utc() time.Time { return time.Unix(int64(d.unix())*secondsPerDay, 0).UTC() }

// IsZero reports whether d is no date.
func (d Date) IsZero() bool { return d.day == 0 }

// String returns YYYY-MM-DD, "" for no date.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	y, m, day := d.utc().Date()
	return fmt.Sprintf("%04d-%02d-%02d", y, int(m), day)
}

// MarshalText returns String.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// AddDays returns the date n days later, earlier for negative n. No date stays none.
func (d Date) AddDays(n int) Date {
	if d.IsZero() {
		return d
	}
	return fromUTC(d.utc().AddDate(0, 0, n))
}

// DaysUntil returns how many days later other is: 0 for the same day. Both must
// be dates.
func (d Date) DaysUntil(other Date) int { return int(other.unix() - d.unix()) }

// Compare returns -1, 0 or 1 as d is before, the same as or after other. No date
// is before every date.
func (d Date) Compare(other Date) int {
	if d.IsZero() || other.IsZero() {
		return cmp.Compare(b2i(!d.IsZero()), b2i(!other.IsZero()))
	}
	return cmp.Compare(d.day, other.day)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Before reports whether d is an earlier day than other.
func (d Date) Before(other Date) bool { return d.Compare(other) < 0 }

// After reports whether d is a later day than other.
func (d Date) After(other Date) bool { return d.Compare(other) > 0 }

// Weekday returns the day of the week.
func (d Date) Weekday() time.Weekday { return d.utc().Weekday() }

// Start returns the first instant of d in England.
func (d Date) Start() time.Time {
	y, m, day := d.utc().Date()
	return time.Date(y, m, day, 0, 0, 0, 0, london)
}
