package loader

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

var changingFlag = flag.Duration("changing", 4*time.Second, "how long TestIndexWhileChanging runs")

// TestIndexLayout: compile and the program speak of the same words.
func TestIndexLayout(t *testing.T) {
	if compile.SegmentWords != bpf.SegmentLines*8 || compile.IndexSlots != bpf.IndexSlots || compile.GateWords != bpf.GateLines*8 {
		t.Error("compile's layout of the index is not that of portcullis.h")
	}
	if compile.Index6Slots != bpf.Index6Slots || compile.RootWords != bpf.Root6Lines*8 {
		t.Error("compile's layout of the IPv6 index is not that of portcullis.h")
	}
}

// judged is a program on the maps of a Loader, without an interface, and the frames that it is asked about.
type judged struct {
	l       *Loader
	program *ebpf.Program
	frames  [2][]byte // IPv4, IPv6
}

func newJudged(t testing.TB, o Options) *judged {
	t.Helper()
	j := &judged{l: open(t, o), frames: [2][]byte{frame("10.0.0.1"), frame("2001:db8::1")}}
	var err error
	j.program, err = j.l.load("nowhere", false, false)
	must(t, err)
	t.Cleanup(func() { must(t, j.program.Close()) })
	return j
}

func (j *judged) drops(t testing.TB, a netip.Addr) bool {
	t.Helper()
	f := j.frames[0]
	if a.Is6() {
		f = j.frames[1]
		copy(f[22:38], a.AsSlice())
	} else {
		copy(f[26:30], a.AsSlice())
	}
	action, err := j.program.Run(&ebpf.RunOptions{Data: f})
	must(t, err)
	return action == 1
}

// mismatches fails the test if the kernel's self-check found any.
func mismatches(t testing.TB, m *Maps) {
	t.Helper()
	s, err := m.Index()
	must(t, err)
	t.Logf("index: %+v", s)
	if s.Mismatches > 0 || s.Checked == 0 {
		t.Errorf("index and tries disagreed on %d of %d packets", s.Mismatches, s.Checked)
	}
}

