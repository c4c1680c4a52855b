package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/testenv/generator"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestWatchFlood: a flood that is dropped goes as fast while somebody watches, and the daemon has little to do. `go test
// ./testenv/scenario -run WatchFlood -v` prints both, side by side.
func TestWatchFlood(t *testing.T) {
	f := newFlooded(t)
	const runs, frames = 5, 1_000_000
	var quiet, watched []float64
	var busy, lasted time.Duration
	var told uint64
	for run := range runs + 1 { // the first warms up
		alone := f.flood(frames)
		began := time.Now()
		cpu := f.cpu()
		w := f.watch()
		with := f.flood(frames)
		drops, packets := w.end()
		if run == 0 {
			continue
		}
		lasted += time.Since(began)
		busy += f.cpu() - cpu
		told += packets
		t.Logf("%.2f Mpps, %.2f Mpps watched: %d samples that tell of %d packets", alone, with, drops, packets)
		quiet, watched = append(quiet, alone), append(watched, with)
		if drops == 0 || drops > 5000 {
			t.Errorf("%d samples of %d packets", drops, frames)
		}
	}
	slices.Sort(quiet)
	slices.Sort(watched)
	ratio := watched[runs/2] / quiet[runs/2]
	share := float64(busy) / float64(lasted)
	t.Logf("median %.2f Mpps, watched %.2f: %.3f of it; the daemon took %.1f %% of a CPU while somebody watched", quiet[runs/2], watched[runs/2], ratio, 100*share)
	if ratio < 0.75 {
		t.Errorf("a flood is %.2f times as fast while somebody watches", ratio)
	}
	if share > 0.25 {
		t.Errorf("the daemon takes %.0f %% of a CPU", 100*share)
	}
	if least := uint64(runs * frames / 2); told < least || told > runs*frames+runs*generator.Batch {
		t.Errorf("samples tell of %d packets, want %d to %d", told, least, runs*frames)
	}
}

// TestExactFlood: exact accounting misses no packet of a flood, by entry and by source, also while entries change and the
// whole list is replaced. -v prints what it costs, beside sampled accounting.
func TestExactFlood(t *testing.T) {
	const frames = 1_000_000
	f := newFlooded(t)
	f.flood(frames) // warms up
	sampled := f.flood(frames)
	f.must(f.daemon.Stop())
	config := filepath.Join(t.TempDir(), "exact.toml")
	f.must(os.WriteFile(config, []byte("accounting = \"exact\"\n"), 0o600))
	f.daemon.Args = []string{"--config", config}
	f.must(f.daemon.Start())
	before := f.dropped()
	f.flood(frames)
	f.t.Logf("%.2f Mpps sampled, %.2f Mpps exact", sampled, f.flood(frames))

	ended := make(chan error, 1)
	go func() { // a change of each entry, and a whole list
		for i := range 8 {
			if _, err := f.daemon.Run("add_blacklist", "ip", fmt.Sprintf("10.%d.0.0/16", i), "--for", "4h"); err != nil {
				ended <- err
				return
			}
		}
		_, err := f.daemon.Ask(many(20_000), "import", "blacklist", "-")
		ended <- err
	}()
	f.flood(3 * frames)
	f.must(<-ended)
	f.flood(frames)

	var prefixes []string
	for i := range 8 {
		prefixes = append(prefixes, fmt.Sprintf("10.%d.0.0/16", i))
	}
	cl := control.Client{Socket: f.daemon.Socket}
	hits, err := cl.Hits(context.Background(), prefixes)
	f.must(err)
	var sum control.Hits
	for i, h := range hits {
		sum.Packets += h.Packets
		sum.Bytes += h.Bytes
		if h.Packets == 0 {
			t.Errorf("%s dropped nothing", prefixes[i])
		}
	}
	dropped := f.dropped() - before
	if sum.Packets != dropped || sum.Bytes != 60*dropped {
		t.Errorf("entries dropped %+v, the interface %d packets of 60 bytes", sum, dropped)
	}
	st, err := cl.Status(context.Background())
	f.must(err)
	if got := st.Sources[0]; got.Source != "manual" || got.Packets != dropped {
		t.Errorf("sources dropped %+v, the interface %d packets", st.Sources, dropped)
	}
	if len(st.Degraded) != 0 {
		t.Errorf("degraded: %q", st.Degraded)
	}
}

// many is a list of addresses that nobody floods from.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "172.%d.%d.%d\n", 32+i>>16, i>>8&255, i&255)
	}
	return b.String()
}

// flooded is a daemon behind a veth that somebody floods.
type flooded struct {
	t      *testing.T
	daemon *testenv.Daemon
	sender *generator.Sender
	to     *testenv.Namespace
}

