package main

import (
	"fmt"
	"math"
	"strings"
)

// chart is lines over the number of entries, both axes logarithmic.
type chart struct {
	title, yLabel string
	lines         []line
}

// line is one line of a chart. Points without a value are left out.
type line struct {
	name   string
	dashed bool
	x, y   []float64
}

// scaling are the lists that differ by size alone, or nearly.
var scaling = []string{hosts1K, hosts10K, hosts120K, hosts1M, hosts10M}

// lookupChart shows what a verdict costs.
func (r *report) lookupChart() chart {
	c := chart{title: "Cost of a verdict, overlapped: blocked and legitimate sources", yLabel: "ns a verdict"}
	for _, m := range r.Modes {
		for _, w := range []workload{blocked, legitimate} {
			l := line{name: fmt.Sprintf("mode %s, %s", m, w.name), dashed: w.name == legitimate.name}
			for _, list := range scaling {
				if v, ok := r.lookup(list, w.name, m); ok {
					l.x, l.y = append(l.x, float64(v.Entries)), append(l.y, v.Overlapped.Median)
				}
			}
			c.lines = append(c.lines, l)
		}
	}
	return c
}

// liveChart shows how many packets a second each receiver takes.
func (r *report) liveChart() chart {
	c := chart{title: "All sources listed, veth to veth: millions of packets a second", yLabel: "Mpps"}
	for _, receiver := range r.Receivers {
		if receiver.Passes {
			continue
		}
		l := line{name: receiver.Name, dashed: receiver.Name == emptyDrop}
		for _, list := range scaling {
			if v, ok := r.live(list, blocked.name, receiver.Name); ok {
				l.x, l.y = append(l.x, float64(v.Entries)), append(l.y, v.Rate.Median)
			}
		}
		c.lines = append(c.lines, l)
	}
	return c
}

// Sizes of a chart, in pixels.
const (
	chartWidth, chartHeight       = 760, 420
	chartLeft, chartTop           = 70, 40
	chartPlotWidth, chartPlotHigh = 460, 320
)

// axis maps values to pixels by their logarithm, over whole decades.
type axis struct {
	low, high  float64 // powers of ten
	start, end float64
}

func axisOf(values []float64, start, end float64) axis {
	if len(values) == 0 { // a plan may have nothing to draw
		return axis{0, 1, start, end}
	}
	a := axis{math.Inf(1), math.Inf(-1), start, end}
	for _, v := range values {
		a.low, a.high = min(a.low, math.Floor(math.Log10(v))), max(a.high, math.Ceil(math.Log10(v)))
	}
	if a.high <= a.low {
		a.high = a.low + 1
	}
	return a
}

func (a axis) at(v float64) float64 {
	return a.start + (math.Log10(v)-a.low)/(a.high-a.low)*(a.end-a.start)
}

// svg draws the chart. It is readable on light and on dark ground.
func (c chart) svg() string {
	var xs, ys []float64
	for _, l := range c.lines {
		xs, ys = append(xs, l.x...), append(ys, l.y...)
	}
	x := axisOf(xs, chartLeft, chartLeft+chartPlotWidth)
	y := axisOf(ys, chartTop+chartPlotHigh, chartTop)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="14">%s</text>`+"\n", chartLeft, c.title)
	c.grid(&b, x, y)
	colours := []string{"#666666", "#0057b8", "#d1495b", "#2e8b57", "#8a4fbf", "#c77700"}
	for i, l := range c.lines {
		colour, dash := colours[i%len(colours)], ""
		if l.dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		var points []string
		for k := range l.x {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x.at(l.x[k]), y.at(l.y[k])))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s</title></circle>`+"\n", x.at(l.x[k]), y.at(l.y[k]), colour, l.name, digits(l.y[k]))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(points, " "), colour, dash)
		top := chartTop + 16 + 22*i
		fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2"%s/>`+"\n", chartLeft+chartPlotWidth+16, top-4, chartLeft+chartPlotWidth+44, top-4, colour, dash)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", chartLeft+chartPlotWidth+50, top, l.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// grid draws the axes with a line a decade.
func (c chart) grid(b *strings.Builder, x, y axis) {
	for d := x.low; d <= x.high; d++ {
		at := x.at(math.Pow(10, d))
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#dddddd"/>`+"\n", at, chartTop, at, chartTop+chartPlotHigh)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, chartTop+chartPlotHigh+18, decade(d))
	}
	for d := y.low; d <= y.high; d++ {
		for _, digit := range []float64{1, 2, 5} {
			v := digit * math.Pow(10, d)
			if d == y.high && digit > 1 {
				break
			}
			fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`+"\n", chartLeft, y.at(v), chartLeft+chartPlotWidth, y.at(v))
			fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", chartLeft-6, y.at(v)+4, v)
		}
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">entries in the list</text>`+"\n", chartLeft+chartPlotWidth/2, chartHeight-18)
	fmt.Fprintf(b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", chartTop+chartPlotHigh/2, c.yLabel)
}

// decade writes a power of ten as lists are named.
func decade(d float64) string {
	switch {
	case d >= 6:
		return fmt.Sprintf("%.0f M", math.Pow(10, d-6))
	case d >= 3:
		return fmt.Sprintf("%.0f K", math.Pow(10, d-3))
	default:
		return fmt.Sprintf("%.0f", math.Pow(10, d))
	}
}
