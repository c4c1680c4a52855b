package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// machine is a computer whose clocks the test turns. Safe for concurrent use.
type machine struct {
	mu   sync.Mutex
	wall time.Time
	up   time.Duration
	id   string
}

func newMachine() *machine {
	return &machine{wall: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC), up: time.Hour, id: "boot 1"}
}

func (m *machine) clock() ClockSource {
	return ClockSource{
		Wall:   func() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.wall },
		Boot:   func() time.Duration { m.mu.Lock(); defer m.mu.Unlock(); return m.up },
		BootID: func() string { m.mu.Lock(); defer m.mu.Unlock(); return m.id },
	}
}

// pass lets time go by.
func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.up = m.wall.Add(d), m.up+d
}

// step turns the wall clock.
func (m *machine) step(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = m.wall.Add(d)
}

// reboot starts the machine again after it was off for some time by its wall clock.
func (m *machine) reboot(off time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.up, m.id = m.wall.Add(off), 10*time.Second, m.id+"+"
}

// for_ returns a batch that blocks one address for a time.
func (m *machine) addFor(s *Store, id lists.ID, d time.Duration) lists.Batch {
	b := adds(0, 1, lists.Manual)
	b.Ops[0].Entry.ID, b.Ops[0].Entry.Expires = id, s.Clock().Now().Add(d)
	return b
}

func TestClock(t *testing.T) {
	m := newMachine()
	s, dir := open(t, Options{Clock: m.clock()})
	first := s.Clock().Now()
	if !first.Equal(m.wall) || s.Clock().Boot(first) != m.up || s.Clock().Boot(first.Add(-2*time.Hour)) != 1 {
		t.Fatalf("now %v is %v", first, s.Clock().Boot(first))
	}
	m.pass(time.Minute)
	m.step(-48 * time.Hour)
	if got := s.Clock().Now(); !got.Equal(first.Add(time.Minute)) || s.Clock().Skew() != -48*time.Hour {
		t.Errorf("after a step: %v, skew %v", got, s.Clock().Skew())
	}
	closeStore(t, s)
	m.pass(time.Minute)
	s, _ = open(t, Options{Dir: dir, Clock: m.clock()})
	if got := s.Clock().Now(); !got.Equal(first.Add(2 * time.Minute)) {
		t.Errorf("a restart: %v", got)
	}
	closeStore(t, s)
	m.reboot(time.Minute) // its wall clock is two days behind what the store has seen
	s, _ = open(t, Options{Dir: dir, Clock: m.clock()})
	if got := s.Clock().Now(); !got.Equal(first.Add(2 * time.Minute)) {
		t.Errorf("a reboot into the past: %v", got)
	}
	closeStore(t, s)
	m.step(96 * time.Hour)
	m.reboot(0)
	s, _ = open(t, Options{Dir: dir, Clock: m.clock()})
	if got := s.Clock().Now(); !got.Equal(m.wall) || s.Clock().Boot(got) != m.up {
		t.Errorf("a reboot into the future: %v", got)
	}
}

func TestMachineClock(t *testing.T) {
	s, _ := open(t, Options{})
	if d := s.Clock().Skew(); d.Abs() > time.Second {
		t.Errorf("skew %v", d)
	}
}

// TestRebootClamp: whatever the wall clock says after a reboot, no entry outlives its first time to live, and the
// shortened end is kept.
func TestRebootClamp(t *testing.T) {
	m := newMachine()
	s, dir := open(t, Options{Clock: m.clock()})
	apply(t, s, m.addFor(s, ipAt(1), time.Hour))
	apply(t, s, adds(2, 1, lists.Manual))
	m.pass(30 * time.Minute)
	apply(t, s, m.addFor(s, ipAt(3), 24*time.Hour))
	closeStore(t, s)
	// The database was copied back from an image whose clock was a year ahead: the time it has seen is in the past.
	tamperSeen(t, dir, s.Clock(), -365*24*time.Hour)
	m.step(-365 * 24 * time.Hour)
	m.reboot(0)
	for range 2 { // and again without a reboot
		s, _ = open(t, Options{Dir: dir, Clock: m.clock()})
		now := s.Clock().Now()
		ends := map[lists.ID]time.Duration{}
		for e := range s.Snapshot().Entries(lists.Blacklist) {
			if !e.Expires.IsZero() {
				ends[e.ID] = e.Expires.Sub(now)
			}
		}
		if len(ends) != 2 || ends[ipAt(1)] != time.Hour || ends[ipAt(3)] != 24*time.Hour {
			t.Errorf("left to live: %v", ends)
		}
		closeStore(t, s)
	}
}

