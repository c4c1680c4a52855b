package main

import (
	"fmt"
	"slices"
)

// figure sums up what several runs measured.
type figure struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func figureOf(runs []float64) figure {
	s := slices.Sorted(slices.Values(runs))
	return figure{s[len(s)/2], s[0], s[len(s)-1]}
}

// String writes about three digits: median, then min and max.
func (f figure) String() string {
	return fmt.Sprintf("%s (%s-%s)", digits(f.Median), digits(f.Min), digits(f.Max))
}

func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