// TestIndexWhileChanging judges packets while lists are changed, replaced and the index made anew. Each verdict must
// be one that held at some time between the moment before the packet and the one after it.
func TestIndexWhileChanging(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m, table := j.l.Maps(), compile.New()
	m.Follow(table)
	must(t, m.Replace(context.Background(), 1, table.All(), 0, nil))

	d := &differential{r: rand.New(rand.NewPCG(seed, 1)), snapshot: lists.NewBuilder(nil).Snapshot(1)}
	var probes []netip.Addr
	for len(probes) < 400 {
		if p := d.prefix(); p.Bits() >= 16 {
			probes = append(probes, p.Addr(), lastOf(p), d.within(p))
		}
	}
	var mu sync.Mutex
	history := [][]bool{make([]bool, len(probes))} // by version: is a probe dropped?
	var begun, done atomic.Int64
	stop := make(chan struct{})
	var reader sync.WaitGroup
	var judgedCount, overlapping int
	reader.Go(func() {
		r := rand.New(rand.NewPCG(seed, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			i := r.IntN(len(probes))
			from := done.Load()
			got := j.drops(t, probes[i])
			to := begun.Load()
			mu.Lock()
			ok := slices.ContainsFunc(history[from:to+1], func(v []bool) bool { return v[i] == got })
			mu.Unlock()
			judgedCount++
			if from != to {
				overlapping++
			}
			if !ok {
				t.Errorf("-seed=%d: %s dropped: %v, which it was not in versions %d to %d", seed, probes[i], got, from, to)
				return
			}
		}
	})
	version := int64(0)
	for end := time.Now().Add(*changingFlag); time.Now().Before(end) && !t.Failed(); {
		version++
		b := lists.NewBuilder(d.snapshot)
		var changes []lists.Change
		for range 1 + d.r.IntN(6) {
			changes = append(changes, d.change(b))
		}
		d.snapshot = b.Snapshot(uint64(version))
		rules := table.Apply(changes)
		now := make([]bool, len(probes))
		for i, a := range probes {
			v, _ := table.Lookup(a, time.Now())
			now[i] = v == lists.Drop
		}
		mu.Lock()
		history = append(history, now)
		mu.Unlock()
		begun.Store(version)
		must(t, m.Apply(uint64(version), rules))
		switch d.r.IntN(40) {
		case 0:
			must(t, m.Replace(context.Background(), uint64(version), table.All(), []int{0, 1, 10_000}[version%3], nil)) // a wrong guess costs time alone
		case 1:
			m.writing.Lock()
			err := errors.Join(m.rebuild(), m.rebuild6())
			m.writing.Unlock()
			must(t, err)
		}
		done.Store(version)
		must(t, m.Renew())
	}
	close(stop)
	reader.Wait()
	t.Logf("%d changes, %d packets, %d of them while something changed", version, judgedCount, overlapping)
	if overlapping == 0 {
		t.Error("no packet was judged while something changed")
	}
	mismatches(t, m)
}

// TestIndexEndsOnTime lets entries end that nobody takes off the lists, with a daemon that renews the lease and with
// none: in both cases they end by the clock, and what has no end goes on being dropped.
func TestIndexEndsOnTime(t *testing.T) {
	for _, alive := range []bool{true, false} {
		t.Run("alive "+strconv.FormatBool(alive), func(t *testing.T) {
			t.Parallel()
			j := newJudged(t, Options{PinDir: pinsFor(t)})
			m := j.l.Maps()
			began := time.Now()
			replace(t, m, 1, cells{}) // how long that takes here
			end := time.Now().Truncate(time.Second).Add(6*time.Second + 2*time.Since(began)).Truncate(time.Second)
			list := cells{
				"10.0.0.0/8":       drop,
				"198.51.100.7/32":  {DropUntil: end.Unix(), Source: lists.ABS},
				"198.51.100.8/32":  drop,
				"203.0.113.0/24":   {DropUntil: end.Unix(), Source: lists.ABS},
				"203.0.113.9/32":   drop,
				"10.1.0.0/16":      {PassUntil: end.Unix(), DropUntil: compile.Never, Source: lists.Manual},
				"192.0.2.1/32":     {PassUntil: compile.Never},
				"192.0.2.128/25":   {DropUntil: end.Unix() + 3600, Source: lists.ABS},
				"100.64.0.0/10":    {DropUntil: end.Unix(), Source: lists.ABS},
				"100.65.0.0/16":    drop,
				"100.66.66.66/32":  {PassUntil: end.Unix() + 1, DropUntil: end.Unix(), Source: lists.ABS},
				"100.67.67.64/26":  drop,
				"100.67.67.70/32":  {PassUntil: compile.Never, DropUntil: compile.Never},
				"100.127.255.0/24": drop,

				"2001:db8::/32":              drop,
				"2001:db8:1::/48":            {PassUntil: end.Unix(), DropUntil: compile.Never, Source: lists.Manual},
				"2001:db8:2::/48":            {PassUntil: compile.Never, DropUntil: compile.Never},
				"2001:db8:2::7/128":          {PassUntil: compile.Never, DropUntil: compile.Never},
				"2400::7/128":                {DropUntil: end.Unix(), Source: lists.ABS},
				"2400::8/128":                drop,
				"2400::/45":                  {DropUntil: end.Unix(), Source: lists.ABS},
				"2400:0:2::/48":              drop,
				"2600::/15":                  {DropUntil: end.Unix(), Source: lists.ABS},
				"2601:0:0:1::/64":            drop,
				"2602:0:0:2::/64":            {DropUntil: end.Unix(), Source: lists.ABS},
				"2602:0:0:2:8000::/65":       drop,
				"2602:0:0:2:8000::1/128":     {PassUntil: end.Unix() + 1, DropUntil: end.Unix(), Source: lists.ABS},
				"2602:0:0:2:ffff:ffff::/127": {PassUntil: compile.Never, DropUntil: compile.Never},
			}
			replace(t, m, 2, list)
			want := func(after bool) map[string]bool { // dropped?
				return map[string]bool{
					"10.2.3.4": true, "198.51.100.7": !after, "198.51.100.8": true, "198.51.100.9": false, "203.0.113.8": !after,
					"203.0.113.9": true, "10.1.2.3": after, "192.0.2.1": false, "192.0.2.200": true, "100.64.0.0": !after, "100.65.1.1": true,
					"100.66.66.66": false, "100.66.66.67": !after, "100.67.67.64": true, "100.67.67.70": false, "100.127.255.255": true, "100.128.0.0": false,

					"2001:db8::1": true, "2001:db8:1::1": after, "2001:db8:2::7": false, "2001:db8:2::8": false, "2400::7": !after, "2400::8": true,
					"2400::9": !after, "2400:0:2::1": true, "2400:0:7::1": !after, "2400:0:8::1": false, "2601::1": !after, "2601:0:0:1::1": true,
					"2602:0:0:2::1": !after, "2602:0:0:2:8000::1": false, "2602:0:0:2:8000::2": true, "2602:0:0:2:ffff:ffff::1": false, "2603::": false,
				}
			}
			before, after, renewed := 0, 0, time.Now()
			for deadline := end.Add(10 * time.Second); after < 50; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d packets judged in the 10 s after the end", after)
				}
				if alive && time.Since(renewed) > time.Second {
					must(t, m.Renew())
					renewed = time.Now()
				}
				for _, late := range []bool{false, true} {
					for a, drops := range want(late) {
						start := time.Now()
						got := j.drops(t, netip.MustParseAddr(a))
						finished := time.Now()
						const skew = 20 * time.Millisecond // between the wall clock when the list was written and now
						if late && !start.After(end.Add(skew)) || !late && !finished.Before(end.Add(-skew)) {
							continue
						}
						if got != drops {
							t.Fatalf("%s, %v after the end: dropped %v, want %v", a, start.Sub(end), got, drops)
						}
						if late {
							after++
						} else {
							before++
						}
					}
				}
			}
			s, err := m.Index()
			must(t, err)
			if before < 100 || (s.Lease > 0) != alive {
				t.Errorf("%d packets before the end, lease %v", before, s.Lease)
			}
		})
	}
}