// tamperSeen makes the database forget how late it has been.
func tamperSeen(t *testing.T, dir string, c *Clock, by time.Duration) {
	t.Helper()
	d, err := openDatabase(filepath.Join(dir, "lists.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = d.readMeta()
	if err == nil {
		err = d.transaction(func() error { return d.writeMeta(c.Now().Add(by)) })
	}
	if err := d.close(err); err != nil {
		t.Fatal(err)
	}
}

// TestExpiry: Run removes what has ended, in one generation, and says so in the history; steps of the wall clock
// hasten and delay nothing.
func TestExpiry(t *testing.T) {
	m := newMachine()
	s, _ := open(t, Options{Clock: m.clock()})
	for i := range 10 {
		apply(t, s, m.addFor(s, ipAt(i), time.Minute))
	}
	apply(t, s, m.addFor(s, ipAt(10), time.Hour))
	generation := s.Snapshot().Generation()
	m.step(24 * time.Hour)
	run(t, s)
	// The first copy shows that Run has been through.
	eventually(t, "Run has made a copy", func() bool { return !s.Status().LastSnapshot.IsZero() })
	if got := s.Snapshot(); got.Generation() != generation {
		t.Fatalf("a step of the wall clock removed entries: %d left", got.Len(lists.Blacklist))
	}
	m.pass(59 * time.Second)
	if s.Snapshot().Len(lists.Blacklist) != 11 {
		t.Error("removed too early")
	}
	m.pass(time.Second)
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	u, err := s.Watch(ctx, generation)
	if err != nil || u.Whole || len(u.Changes) != 10 || u.Snapshot.Generation() != generation+1 || u.Snapshot.Len(lists.Blacklist) != 1 {
		t.Fatalf("%+v, %v", u, err)
	}
	if late := time.Since(start); late > 5*time.Second { // at once, and what a busy machine adds to it
		t.Errorf("removed %v late", late)
	}
	n := 0
	for e, err := range s.History(ctx, 10) {
		if err != nil || e.Note != "expired" || e.Via != "expiry" || e.Before == nil || e.After != nil || e.Generation != generation+1 {
			t.Errorf("%+v, %v", e, err)
		}
		n++
	}
	if n != 10 {
		t.Errorf("%d events", n)
	}
}

func TestHistory(t *testing.T) {
	m := newMachine()
	s, dir := open(t, Options{Clock: m.clock()})
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: ipAt(1)}, Reason: "probing"}
	ctx := context.Background()
	batches := []lists.Batch{
		{By: "alice", Via: "cli", Ops: []lists.Operation{{Op: lists.OpAdd, Entry: e}}},
		{By: "bob", Via: "rest_api", Ops: []lists.Operation{{Op: lists.OpDelete, List: lists.Blacklist, ID: e.ID}}},
		adds(0, 5, lists.Decoy),
		{By: "bob", Via: "cli", Ops: []lists.Operation{{Op: lists.OpClearSources, List: lists.Blacklist, Sources: []lists.Source{lists.Decoy}}}},
		{By: "bob", Via: "cli", Ops: []lists.Operation{{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.Firewall = false; return s }}}},
	}
	for _, b := range batches {
		apply(t, s, b)
		m.pass(time.Second)
	}
	var got []lists.Event
	for event, err := range s.History(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, event)
	}
	if len(got) != 9 {
		t.Fatalf("%d events", len(got))
	}
	slices.Reverse(got)
	created := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	if g := got[0]; g.By != "alice" || g.Via != "cli" || g.Op != lists.OpAdd || g.Before != nil || g.After == nil || g.After.Reason != "probing" ||
		!g.After.Created.Equal(created) || !g.Time.Equal(created) || g.Generation != 2 {
		t.Errorf("%+v", g)
	}
	if g := got[1]; g.By != "bob" || g.Via != "rest_api" || g.Op != lists.OpDelete || g.After != nil || *g.Before != *got[0].After || g.Generation != 3 {
		t.Errorf("%+v", g)
	}
	if g := got[7]; g.Op != lists.OpClearSources || g.Count != 5 || g.Note != "blacklist decoy" {
		t.Errorf("%+v", g)
	}
	if g := got[8]; g.Op != lists.OpSet || g.Note != "firewall disabled" {
		t.Errorf("%+v", g)
	}
	for range s.History(ctx, 0) { // a reader may stop
		break
	}
	closeStore(t, s)
	for _, err := range s.History(ctx, 0) {
		if !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	s, _ = open(t, Options{Dir: dir, History: 3, Clock: m.clock()})
	apply(t, s, batches[0])
	n := 0
	for _, err := range s.History(ctx, 0) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != 3 {
		t.Errorf("%d events are kept, not 3", n)
	}
	tamper(t, s.path, "UPDATE history SET by = 'mallory'")
	for _, err := range s.History(ctx, 0) {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("a forged history: %v", err)
		}
	}
}

// TestCopies: copies are made when something changed, the oldest go, and the newest good one is what is restored.
func TestCopies(t *testing.T) {
	s, dir := open(t, Options{SnapshotEvery: time.Nanosecond, KeepSnapshots: 2})
	run(t, s)
	for i := range 4 {
		apply(t, s, adds(i, 1, lists.Manual))
		name := filepath.Join(dir, "snapshots", copyName(s.Snapshot().Generation()))
		eventually(t, name+" is made", func() bool { _, err := os.Stat(name); return err == nil })
	}
	eventually(t, "two copies are left", func() bool { c, err := s.snapshots(); return err == nil && len(c) == 2 && c[0].generation == 5 })
	closeStore(t, s)
	truncate(t, filepath.Join(dir, "lists.db"), 0)
	truncate(t, filepath.Join(dir, "snapshots", copyName(5)), 5000)
	s, _ = open(t, Options{Dir: dir})
	if st := s.Status(); s.Snapshot().Len(lists.Blacklist) != 3 || !strings.Contains(st.Degraded, "(generation 4)") {
		t.Fatalf("%d entries, %q", s.Snapshot().Len(lists.Blacklist), st.Degraded)
	}
	apply(t, s, adds(100, 1, lists.Manual))
	closeStore(t, s)
	if err := os.Remove(filepath.Join(dir, "lists.db")); err != nil { // gone altogether: not a new directory
		t.Fatal(err)
	}
	s, _ = open(t, Options{Dir: dir})
	if st := s.Status(); s.Snapshot().Len(lists.Blacklist) != 3 || st.Degraded == "" {
		t.Fatalf("%d entries, %q", s.Snapshot().Len(lists.Blacklist), st.Degraded)
	}
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}
