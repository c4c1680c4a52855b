package main

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/testenv"
)

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// short is a plan that takes a moment.
var short = plan{
	name: "short", runs: 1, lookupSources: 1, lookupTime: time.Millisecond, liveSeconds: 0.01, adds: 3, loads: 1, receivers: receivers,
}

// newSession is a session in a lab of the test's own.
func newSession(t *testing.T) *session {
	t.Helper()
	lab := testenv.New(t)
	bpffs, err := lab.MountBPF()
	if err != nil {
		t.Fatal(err)
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	r, err := newReport(root, short, 1)
	if err != nil {
		t.Fatal(err)
	}
	return &session{lab: lab, bpffs: bpffs, root: root, plan: short, random: seeded(t), report: r, loops: make(map[bool][]float64), out: io.Discard}
}

// held puts a list into the kernel for as long as the test runs.
func (s *session) held(t *testing.T, list blocklist) (drawer, *held) {
	t.Helper()
	h, err := hold(s.bpffs, list, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.release(); err != nil {
			t.Error(err)
		}
	})
	return drawer{list, list.matcher(), s.random}, h
}

// TestCellsAreWhatTheCompilerMakes: the lists that are measured reach the kernel as the same lists of a daemon do.
func TestCellsAreWhatTheCompilerMakes(t *testing.T) {
	r := seeded(t)
	for _, list := range []blocklist{hosts("hosts", 500, r), mixed("mixed", 500, r), mixed6("mixed", 500, r)} {
		b := lists.NewBuilder(nil)
		for _, i := range r.Perm(len(list.prefixes)) {
			id, ok := lists.PrefixID(list.prefixes[i])
			if !ok {
				t.Fatalf("%s is no entry", list.prefixes[i])
			}
			b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Now()})
		}
		table := compile.New()
		table.Reset(b.Snapshot(1), nil)
		type pair struct {
			p netip.Prefix
			c compile.Cell
		}
		var got, want []pair
		for p, c := range list.cells() {
			got = append(got, pair{p, c})
		}
		for p, c := range table.All() {
			want = append(want, pair{p, c})
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the cells are not those of the compiler", list.origin)
		}
	}
}

// TestWorkloadsAreWhatTheySay draws each and asks the list itself.
func TestWorkloadsAreWhatTheySay(t *testing.T) {
	r := seeded(t)
	for _, list := range []blocklist{hosts("hosts", 1000, r), mixed("mixed", 1000, r), mixed6("mixed", 1000, r)} {
		workloads := workloads4
		if list.v6 {
			workloads = workloads6
		}
		d := drawer{list, list.matcher(), r}
		for _, w := range workloads {
			words, share := w.ring(d)
			size := 1
			if list.v6 {
				size = 4
			}
			if len(words) != ringSize*size {
				t.Fatalf("%s: %d words", w.name, len(words))
			}
			if w.dropped >= 0 && (share < w.dropped-0.01 || share > w.dropped+0.01) {
				t.Errorf("%s, %s: %.3f of the sources are listed, want %.3f", list.origin, w.name, share, w.dropped)
			}
			different := make(map[string]bool)
			for i := 0; i < len(words); i += size {
				var b []byte
				for _, word := range words[i : i+size] {
					b = binary.LittleEndian.AppendUint32(b, word)
				}
				a, _ := netip.AddrFromSlice(b)
				if different[string(b)] = true; i < 1000 && w.dropped == 1 && !d.listed(a) {
					t.Fatalf("%s: %s is not listed", w.name, a)
				}
			}
			if w.name == hot.name && len(different) > 64 {
				t.Errorf("%d hot sources", len(different))
			}
		}
	}
}

// TestLookups runs the lookup programs on small lists: measureLookup refuses figures whose verdicts are not the list's.
func TestLookups(t *testing.T) {
	s := newSession(t)
	v4, v6 := mixed("v4", 1000, s.random), mixed6("v6", 1000, s.random)
	for list, workloads := range map[*blocklist][]workload{&v4: workloads4, &v6: workloads6} {
		d, h := s.held(t, *list)
		if err := s.measureLookups(d, h, workloads); err != nil {
			t.Fatal(err)
		}
	}
	if want := len(modes) * (len(workloads4) + len(workloads6)); len(s.report.Lookups) != want {
		t.Fatalf("%d figures, want %d", len(s.report.Lookups), want)
	}
	for _, l := range s.report.Lookups {
		if l.Overlapped.Min <= 0 || l.Dependent.Min <= 0 || l.Overlapped.Min > 1e6 {
			t.Errorf("%+v", l)
		}
	}
	for v6, loops := range s.loops {
		if f := figureOf(loops); f.Median <= 0 || f.Median > 1000 {
			t.Errorf("the loop alone costs %v ns (IPv6: %v)", f, v6)
		}
	}
}

