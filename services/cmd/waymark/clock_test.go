package main

import (
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"14d": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute,
		"": 0, "d": 0, "-1d": 0, "0d": 0, "14": 0, "1h1d": 0, "-3h": 0, "99999d": 0,
	} {
		if got, err := parseSpan(text); (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
