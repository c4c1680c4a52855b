package userspace

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// fakeKernel holds what the maps would, and fails as often as it is told to.
type fakeKernel struct {
	mu       sync.Mutex
	cells    map[netip.Prefix]compile.Cell
	firewall bool
	replaced int
	fail     int
}

var errFake = errors.New("kernel says no")

func (k *fakeKernel) broken() error {
	if k.fail > 0 {
		k.fail--
		return errFake
	}
	return nil
}

func (k *fakeKernel) Replace(_ context.Context, _ uint64, cells iter.Seq2[netip.Prefix, compile.Cell], _ int, _ func(int)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replaced++
	if err := k.broken(); err != nil {
		return err
	}
	k.cells = maps.Collect(cells)
	return nil
}

func (k *fakeKernel) Apply(_ uint64, rules []compile.Rule) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, r := range rules {
		if i > 0 || len(rules) == 1 { // fail in the middle where there is one
			if err := k.broken(); err != nil {
				return err
			}
		}
		if r.Remove {
			delete(k.cells, r.Prefix)
		} else {
			k.cells[r.Prefix] = r.Cell
		}
	}
	return nil
}

func (k *fakeKernel) Renew() error { return nil }

func (k *fakeKernel) SetFirewall(on bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.firewall = on
	return nil
}

func (k *fakeKernel) Lookup(a netip.Addr) (c compile.Cell, found bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	best := -1
	for p, cell := range k.cells {
		if p.Contains(a) && p.Bits() > best {
			best, c = p.Bits(), cell
		}
	}
	return c, best >= 0, nil
}

func (k *fakeKernel) Next(after netip.Prefix, n int) ([]netip.Prefix, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.SortedFunc(maps.Keys(k.cells), netip.Prefix.Compare)
	i, found := slices.BinarySearchFunc(all, after, netip.Prefix.Compare)
	if found {
		i++
	}
	return all[i:min(i+n, len(all))], nil
}

func (k *fakeKernel) holds() map[netip.Prefix]compile.Cell {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.cells)
}

// fakeStore hands out the updates it is given.
type fakeStore struct {
	first   *lists.Snapshot
	updates chan lists.Update
}

func (s *fakeStore) Watch(ctx context.Context, from uint64) (lists.Update, error) {
	if from == 0 {
		return lists.Update{Snapshot: s.first, Whole: true}, nil
	}
	select {
	case u := <-s.updates:
		return u, nil
	case <-ctx.Done():
		return lists.Update{}, ctx.Err()
	}
}

func blackIP(value string) lists.Entry {
	return lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: value}}}
}

func whiteIP(value string) lists.Entry {
	e := blackIP(value)
	e.List = lists.Whitelist
	return e
}

func snapshot(generation uint64, s lists.Settings, entries ...lists.Entry) *lists.Snapshot {
	b := lists.NewBuilder(nil)
	b.Set(s)
	for _, e := range entries {
		b.Put(e)
	}
	return b.Snapshot(generation)
}

// wantCells is what a fresh compilation of the snapshot gives.
func wantCells(s *lists.Snapshot, protected ...netip.Prefix) map[netip.Prefix]compile.Cell {
	t := compile.New()
	t.Reset(s, protected)
	return maps.Collect(t.All())
}

func equalCells(t *testing.T, got, want map[netip.Prefix]compile.Cell) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Fatalf("kernel holds other cells (-want +got):\n%s", d)
	}
}

// startEnforcement runs an enforcement over fakes inside a synctest bubble.
func startEnforcement(t *testing.T, k *fakeKernel, first *lists.Snapshot, protect func() []netip.Prefix) (*enforcement, *fakeStore) {
	t.Helper()
	s := &fakeStore{first: first, updates: make(chan lists.Update)}
	e := newEnforcement(k, s, slog.New(slog.DiscardHandler), protect, nil)
	if err := e.start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return e, s
}

func nothingProtected() []netip.Prefix { return nil }

func TestEnforcementFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := lists.DefaultSettings()
		k := &fakeKernel{}
		first := snapshot(1, on, blackIP("192.0.2.1"))
		e, s := startEnforcement(t, k, first, nothingProtected)
		equalCells(t, k.holds(), wantCells(first))
		if !k.firewall {
			t.Fatal("firewall is off after start")
		}

		white := whiteIP("192.0.2.0/24")
		second := snapshot(2, on, blackIP("192.0.2.1"), white)
		s.updates <- lists.Update{Snapshot: second, Changes: []lists.Change{{After: &white}}}
		if err := e.wait(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		equalCells(t, k.holds(), wantCells(second))
		if k.replaced != 1 {
			t.Fatalf("a change of one entry wrote the whole list: %d replacements", k.replaced)
		}

		off := on
		off.Firewall = false
		third := snapshot(3, off)
		s.updates <- lists.Update{Snapshot: third, Whole: true}
		if err := e.wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		equalCells(t, k.holds(), wantCells(third))
		if k.firewall {
			t.Fatal("firewall is on after it was switched off")
		}
	})
}

func TestEnforcementMendsAFailedChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{}
		first := snapshot(1, lists.DefaultSettings())
		e, s := startEnforcement(t, k, first, nothingProtected)

		black := blackIP("192.0.2.1")
		second := snapshot(2, lists.DefaultSettings(), black)
		k.mu.Lock()
		k.fail = 2 // the change and the replacement that follows it
		k.mu.Unlock()
		s.updates <- lists.Update{Snapshot: second, Changes: []lists.Change{{After: &black}}}
		if err := e.wait(t.Context(), 2); !errors.Is(err, errNotEnforced) || !errors.Is(err, errFake) {
			t.Fatalf("wait: %v; want the kernel's refusal", err)
		}
		if reached, failure := e.state(); reached != 1 || failure == nil {
			t.Fatalf("state says generation %d, failure %v", reached, failure)
		}
		time.Sleep(2 * retryEvery) // the bubble's clock
		if err := e.wait(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		equalCells(t, k.holds(), wantCells(second))
	})
}

func TestEnforcementFollowsProtectedAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{}
		var mu sync.Mutex
		var protected []netip.Prefix
		first := snapshot(1, lists.DefaultSettings(), blackIP("192.0.2.0/24"))
		startEnforcement(t, k, first, func() []netip.Prefix {
			mu.Lock()
			defer mu.Unlock()
			return protected
		})
		gateway := netip.MustParsePrefix("192.0.2.1/32")
		mu.Lock()
		protected = []netip.Prefix{gateway}
		mu.Unlock()
		time.Sleep(6 * time.Second) // the bubble's clock
		equalCells(t, k.holds(), wantCells(first, gateway))
		if c := k.holds()[gateway]; !c.Protected || c.PassUntil != compile.Never {
			t.Fatalf("gateway's cell is %+v", c)
		}
	})
}

func TestEnforcementWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := startEnforcement(t, &fakeKernel{}, snapshot(1, lists.DefaultSettings()), nothingProtected)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.wait(ctx, 5); !errors.Is(err, errNotEnforced) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("wait: %v", err)
		}
	})
}

// TestRefusedReplaceLeavesAWholeTable: the table that changes are worked out from never holds half of a list, however
// early the kernel refuses one.
func TestRefusedReplaceLeavesAWholeTable(t *testing.T) {
	const n = 50_000
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for i := range n {
		id, _ := lists.PrefixID(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}})
	}
	k := &fakeKernel{fail: 1}
	e := newEnforcement(k, nil, slog.New(slog.DiscardHandler), nil, nil)
	e.snapshot = b.Snapshot(2)
	if err := e.replace(t.Context(), nil); !errors.Is(err, errFake) {
		t.Fatal(err)
	}
	if v4, _ := e.table.Len(); v4 != n || e.inStep {
		t.Errorf("after a refusal the table holds %d of %d, in step %t", v4, n, e.inStep)
	}
	if err := e.replace(t.Context(), nil); err != nil || len(k.holds()) != n {
		t.Errorf("after another try the kernel holds %d of %d: %v", len(k.holds()), n, err)
	}
}
