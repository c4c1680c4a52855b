package scenario

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestSoak does random operations (adds, deletes, clears, replacements of a whole list, imports, entries that end,
// restarts and kills) and compares the daemon's lists with a map, and the verdicts on packets with the reference matcher.
// After the last restart nothing of the daemon may grow: memory, goroutines, descriptors. A million operations with -long.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	total := times(15_000, 1_000_000)
	calm := total * 6 / 10 // no restart from here on
	var before sizes
	began := time.Now()
	for checked := 0; s.ops < total; {
		s.step()
		if s.ops < calm && s.r.IntN(times(100, 600)) == 0 {
			s.restart()
		}
		if s.ops >= checked+times(1500, 4000) {
			if s.ops/100_000 > checked/100_000 {
				t.Logf("%d operations, %v", s.ops, time.Since(began).Round(time.Second))
			}
			checked = s.ops
			s.compare()
		}
		if s.ops >= calm && before == (sizes{}) {
			s.restart()
			for range 200 { // what is made once is made
				s.step()
			}
			s.compare()
			before = s.measure()
		}
	}
	s.compare()
	after := s.measure()
	t.Logf("%d operations in %v (%d batches, %d restarts, %d imports): %d entries and %d verdicts compared, none differed",
		s.ops, time.Since(began).Round(time.Second), s.batches, s.restarts, s.imports, s.entries, s.verdicts)
	t.Logf("lists cleared, at 60 %% of them and at the end: %v, %v", before, after)
	if after.goroutines > before.goroutines+2 || after.descriptors > before.descriptors+2 || after.memory > before.memory*5/4+(24<<20) {
		t.Errorf("the daemon has grown: %v, then %v", before, after)
	}
}

// soak is a daemon and what its lists must be.
type soak struct {
	*rig
	r      *rand.Rand
	client control.Client
	model  map[lists.Key]int64 // end in Unix seconds, 0: never

	ops, batches, restarts, imports int // done
	entries, verdicts               int // compared
}

func newSoak(t *testing.T) *soak {
	s := &soak{rig: newRig(t), r: random(t), model: make(map[lists.Key]int64)}
	s.client = control.Client{Socket: s.daemon.Socket}
	s.daemon.Args = []string{"--metrics", metricsAddress}
	s.must(s.daemon.Start())
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	readers.Go(func() { // somebody always looks; that it fails during restarts is no matter
		for ctx.Err() == nil {
			_, _ = s.client.Status(ctx)
			_, _ = s.client.Why(ctx, []string{"10.1.128.7"})
			for range s.client.List(ctx, lists.Whitelist) {
				break // goes away in the middle
			}
			wait(20 * time.Millisecond)
		}
	})
	t.Cleanup(func() { stop(); readers.Wait() })
	return s
}

// soakBases are what prefixes nest around: none is of the rig's own networks.
var soakBases = []netip.Addr{
	netip.MustParseAddr("10.1.128.7"), netip.MustParseAddr("10.1.127.255"), netip.MustParseAddr("45.7.0.0"),
	netip.MustParseAddr("2a00:1::8000:1"), netip.MustParseAddr("2a00:1:0:1::"), netip.MustParseAddr("fd00:1:2:3:4:5:6:7"),
}

