package waitingtimes

import (
	"time"

	"waymark/services/kit/nhs"
)

// AddWorkingDays returns the n-th working day after d, which is day 0. Working
// days are Monday to Friday without the bank holidays of England.
func AddWorkingDays(d nhs.Date, n int) nhs.Date {
	for n > 0 {
		d = d.AddDays(1)
		if WorkingDay(d) {
			n--
		}
	}
	return d
}

// WorkingDay reports whether d is Monday to Friday and no bank holiday of England.
func WorkingDay(d nhs.Date) bool {
	wd := d.Weekday()
	return wd != time.Saturday && wd != time.Sunday && !BankHoliday(d)
}

// declared holds the days that were proclaimed (true) or moved away (false)
// against the general rule. Source: royal proclamations under the Banking and
// Financial Dealings Act 1971.
var declared = map[string]bool{
	"2020-05-04": false, "2020-05-08": true, // VE Day, in place of early May
	"2022-05-30": false, "2022-06-02": true, "2022-06-03": true, // Platinum Jubilee
	"2022-09-19": true, // State funeral
	"2023-05-08": true, // Coronation
}

// BankHoliday reports whether d is a bank holiday of England and Wales: by the
// general rule of the Banking and Financial Dealings Act 1971 and custom, with
// substitute days for weekends, and by what was proclaimed so far. A later
// proclamation is a new row of declared.
func BankHoliday(d nhs.Date) bool {
	if is, found := declared[d.String()]; found {
		return is
	}
	y, m, day := d.Start().Date()
	mon := d.Weekday() == time.Monday
	easter := easterSunday(y)
	switch {
	case d == easter.AddDays(-2), d == easter.AddDays(1):
		return true
	case m == time.January: // New Year's Day, or the next working day
		return day == 1 && !weekend(d) || mon && (day == 2 || day == 3)
	case m == time.May: // first and last Monday
		return mon && (day <= 7 || day > 24)
	case m == time.August: // last Monday
		return mon && day > 24
	case m == time.December:
		// Christmas Day and Boxing Day; what falls on a weekend moves behind both.
		switch day {
		case 25, 26:
			return !weekend(d)
		case 27:
			return mon || d.Weekday() == time.Tuesday
		case 28:
			return mon || d.Weekday() == time.Tuesday
		}
	}
	return false
}

func weekend(d nhs.Date) bool {
	return d.Weekday() == time.Saturday || d.Weekday() == time.Sunday
}

// easterSunday of the Gregorian calendar, by the anonymous algorithm that
// Nature printed in 1876.
func easterSunday(y int) nhs.Date {
	a, b, c := y%19, y/100, y%100
	d, e := b/4, b%4
	f := (b + 8) / 25
	g := (b - f + 1) / 3
	h := (19*a + b - d - g + 15) % 30
	i, k := c/4, c%4
	l := (32 + 2*e + 2*i - h - k) % 7
	m := (a + 11*h + 22*l) / 451
	n := h + l - 7*m + 114
	return date(y, time.Month(n/31), n%31+1)
}

// AddMonths returns the same day n months later, clamped to the end of a
// shorter month: 29 February + 12 months is 28 February.
func AddMonths(d nhs.Date, n int) nhs.Date {
	y, m, day := d.Start().Date()
	first := time.Date(y, m+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return date(first.Year(), first.Month(), min(day, last))
}

// date is for days that exist by construction.
func date(y int, m time.Month, day int) nhs.Date {
	d, err := nhs.NewDate(y, m, day)
	if err != nil {
		panic(err)
	}
	return d
}
