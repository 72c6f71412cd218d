package appointment

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"waymark/services/kit/fault"
)

// london is whose local time a text without offset means.
var london = func() *time.Location {
	l, err := time.LoadLocation("Europe/London")
	if err != nil {
		panic(err) // cannot be: kit/nhs links tzdata
	}
	return l
}()

// Instant reads the time in a request's field: RFC 3339 with an offset, or the
// local time of Europe/London without one, as HL7 v2 feeds mean it. A local time
// that the change of clocks skips is no instant, and one that it repeats is two:
// both are refused rather than guessed.
func Instant(field, text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
		wall, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		// Each offset that London uses in a year is tried; the instants that read as
		// this wall time are the candidates.
		var found []time.Time
		for _, offset := range []time.Duration{0, time.Hour} {
			t := wall.Add(-offset)
			if t.In(london).Format(layout) == wall.Format(layout) {
				found = append(found, t)
			}
		}
		switch len(found) {
		case 0:
			return time.Time{}, fault.Invalid("appointment.time.missing", field, "does not exist: the clocks go forward over it. Send it with an offset from UTC")
		case 1:
			return found[0], nil
		default:
			return time.Time{}, fault.Invalid("appointment.time.ambiguous", field, "exists twice: the clocks go back over it. Send it with an offset from UTC")
		}
	}
	return time.Time{}, fault.Invalid("appointment.time.invalid", field, "must be like 2026-07-01T09:30:00+01:00, or without offset for the local time of London")
}

// interval reads a start and an end.
func interval(path, start, end string) (from, to *timestamppb.Timestamp, err error) {
	a, err := Instant(path+"start", start)
	if err != nil {
		return nil, nil, err
	}
	b, err := Instant(path+"end", end)
	if err != nil {
		return nil, nil, err
	}
	if !a.Before(b) {
		return nil, nil, fault.Invalid("appointment.time.order", path+"end", "must be after the start")
	}
	return timestamppb.New(a), timestamppb.New(b), nil
}