func (s *soak) address() netip.Addr {
	base := soakBases[s.r.IntN(len(soakBases))]
	b := base.AsSlice()
	for range s.r.IntN(4) {
		bit := len(b)*8 - 1 - s.r.IntN(12)
		b[bit/8] ^= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (s *soak) id() lists.ID {
	kind := lists.Kind(1 + s.r.IntN(12))
	switch {
	case kind == lists.KindCookie, kind == lists.KindAPIKey:
		return lists.ID{Kind: kind, Name: "name", Value: fmt.Sprint("value ", s.r.IntN(500))}
	case kind == lists.KindToken, kind == lists.KindUsername:
		return lists.ID{Kind: kind, Value: fmt.Sprint("value ", s.r.IntN(500))}
	}
	a := s.address()
	bits := a.BitLen()
	if s.r.IntN(2) == 0 {
		bits -= s.r.IntN(20)
	}
	id, ok := lists.PrefixID(netip.PrefixFrom(a, bits).Masked())
	if !ok {
		panic("not a prefix")
	}
	return id
}

// entry draws one, with an end between two seconds and two minutes from now, or none.
func (s *soak) entry() (lists.Key, int64) {
	k := lists.Key{List: lists.Whitelist, Source: lists.Manual, ID: s.id()}
	if s.r.IntN(3) > 0 {
		k.List, k.Source = lists.Blacklist, lists.Source(1+s.r.IntN(int(lists.MissingToken)))
	}
	if s.r.IntN(3) > 0 {
		return k, 0
	}
	return k, time.Now().Unix() + 3 + s.r.Int64N(120)
}

func operation(k lists.Key, end int64) control.Operation {
	op := control.Operation{
		Op: "add", List: k.List.String(), Kind: k.ID.Kind.String(), Name: k.ID.Name, Value: k.ID.Value, Source: k.Source.String(),
	}
	if end > 0 {
		op.Until = time.Unix(end, 0).UTC().Format(time.RFC3339)
	}
	return op
}

// step does one batch or one import.
func (s *soak) step() {
	s.t.Helper()
	if s.r.IntN(150) == 0 {
		s.bulk()
		return
	}
	n := 1
	if s.r.IntN(2) == 0 {
		n += s.r.IntN(40)
	}
	var ops []control.Operation
	next := maps.Clone(s.model)
	for range n {
		ops = append(ops, s.one(next))
	}
	if s.r.IntN(300) == 0 { // the whole list is replaced
		ops = append(ops, clearList(next, lists.Blacklist))
		for range 200 {
			ops = append(ops, s.add(next))
		}
	}
	if _, err := s.client.Apply(context.Background(), ops); err != nil {
		s.t.Fatalf("batch of %d: %v", len(ops), err)
	}
	s.model = next
	s.batches++
	s.ops += len(ops)
}

// one draws an operation and does it to the model.
func (s *soak) one(model map[lists.Key]int64) control.Operation {
	switch s.r.IntN(4000) {
	case 0:
		return clearList(model, lists.Whitelist)
	case 1:
		return clearList(model, lists.Blacklist)
	case 2:
		source := lists.Source(1 + s.r.IntN(int(lists.MissingToken)))
		maps.DeleteFunc(model, func(k lists.Key, _ int64) bool { return k.List == lists.Blacklist && k.Source == source })
		return control.Operation{Op: "clear_sources", List: "blacklist", Sources: []string{source.String()}}
	}
	if s.r.IntN(5) < 3 || len(model) == 0 {
		return s.add(model)
	}
	for k := range model { // any: the order of a map is random
		maps.DeleteFunc(model, func(o lists.Key, _ int64) bool { return o.List == k.List && o.ID == k.ID })
		op := operation(k, 0)
		op.Op, op.Source = "delete", ""
		return op
	}
	panic("not reached")
}

func (s *soak) add(model map[lists.Key]int64) control.Operation {
	k, end := s.entry()
	model[k] = end
	return operation(k, end)
}

func clearList(model map[lists.Key]int64, l lists.List) control.Operation {
	maps.DeleteFunc(model, func(k lists.Key, _ int64) bool { return k.List == l })
	return control.Operation{Op: "clear", List: l.String()}
}

// bulk imports some hundred entries.
func (s *soak) bulk() {
	s.t.Helper()
	next := maps.Clone(s.model)
	n := 100 + s.r.IntN(400)
	_, err := s.client.Import(context.Background(), control.ImportOptions{}, func(yield func(control.ImportEntry, error) bool) {
		for range n {
			k, end := s.entry()
			e := control.ImportEntry{Entry: lists.Entry{Key: k}}
			if end > 0 {
				e.Expires = time.Unix(end, 0)
			}
			next[k] = end
			if !yield(e, nil) {
				return
			}
		}
	})
	if err != nil {
		s.t.Fatalf("import of %d: %v", n, err)
	}
	s.model = next
	s.imports++
	s.ops += n
}

func (s *soak) restart() {
	s.t.Helper()
	if s.r.IntN(2) == 0 {
		s.must(s.daemon.Kill())
	} else {
		s.must(s.daemon.Stop())
	}
	s.must(s.daemon.Start())
	s.restarts++
}

// near is how close to its end an entry is not looked at: it may be there or not.
const near = 2

// compare fails where the daemon's lists are not the model, or packets are judged otherwise than by the reference.
func (s *soak) compare() {
	s.t.Helper()
	now := time.Now().Unix()
	maps.DeleteFunc(s.model, func(_ lists.Key, end int64) bool { return end > 0 && end <= now-near })
	listed := make(map[lists.Key]int64)
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		for e, err := range s.client.List(context.Background(), l) {
			s.must(err)
			end := int64(0)
			if !e.Expires.IsZero() {
				end = e.Expires.Unix()
			}
			listed[e.Key] = end
		}
	}
	now = time.Now().Unix()
	both := maps.Clone(listed)
	maps.Copy(both, s.model)
	for k := range both {
		want, expected := s.model[k]
		got, found := listed[k]
		if end := max(got, want); end > 0 && end <= now+near {
			continue
		}
		if expected != found || got != want {
			s.t.Fatalf("after %d operations: %+v: listed %v with end %d, want %v with end %d", s.ops, k, found, got, expected, want)
		}
		s.entries++
	}
	s.compareVerdicts()
}

func (s *soak) compareVerdicts() {
	s.t.Helper()
	s.cleanStatus()
	b := lists.NewBuilder(nil)
	for k, end := range s.model {
		e := lists.Entry{Key: k, Created: time.Unix(1, 0)}
		if end > 0 {
			e.Expires = time.Unix(end, 0)
		}
		b.Put(e)
	}
	reference := b.Snapshot(1)
	var addrs []netip.Addr
	for range 150 {
		addrs = append(addrs, s.address())
	}
	probe := s.probe()
	defer probe.close()
	began := time.Now()
	dropped := probe.all(addrs)
	for i, a := range addrs {
		before, _ := lists.Match(reference, a, began.Add(-near*time.Second))
		after, by := lists.Match(reference, a, time.Now().Add(near*time.Second))
		if before != after {
			continue
		}
		s.verdicts++
		if want := after == lists.Drop; dropped[i] != want {
			s.t.Fatalf("after %d operations: %s: dropped %v, want %v by %+v", s.ops, a, dropped[i], want, by)
		}
	}
}

const metricsAddress = "127.0.0.1:9101"

// sizes are what must not grow.
type sizes struct {
	goroutines, descriptors int
	memory                  int // bytes, resident
}

func (z sizes) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d MB", z.goroutines, z.descriptors, z.memory>>20)
}

