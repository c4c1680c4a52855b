package control_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

// fakeDrops yields what it is made of, then waits for the end.
type fakeDrops struct {
	batches chan []control.Drop
	lost    uint64
	endless bool
	taken   atomic.Int64
	closed  chan struct{}
}

func (f *fakeDrops) Next(ctx context.Context) ([]control.Drop, uint64, error) {
	f.taken.Add(1)
	if f.endless {
		return make([]control.Drop, 100), 0, ctx.Err()
	}
	select {
	case b := <-f.batches:
		return b, f.lost, nil
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
}

func (f *fakeDrops) Close() { close(f.closed) }

func TestWatch(t *testing.T) {
	packet := []byte{1, 2, 3}
	drop := control.Drop{Time: time.Unix(1, 0).UTC(), Interface: "eth0", Family: "ipv4", Reason: "drop_blacklisted", Protocol: "tcp",
		Source: "198.51.100.7", SourcePort: 1, Destination: "192.0.2.1", DestinationPort: 443, Entry: "198.51.100.0/24", EntrySource: "decoy",
		Prefix: "198.51.100.0/24", Packets: 3, Length: 60, Packet: packet}
	f := &fakeDrops{batches: make(chan []control.Drop, 1), lost: 7, closed: make(chan struct{})}
	var keeps atomic.Pointer[func(*control.Drop) bool]
	cl := controltest.Serve(t, controltest.NewBackend(), control.Options{Watch: func(keep func(*control.Drop) bool) control.Drops {
		keeps.Store(&keep)
		return f
	}})
	f.batches <- []control.Drop{drop}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	filter := control.DropFilter{Interfaces: []string{"eth0", "eth1"}, From: netip.MustParsePrefix("198.51.0.0/16"), To: netip.MustParsePrefix("192.0.2.1/32"),
		Protocols: []string{"tcp"}, Port: 443, Sources: []string{"decoy"}, Reasons: []string{"drop_blacklisted"}, Packet: true}
	var got []control.Watched
	var last error
	for w, err := range cl.Watch(ctx, filter) {
		if last = err; err != nil {
			break
		}
		if got = append(got, w); len(got) == 2 {
			cancel()
		}
	}
	if !strings.Contains(last.Error(), "context canceled") {
		t.Errorf("ended by %v", last)
	}
	if d := cmp.Diff([]control.Watched{{Lost: 7}, {Drop: &drop}}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	<-f.closed // the server notices that the client is gone

	keep := *keeps.Load()
	if !keep(&drop) {
		t.Error("the filter refuses what it asks for")
	}
	for name, change := range map[string]func(*control.Drop){
		"interface": func(d *control.Drop) { d.Interface = "eth2" }, "from": func(d *control.Drop) { d.Source = "198.52.0.1" },
		"no source": func(d *control.Drop) { d.Source = "" }, "to": func(d *control.Drop) { d.Destination = "192.0.2.2" },
		"protocol": func(d *control.Drop) { d.Protocol = "udp" }, "port": func(d *control.Drop) { d.DestinationPort = 80 },
		"source": func(d *control.Drop) { d.EntrySource = "manual" }, "reason": func(d *control.Drop) { d.Reason = "drop_short" },
	} {
		other := drop
		if change(&other); keep(&other) {
			t.Errorf("the filter takes another %s", name)
		}
	}
	if mapped := drop; keep(&mapped) {
		mapped.Source = "::ffff:198.51.100.7"
		if !keep(&mapped) {
			t.Error("an IPv4-mapped source is not taken for IPv4")
		}
	}
}

// TestWatchWithoutPackets: packets come only if they were asked for; what cannot be is refused.
func TestWatchWithoutPackets(t *testing.T) {
	f := &fakeDrops{batches: make(chan []control.Drop, 1), closed: make(chan struct{})}
	f.batches <- []control.Drop{{Packet: []byte{1}}}
	cl := controltest.Serve(t, controltest.NewBackend(), control.Options{Watch: func(func(*control.Drop) bool) control.Drops { return f }})
	for w, err := range cl.Watch(t.Context(), control.DropFilter{}) {
		if err != nil || w.Drop == nil || w.Drop.Packet != nil {
			t.Errorf("%+v, %v", w.Drop, err)
		}
		break
	}
	<-f.closed
	for _, err := range cl.Watch(t.Context(), control.DropFilter{Sources: []string{"nobody"}}) {
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.CodeInvalid {
			t.Errorf("an unknown source: %v", err)
		}
	}
	blind := controltest.Serve(t, controltest.NewBackend(), control.Options{})
	for _, err := range blind.Watch(t.Context(), control.DropFilter{}) {
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.CodeFailed {
			t.Errorf("nothing to watch: %v", err)
		}
	}
}

// TestWatchEnds: who does not read holds up nobody, and a daemon that ends waits for him no longer than a moment.
func TestWatchEnds(t *testing.T) {
	f := &fakeDrops{endless: true, closed: make(chan struct{})}
	dir := t.TempDir()
	s, err := control.New(control.Options{Backend: controltest.NewBackend(), StateDir: filepath.Join(dir, "state"),
		Watch: func(func(*control.Drop) bool) control.Drops { return f }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := control.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	stuck, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	request := "GET /v1/watch HTTP/1.1\r\nHost: portcullis\r\n"
	if os.Geteuid() != 0 {
		request += "Authorization: Basic YWRtaW46YWRtaW4=\r\n"
	}
	if _, err := stuck.Write([]byte(request + "\r\n")); err != nil {
		t.Fatal(err)
	}
	// Written until the socket is full: then nothing more is taken.
	poll(t, "the watch to begin", func() bool { return f.taken.Load() > 0 })
	last, same := int64(-1), 0
	poll(t, "the watch to get stuck", func() bool {
		if now := f.taken.Load(); now != last {
			last, same = now, 0
		}
		same++
		return same > 20
	})
	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the end took %v", took)
	}
	<-f.closed
}

func TestHits(t *testing.T) {
	cl := controltest.Serve(t, controltest.NewBackend(), control.Options{Hits: func(p netip.Prefix) (control.Hits, error) {
		return control.Hits{Packets: uint64(p.Bits()), Bytes: 100}, nil
	}})
	got, err := cl.Hits(t.Context(), []string{"198.51.100.0/24", "2001:db8::/32"})
	if d := cmp.Diff([]control.Hits{{Packets: 24, Bytes: 100}, {Packets: 32, Bytes: 100}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := cl.Hits(t.Context(), []string{"x"}); err == nil {
		t.Error("x is no prefix")
	}
	if _, err := controltest.Serve(t, controltest.NewBackend(), control.Options{}).Hits(t.Context(), []string{"10.0.0.0/8"}); err == nil ||
		!strings.Contains(err.Error(), "accounting is not exact") {
		t.Errorf("without exact accounting: %v", err)
	}
}

// poll waits until ok says yes.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-every.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
