package lists

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseFor(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "15m": 15 * time.Minute, "4h": 4 * time.Hour, "30d": 30 * day, "2w": 14 * day,
		"1d12h": 36 * time.Hour, "1w1d1h1m1s": 8*day + time.Hour + time.Minute + time.Second, "36525d": MaxFor, "0h1s": time.Second,
		"0000001s": time.Second,
	} {
		if got, err := ParseFor(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "90", "s", "-1s", "+1s", "1.5h", "1h1d", "1h1h", "0s", "36525d1s", "36526d", "1y", "1 h", " 1h", "1h ",
		"99999999999999999999s", "9223372036854775807s", "1M", "1ms", "١s", "1d12"} {
		if got, err := ParseFor(in); !errors.Is(err, ErrInvalid) || got != 0 || !strings.Contains(err.Error(), "expected a duration") || !strings.Contains(err.Error(), Quote(in)) {
			t.Errorf("%q: %v, %v; want a refusal", in, got, err)
		}
	}
}

func TestParseUntil(t *testing.T) {
	loc := time.FixedZone("", 2*3600)
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for in, want := range map[string]string{
		"2026-12-24T18:00:00Z":           "2026-12-24T18:00:00Z",
		"2026-12-24T18:00:00.1Z":         "2026-12-24T18:00:01Z",
		"2026-12-24T18:00:00+02:00":      "2026-12-24T16:00:00Z",
		"2026-12-24 18:00":               "2026-12-24T16:00:00Z",
		"2026-12-24 18:00:05":            "2026-12-24T16:00:05Z",
		"2026-12-24":                     "2026-12-23T22:00:00Z",
		"2026-01-02T03:04:05.000000601Z": "2026-01-02T03:04:06Z",
	} {
		got, err := ParseUntil(in, now, loc)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %v; want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"2026-01-02 05:04":     "not in the future",
		"2026-01-02":           "not in the future",
		"1999-01-01T00:00:00Z": "not in the future",
		"2126-02-01":           "100 years",
		"tomorrow":             "expected a time",
		"":                     "expected a time",
		"2026-13-01":           "expected a time",
		"24.12.2026":           "expected a time",
	} {
		if got, err := ParseUntil(in, now, loc); !errors.Is(err, ErrInvalid) || !got.IsZero() || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzParseFor(f *testing.F) {
	for _, s := range []string{"1d12h", "90s", "w", "9999999999w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseFor(s); err == nil && (d <= 0 || d > MaxFor || d%time.Second != 0) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%q: %v, %v", s, d, err)
		}
	})
}
