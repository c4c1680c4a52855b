package lists

import (
	"fmt"
	"strings"
	"time"
)

// MaxFor is the longest an entry with an end may live: 100 years.
const MaxFor = 36525 * 24 * time.Hour

const forExpected = "expected a duration such as 90s, 15m, 4h, 30d, 2w or 1d12h, up to 100 years"

// forUnits are the units of [ParseFor], longest first.
var forUnits = []struct {
	letter byte
	length time.Duration
}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// ParseFor reads a duration: whole numbers with the units w, d, h, m and s, longest unit first, each at most
// once ("90s", "30d", "1d12h"). It is more than nothing and at most [MaxFor]. Errors wrap [ErrInvalid].
func ParseFor(s string) (time.Duration, error) {
	var total time.Duration
	rest, units := s, forUnits
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		switch {
		case digits == 0:
			return 0, fmt.Errorf("%w duration %s: %s", ErrInvalid, Quote(s), forExpected)
		case digits == len(rest):
			return 0, fmt.Errorf("%w duration %s: it has no unit; %s", ErrInvalid, Quote(s), forExpected)
		}
		for len(units) > 0 && units[0].letter != rest[digits] {
			units = units[1:]
		}
		if len(units) == 0 {
			return 0, fmt.Errorf("%w duration %s: %s", ErrInvalid, Quote(s), forExpected)
		}
		var n time.Duration
		for _, c := range rest[:digits] {
			if n = n*10 + time.Duration(c-'0'); n > MaxFor/units[0].length {
				return 0, fmt.Errorf("%w duration %s: it is longer than 100 years; %s", ErrInvalid, Quote(s), forExpected)
			}
		}
		total += n * units[0].length
		rest, units = rest[digits+1:], units[1:]
	}
	switch {
	case total == 0:
		return 0, fmt.Errorf("%w duration %s: it is nothing; %s", ErrInvalid, Quote(s), forExpected)
	case total > MaxFor:
		return 0, fmt.Errorf("%w duration %s: it is longer than 100 years; %s", ErrInvalid, Quote(s), forExpected)
	}
	return total, nil
}

// ParseUntil reads a point in time: RFC 3339 ("2026-12-24T18:00:00Z"), or a date with or without a time of day in
// loc ("2026-12-24 18:00", "2026-12-24", the latter being the first moment of that day). It must be after now and
// at most [MaxFor] away. The result is UTC in whole seconds, rounded up. Errors wrap [ErrInvalid].
func ParseUntil(s string, now time.Time, loc *time.Location) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		t, err := time.ParseInLocation(layout, s, loc)
		if err != nil {
			continue
		}
		switch {
		case !t.After(now):
			return time.Time{}, fmt.Errorf("%w time %s: it is not in the future (it is %s now)", ErrInvalid, Quote(s), now.In(loc).Format(time.RFC3339))
		case t.After(now.Add(MaxFor)):
			return time.Time{}, fmt.Errorf("%w time %s: it is more than 100 years away", ErrInvalid, Quote(s))
		}
		return ceilSecond(t), nil
	}
	return time.Time{}, fmt.Errorf("%w time %s: expected a time such as 2026-12-24T18:00:00Z, \"2026-12-24 18:00\" or 2026-12-24", ErrInvalid, Quote(s))
}