// TestIndexOfAnother: a process that did not fill the index changes the lists. The index knows nothing of it, so it
// must not be asked any more.
func TestIndexOfAnother(t *testing.T) {
	o := Options{PinDir: pinsFor(t)}
	j := newJudged(t, o)
	m := j.l.Maps()
	replace(t, m, 1, cells{"10.0.0.0/8": drop, "2001:db8::/32": drop})
	other, err := OpenMaps(o)
	must(t, err)
	defer other.Close()
	must(t, other.Apply(2, []compile.Rule{
		{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Cell: compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never}, New: true},
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Cell: drop, New: true},
		{Prefix: netip.MustParsePrefix("2001:db8:1::/48"), Cell: compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never}, New: true},
		{Prefix: netip.MustParsePrefix("2400::7/128"), Cell: drop, New: true},
	}))
	check := func(when string) {
		t.Helper()
		for a, want := range map[string]bool{
			"10.1.2.3": false, "10.2.2.3": true, "192.0.2.7": true, "192.0.2.8": false,
			"2001:db8:1::1": false, "2001:db8:2::1": true, "2400::7": true, "2400::8": false,
		} {
			if got := j.drops(t, netip.MustParseAddr(a)); got != want {
				t.Errorf("%s: %s dropped: %v, want %v", when, a, got, want)
			}
		}
	}
	check("applied by another")
	// The first process applies without a table, and replaces.
	must(t, m.Apply(3, []compile.Rule{
		{Prefix: netip.MustParsePrefix("192.0.2.9/32"), Cell: drop, New: true}, {Prefix: netip.MustParsePrefix("2400::9/128"), Cell: drop, New: true},
	}))
	check("applied by the first")
	another := cells{
		"10.0.0.0/8": drop, "10.1.0.0/16": pass, "192.0.2.7/32": drop,
		"2001:db8::/32": drop, "2001:db8:1::/48": {PassUntil: compile.Never, DropUntil: compile.Never}, "2400::7/128": drop,
	}
	must(t, other.Replace(context.Background(), 4, another.all(), 0, nil))
	must(t, other.Renew())
	check("replaced by another")
	must(t, m.Renew())
	must(t, m.Apply(5, []compile.Rule{
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Remove: true}, {Prefix: netip.MustParsePrefix("192.0.2.6/32"), Cell: drop, New: true},
		{Prefix: netip.MustParsePrefix("2400::7/128"), Remove: true}, {Prefix: netip.MustParsePrefix("2400::6/128"), Cell: drop, New: true},
	}))
	if j.drops(t, netip.MustParseAddr("192.0.2.7")) || !j.drops(t, netip.MustParseAddr("192.0.2.6")) ||
		j.drops(t, netip.MustParseAddr("2400::7")) || !j.drops(t, netip.MustParseAddr("2400::6")) {
		t.Error("what the first applies after the other has replaced is not enforced")
	}
	replace(t, m, 6, another)
	check("replaced")
	must(t, m.Apply(7, []compile.Rule{
		{Prefix: netip.MustParsePrefix("192.0.2.8/32"), Cell: drop, New: true}, {Prefix: netip.MustParsePrefix("2400::8/128"), Cell: drop, New: true},
	}))
	if !j.drops(t, netip.MustParseAddr("192.0.2.8")) || !j.drops(t, netip.MustParseAddr("2400::8")) {
		t.Error("without a table, what Apply adds must be asked about")
	}
}