// TestWrongVerdictsAreNoFigures: a list that is not in the kernel is noticed.
func TestWrongVerdictsAreNoFigures(t *testing.T) {
	s := newSession(t)
	other := hosts("other", 1000, s.random)
	_, h := s.held(t, other)
	b, err := newBench(h, modes[0], false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	list := hosts("mine", 1000, s.random)
	err = s.measureLookup(blocked, drawer{list, list.matcher(), s.random}, []*bench{b})
	if err == nil || !strings.Contains(err.Error(), "would mean nothing") {
		t.Errorf("got %v", err)
	}
}

// TestLiveFrames runs what needs no package of a peer: run refuses rates when what came through is not what the list
// says.
func TestLiveFrames(t *testing.T) {
	s := newSession(t)
	own := slices.DeleteFunc(receivers(), func(r receiver) bool { return slices.Contains([]string{nftables, ipset, xdpFilter}, r.name) })
	broken := receiver{name: "broken", filters: true, up: func(*session, *testenv.Namespace, blocklist, *held) (io.Closer, error) {
		return nil, io.ErrUnexpectedEOF
	}}
	d, h := s.held(t, hosts("hosts", 1000, s.random))
	if err := s.measureLive(d, h, []workload{legitimate, blocked, spoofed, ninety}, append(own, broken)); err != nil {
		t.Fatal(err)
	}
	if want := 4 * (len(own) + 1); len(s.report.Live) != want {
		t.Fatalf("%d rates, want %d", len(s.report.Live), want)
	}
	for _, l := range s.report.Live {
		if broken := l.Receiver == "broken"; broken != (l.Missing != "") || broken != (l.Rate.Median == 0) {
			t.Errorf("%+v", l)
		}
	}
	err := s.measureLive(d, h, []workload{blocked}, []receiver{{name: "leaks", filters: true, up: emptyProgram(true)}})
	if err == nil || !strings.Contains(err.Error(), "would mean nothing") {
		t.Errorf("a filter that leaks: got %v", err)
	}
}

// TestDaemonSide measures two daemons with short lists, and finds the ratios of what they take.
func TestDaemonSide(t *testing.T) {
	s := newSession(t)
	s.report.Daemon = new(daemonSide)
	if err := s.measureDaemon(hosts("daemon", 5000, s.random)); err != nil {
		t.Fatal(err)
	}
	d := s.report.Daemon
	for name, v := range map[string]float64{
		"add, 1 K": d.AddSmall.P99, "add": d.AddBig.P99, "import": d.LoadImport.Median, "nft": d.LoadNft.Median, "ipset": d.LoadIpset.Median,
		"start": d.Startup.Median, "resident": d.Resident.Median,
	} {
		if v <= 0 {
			t.Errorf("%s: %v", name, v)
		}
	}
	if s.report.judge(); len(s.report.Ratios) != 3 { // those of memory are of a million
		t.Errorf("ratios %+v", s.report.Ratios)
	}
}

// TestFloors: a ratio beyond its floor is named, one that keeps it or has none is not.
func TestFloors(t *testing.T) {
	r := &report{Modes: []string{"lpm"}}
	add := func(receiver string, rate float64) {
		r.Live = append(r.Live, live{List: hosts1K, Workload: blocked.name, Receiver: receiver, Rate: single(rate)})
	}
	add(ours("lpm"), 1)
	add(nftables, 10)
	add(ipset, 0.1)
	r.judge()
	if len(r.Ratios) != 2 {
		t.Fatalf("ratios %+v", r.Ratios)
	}
	if bad := r.beyond(); len(bad) != 1 || !strings.Contains(bad[0], "against nftables: 0.10, must be ≥ ") {
		t.Errorf("beyond the floor: %q", bad)
	}
	at := ratio{AtMost: true, Value: 2}
	if at.met(1.9) || !at.met(2) {
		t.Error("at most is not at most")
	}
}

// TestDocumentIsOfTheRun: every number in the page and the pictures is that of docs/bench.json. `bin/bench -render`
// writes them anew when the words around the numbers change.
func TestDocumentIsOfTheRun(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	r, err := readReport(filepath.Join(root, "docs", "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Plan != "full" {
		t.Errorf("docs/bench.json is of the plan %q", r.Plan)
	}
	files, err := r.files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("docs/%s is not what docs/bench.json makes: bin/bench -render", name)
		}
	}
}

// TestEmptyChart: a plan without the lists of a chart leaves it empty, and does not draw for ever.
func TestEmptyChart(t *testing.T) {
	if s := (chart{title: "nothing"}).svg(); !strings.Contains(s, "nothing") || !strings.HasSuffix(s, "</svg>\n") {
		t.Errorf("%s", s)
	}
}