func newFlooded(t *testing.T) *flooded {
	t.Helper()
	lab := testenv.New(t)
	f := &flooded{t: t}
	bin, err := built()
	f.must(err)
	bpffs, err := lab.MountBPF()
	f.must(err)
	from, err := lab.Namespace("flood")
	f.must(err)
	f.to, err = lab.Namespace("flooded")
	f.must(err)
	f.must(testenv.Connect(from, "gen0", f.to, "eth0"))
	f.must(f.to.Address("eth0", "192.0.2.2/24"))
	f.daemon = testenv.NewDaemon(bin, f.to, bpffs, "flooded")
	f.must(f.daemon.Start())
	for i := range 8 {
		_, err := f.daemon.Run("add_blacklist", "ip", fmt.Sprintf("10.%d.0.0/16", i))
		f.must(err)
	}
	frame := testenv.Frame{Source: netip.IPv4Unspecified(), Destination: netip.MustParseAddr("192.0.2.2"), SourcePort: 9, Port: 9, Payload: make([]byte, 18)}
	frame.From, err = from.MAC("gen0")
	f.must(err)
	frame.To, err = f.to.MAC("eth0")
	f.must(err)
	ring, numbers := make([]uint32, 1<<16), random(t)
	for i := range ring {
		ring[i] = binary.LittleEndian.Uint32([]byte{10, byte(numbers.IntN(8)), byte(numbers.IntN(256)), byte(numbers.IntN(256))})
	}
	f.sender, err = generator.New(from, frame, generator.Sources{Ring: ring})
	f.must(err)
	t.Cleanup(f.sender.Close)
	return f
}

func (f *flooded) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// flood sends frames, all of listed sources, and returns how many millions a second arrived and were dropped.
func (f *flooded) flood(frames int) float64 {
	f.t.Helper()
	before := f.dropped()
	took, err := f.sender.Send("gen0", frames)
	f.must(err)
	var last, now uint64
	f.must(testenv.Poll(5*time.Second, func() error {
		last, now = now, f.dropped()
		if now != last {
			return errors.New("frames are still arriving")
		}
		return nil
	}))
	return float64(now-before) / took.Seconds() / 1e6
}

func (f *flooded) dropped() uint64 {
	f.t.Helper()
	cl := control.Client{Socket: f.daemon.Socket}
	s, err := cl.Status(context.Background())
	f.must(err)
	for _, c := range s.Interfaces[0].Counters {
		if c.Family == "ipv4" && c.Reason == "drop_blacklisted" {
			return c.Packets
		}
	}
	f.t.Fatal("no such counter")
	return 0
}

// cpu is the time that the daemon has taken.
func (f *flooded) cpu() time.Duration {
	f.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.daemon.PID()))
	f.must(err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	var sum time.Duration
	for _, s := range fields[12:14] { // utime, stime
		n, err := strconv.Atoi(s)
		f.must(err)
		sum += time.Duration(n) * 10 * time.Millisecond // a tick
	}
	return sum
}

// watcher counts what one who watches gets to see.
type watcher struct {
	f              *flooded
	cancel         func()
	done           chan error
	drops, packets atomic.Uint64
}

// watch begins to watch; it returns once samples come.
func (f *flooded) watch() *watcher {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{f: f, cancel: cancel, done: make(chan error, 1)}
	f.t.Cleanup(cancel)
	cl := control.Client{Socket: f.daemon.Socket}
	go func() {
		for s, err := range cl.Watch(ctx, control.DropFilter{}) {
			if err != nil {
				w.done <- err
				return
			}
			if s.Drop != nil {
				w.drops.Add(1)
				w.packets.Add(s.Drop.Packets)
			}
		}
	}()
	f.must(testenv.Poll(10*time.Second, func() error {
		if _, err := f.sender.Send("gen0", 1); err != nil {
			return err
		}
		if w.drops.Load() == 0 {
			return errors.New("no sample came")
		}
		return nil
	}))
	w.drops.Store(0)
	w.packets.Store(0)
	return w
}

// end returns how many samples came, and of how many packets they tell.
func (w *watcher) end() (drops, packets uint64) {
	w.f.t.Helper()
	last := uint64(0)
	w.f.must(testenv.Poll(5*time.Second, func() error { // the daemon reads every 50 ms
		now := w.drops.Load()
		if now == last && now > 0 {
			return nil
		}
		last = now
		return errors.New("samples are still coming")
	}))
	w.cancel()
	if err := <-w.done; !strings.Contains(err.Error(), "context canceled") {
		w.f.t.Errorf("the watch ended: %v", err)
	}
	return w.drops.Load(), w.packets.Load()
}