// TestLookupLPM: the other mode gives each way out its own counter.
func TestLookupLPM(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t), Lookup: LookupLPM})
	replace(t, j.l.Maps(), 1, cells{"10.0.0.0/8": drop, "10.1.0.0/16": pass, "2001:db8::/32": drop})
	for a, want := range map[string]bool{"10.1.2.3": false, "10.2.2.3": true, "192.0.2.7": false, "2001:db8::1": true, "2001:db9::1": false} {
		if got := j.drops(t, netip.MustParseAddr(a)); got != want {
			t.Errorf("%s dropped: %v, want %v", a, got, want)
		}
	}
	s, err := j.l.Maps().Index()
	must(t, err)
	if s.Checked != 0 || s.Bytes != 0 || s.IPv4 || s.IPv6 {
		t.Errorf("%+v", s)
	}
}

// TestIndexGrows: a list that outgrows the index gets another, and a full trie refuses before anything is changed.
func TestIndexGrows(t *testing.T) {
	const first, more = 1_250_000, 150_000
	j := newJudged(t, Options{PinDir: pinsFor(t), Capacity: first + more + 1})
	m, table := j.l.Maps(), compile.New()
	m.Follow(table)
	r := rand.New(rand.NewPCG(9, 9))
	b := lists.NewBuilder(nil)
	known := make([]netip.Addr, 0, first)
	for range first {
		e := hostEntry(r.Uint32())
		b.Put(e)
		known = append(known, netip.MustParseAddr(e.ID.Value))
	}
	table.Reset(b.Snapshot(1), nil)
	must(t, m.Replace(context.Background(), 1, table.All(), 0, nil))
	small, err := m.Index()
	must(t, err)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if a := known[i*7919%len(known)]; !j.drops(t, a) {
				t.Errorf("%s passed while the index grew", a)
				return
			}
		}
	})
	var changes []lists.Change
	for range more {
		e := hostEntry(r.Uint32())
		changes = append(changes, lists.Change{After: &e})
	}
	start := time.Now()
	must(t, m.Apply(2, table.Apply(changes)))
	took := time.Since(start)
	close(stop)
	reader.Wait()
	big, err := m.Index()
	must(t, err)
	fmt.Printf("index, from %d to %d hosts: %d to %d KiB in %v\n", small.Hosts, big.Hosts, small.Bytes>>10, big.Bytes>>10, took.Round(time.Millisecond))
	if big.Bytes <= small.Bytes || big.Bytes > 16<<20+8*(first+more) {
		t.Errorf("grew from %+v to %+v", small, big)
	}
	for _, c := range changes {
		if a := netip.MustParseAddr(c.After.ID.Value); !j.drops(t, a) {
			t.Fatalf("%s passes", a)
		}
	}
	var fill []compile.Rule
	for range more {
		fill = append(fill, compile.Rule{Prefix: netip.PrefixFrom(netip.MustParseAddr(hostEntry(r.Uint32()).ID.Value), 32), Cell: drop, New: true})
	}
	wantErr(t, m.Apply(3, fill), ErrFull)
	if now, err := m.Index(); err != nil || now.Hosts != big.Hosts {
		t.Errorf("a refused change left %+v, %v", now, err)
	}
	mismatches(t, m)
}