// measure empties the lists and takes the least of what is seen in a while.
func (s *soak) measure() sizes {
	s.t.Helper()
	ops := []control.Operation{clearList(s.model, lists.Whitelist), clearList(s.model, lists.Blacklist)}
	if _, err := s.client.Apply(context.Background(), ops); err != nil {
		s.t.Fatal(err)
	}
	var least sizes
	for i := range 20 {
		wait(50 * time.Millisecond)
		now := s.sizes()
		if i == 0 {
			least = now
		}
		least.goroutines, least.descriptors = min(least.goroutines, now.goroutines), min(least.descriptors, now.descriptors)
		least.memory = min(least.memory, now.memory)
	}
	return least
}

// sizes reads the daemon's metrics.
func (s *soak) sizes() (z sizes) {
	s.t.Helper()
	text := s.metrics()
	for name, to := range map[string]*int{
		"go_goroutines": &z.goroutines, "process_open_fds": &z.descriptors, "process_resident_memory_bytes": &z.memory,
	} {
		_, after, _ := strings.Cut(text, "\n"+name+" ")
		var value float64
		if _, err := fmt.Sscan(after, &value); err != nil || value == 0 {
			s.t.Fatalf("no %s in the metrics: %v", name, err)
		}
		*to = int(value)
	}
	return z
}

// aliveWithin is how long an answer may take on a busy machine.
const aliveWithin = 10 * time.Second

// metrics reads those of a daemon that shows them at metricsAddress.
func (r *rig) metrics() string {
	r.t.Helper()
	conn, err := r.Gateway.Dial("tcp", nil, netip.MustParseAddrPort(metricsAddress), aliveWithin)
	r.must(err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /metrics HTTP/1.0\r\nHost: %s\r\n\r\n", metricsAddress)
	r.must(err)
	var text bytes.Buffer
	_, err = text.ReadFrom(conn)
	r.must(err)
	return text.String()
}
