package userspace

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/userspace/control"
)

func add(e lists.Entry) lists.Operation { return lists.Operation{Op: lists.OpAdd, Entry: e} }

// TestCheckLockOut is long because it is one table.
func TestCheckLockOut(t *testing.T) {
	protected := []protection{
		{netip.MustParsePrefix("127.0.0.0/8"), riskLoopback, "loopback"},
		{netip.MustParsePrefix("192.0.2.1/32"), riskGateway, "default gateway"},
		{netip.MustParsePrefix("192.0.2.2/32"), riskOwnAddress, "own address of eth0"},
		{netip.MustParsePrefix("198.51.100.0/24"), riskProxy, "trusted proxy (configuration)"},
		{netip.MustParsePrefix("2001:db8::1/128"), riskOwnAddress, "own address of eth0"},
	}
	on := lists.DefaultSettings()
	off := on
	off.Firewall = false
	ofPeer := snapshot(5, on, blackIP("203.0.113.0/24"), whiteIP("203.0.113.9"))
	for24h := func(e lists.Entry) lists.Entry { e.Expires = time.Now().Add(24 * time.Hour); return e }
	for1h := func(e lists.Entry) lists.Entry { e.Expires = time.Now().Add(time.Hour); return e }
	tests := []struct {
		name   string
		before *lists.Snapshot
		ops    []lists.Operation
		peer   string
		accept []string
		want   []string // risks
	}{
		{name: "stranger", ops: []lists.Operation{add(blackIP("203.0.113.1"))}},
		{name: "widest allowed v4", ops: []lists.Operation{add(blackIP("10.0.0.0/8"))}},
		{name: "too wide v4", ops: []lists.Operation{add(blackIP("10.0.0.0/7"))}, want: []string{riskWide}},
		{name: "widest allowed v6", ops: []lists.Operation{add(blackIP("2a00::/19"))}},
		{name: "too wide v6", ops: []lists.Operation{add(blackIP("2a00::/18"))}, want: []string{riskWide}},
		{name: "gateway and self", ops: []lists.Operation{add(blackIP("192.0.2.0/24"))}, want: []string{riskGateway, riskOwnAddress}},
		{name: "part of a proxy range", ops: []lists.Operation{add(blackIP("198.51.100.7"))}, want: []string{riskProxy}},
		{name: "own v6", ops: []lists.Operation{add(blackIP("2001:db8::/64"))}, want: []string{riskOwnAddress}},
		{name: "loopback", ops: []lists.Operation{add(blackIP("127.0.0.1"))}, want: []string{riskLoopback}},
		{name: "accepted", ops: []lists.Operation{add(blackIP("192.0.2.0/24"))}, accept: []string{riskGateway, riskOwnAddress}},
		{name: "half accepted", ops: []lists.Operation{add(blackIP("192.0.2.0/24"))}, accept: []string{riskGateway}, want: []string{riskOwnAddress}},
		{name: "whitelisting is safe", ops: []lists.Operation{add(whiteIP("0.0.0.0/0"))}},
		{name: "own session", ops: []lists.Operation{add(blackIP("203.0.113.0/24"))}, peer: "203.0.113.9", want: []string{riskSSH}},
		{name: "own session, mapped", ops: []lists.Operation{add(blackIP("203.0.113.0/24"))}, peer: "::ffff:203.0.113.9", want: []string{riskSSH}},
		{name: "own session accepted", ops: []lists.Operation{add(blackIP("203.0.113.9"))}, peer: "203.0.113.9", accept: []string{riskSSH}},
		{name: "own session whitelisted in the same batch", peer: "203.0.113.9",
			ops: []lists.Operation{add(whiteIP("203.0.113.9")), add(blackIP("203.0.113.0/24"))}},
		{name: "whitelist entry of own session deleted", before: ofPeer, peer: "203.0.113.9",
			ops:  []lists.Operation{{Op: lists.OpDelete, List: lists.Whitelist, ID: whiteIP("203.0.113.9").ID}},
			want: []string{riskSSH}},
		{name: "whitelist cleared", before: ofPeer, peer: "203.0.113.9",
			ops: []lists.Operation{{Op: lists.OpClear, List: lists.Whitelist}}, want: []string{riskSSH}},
		{name: "firewall switched on", before: snapshot(5, off, blackIP("203.0.113.9")), peer: "203.0.113.9",
			ops: []lists.Operation{{Op: lists.OpSet, Settings: func(lists.Settings) lists.Settings { return on }}}, want: []string{riskSSH}},
		{name: "session that is cut off already", before: snapshot(5, on, blackIP("203.0.113.9")), peer: "203.0.113.9",
			ops: []lists.Operation{add(blackIP("203.0.113.0/24"))}},
		{name: "whitelist entry of own session ends first", peer: "203.0.113.9",
			ops: []lists.Operation{add(for1h(whiteIP("203.0.113.9"))), add(blackIP("203.0.113.0/24"))}, want: []string{riskSSH}},
		{name: "whitelist entry of own session ends last", peer: "203.0.113.9",
			ops: []lists.Operation{add(for24h(whiteIP("203.0.113.9"))), add(for1h(blackIP("203.0.113.0/24")))}},
		{name: "whitelist entry of own session is given an end", before: ofPeer, peer: "203.0.113.9",
			ops: []lists.Operation{add(for24h(whiteIP("203.0.113.9")))}, want: []string{riskSSH}},
		{name: "that end brought nearer", before: snapshot(5, on, blackIP("203.0.113.0/24"), for24h(whiteIP("203.0.113.9"))), peer: "203.0.113.9",
			ops: []lists.Operation{add(for1h(whiteIP("203.0.113.9")))}, want: []string{riskSSH}},
		{name: "that end put off", before: snapshot(5, on, blackIP("203.0.113.0/24"), for1h(whiteIP("203.0.113.9"))), peer: "203.0.113.9",
			ops: []lists.Operation{add(for24h(whiteIP("203.0.113.9")))}},
		{name: "blocked once more while whitelisted for a time", before: snapshot(5, on, blackIP("203.0.113.0/24"), for1h(whiteIP("203.0.113.9"))),
			peer: "203.0.113.9", ops: []lists.Operation{add(blackIP("203.0.113.9"))}},
		{name: "nonsense for a peer", ops: []lists.Operation{add(blackIP("203.0.113.9"))}, peer: "not an address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.before
			if before == nil {
				before = snapshot(5, on)
			}
			r := control.Request{Batch: lists.Batch{Ops: tt.ops}, AcceptRisk: tt.accept, Caller: control.Caller{SessionPeer: tt.peer}}
			_, err := checkLockOut(r, before, protected, time.Now())
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var wire *control.Error
			if !errors.As(err, &wire) || wire.Code != control.CodeRisk {
				t.Fatalf("error %v; want a risk", err)
			}
			if !slices.Equal(wire.Risks, tt.want) {
				t.Fatalf("risks %v, want %v", wire.Risks, tt.want)
			}
		})
	}
}

func TestStaysReachable(t *testing.T) {
	protected := []protection{{netip.MustParsePrefix("192.0.2.1/32"), riskGateway, "default gateway"}}
	r := control.Request{Batch: lists.Batch{Ops: []lists.Operation{add(blackIP("192.0.2.0/24"))}}, AcceptRisk: []string{riskGateway}}
	notes, err := checkLockOut(r, snapshot(1, lists.DefaultSettings()), protected, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"192.0.2.1 stays reachable: default gateway is never dropped"}
	if !slices.Equal(notes, want) {
		t.Fatalf("notes %q, want %q", notes, want)
	}
}

// TestGuardSideBySide: two changes, each harmless by itself, both asked about before either is made.
func TestGuardSideBySide(t *testing.T) {
	st, err := store.Open(store.Options{Dir: t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	setUp := lists.Batch{Ops: []lists.Operation{add(blackIP("203.0.113.0/24")), add(whiteIP("203.0.113.9")), add(whiteIP("203.0.113.8/30"))}}
	if _, err := st.Apply(t.Context(), setUp); err != nil {
		t.Fatal(err)
	}
	var requests []control.Request
	for _, id := range []lists.ID{whiteIP("203.0.113.9").ID, whiteIP("203.0.113.8/30").ID} {
		r := control.Request{Caller: control.Caller{SessionPeer: "203.0.113.9"}}
		r.Batch.Ops = []lists.Operation{{Op: lists.OpDelete, List: lists.Whitelist, ID: id}}
		if _, err := checkLockOut(r, st.Snapshot(), nil, time.Now()); err != nil {
			t.Fatalf("delete %s alone: %v", id, err)
		}
		requests = append(requests, r)
	}
	if _, err := st.ApplyIf(t.Context(), requests[0].Batch, allow(requests[0], st.Clock().Now)); err != nil {
		t.Fatal(err)
	}
	before := st.Snapshot()
	_, err = st.ApplyIf(t.Context(), requests[1].Batch, allow(requests[1], st.Clock().Now))
	wire, ok := wireError(err).(*control.Error)
	if !errors.Is(err, store.ErrRefused) || !ok || !slices.Equal(wire.Risks, []string{riskSSH}) || st.Snapshot() != before {
		t.Fatalf("%v; want the risk %s, and nothing changed", err, riskSSH)
	}
	requests[1].AcceptRisk = []string{riskSSH}
	if _, err := st.ApplyIf(t.Context(), requests[1].Batch, allow(requests[1], st.Clock().Now)); err != nil {
		t.Fatalf("accepted: %v", err)
	}
}

// TestWideInTheEnd: what is added one by one adds up too.
func TestWideInTheEnd(t *testing.T) {
	for _, tt := range []struct {
		first   string
		bits    int
		allowed int
		within  string // lies in what is listed by then
	}{{"0.0.0.0", 8, 64, "9.128.0.0/9"}, {"2a00::", 19, 1 << 14, "2a00::/20"}} {
		b := lists.NewBuilder(nil)
		b.Set(lists.DefaultSettings())
		ask := func(s *lists.Snapshot, e lists.Entry, accept ...string) error {
			_, err := checkLockOut(control.Request{AcceptRisk: accept, Batch: lists.Batch{Ops: []lists.Operation{add(e)}}}, s, nil, time.Now())
			return err
		}
		all := eachOf(tt.first, tt.bits, tt.allowed+1)
		for _, p := range all[:tt.allowed-1] {
			b.Put(blackIP(p.String()))
		}
		s := b.Snapshot(1)
		if err := ask(s, blackIP(all[tt.allowed-1].String())); err != nil {
			t.Errorf("the %dth /%d: %v", tt.allowed, tt.bits, err)
		}
		b = lists.NewBuilder(s)
		b.Put(blackIP(all[tt.allowed-1].String()))
		b.Put(blackIP(tt.within)) // counts once
		s = b.Snapshot(2)
		one := blackIP(all[tt.allowed].String())
		wire, _ := errors.AsType[*control.Error](ask(s, one))
		if wire == nil || !slices.Equal(wire.Risks, []string{riskWide}) || !strings.Contains(wire.Message, "with it the blacklist would cover more than") {
			t.Errorf("one more: %v", wire)
		}
		if err := ask(s, one, riskWide); err != nil {
			t.Errorf("accepted: %v", err)
		}
		host := blackIP(all[tt.allowed].Addr().String())
		for _, e := range []lists.Entry{host, blackIP(tt.within), blackIP(all[3].String())} {
			if err := ask(s, e); err != nil {
				t.Errorf("%s: %v", e.ID, err)
			}
		}
	}
}

// eachOf are n networks of that length, side by side.
func eachOf(first string, bits, n int) []netip.Prefix {
	a := netip.MustParseAddr(first)
	var all []netip.Prefix
	for range n {
		p := netip.PrefixFrom(a, bits)
		all = append(all, p)
		b := a.AsSlice()
		for i := (bits - 1) / 8; i >= 0; i-- {
			step := byte(1)
			if i == (bits-1)/8 {
				step = 1 << (7 - (bits-1)%8)
			}
			if b[i] += step; b[i] >= step {
				break
			}
		}
		a, _ = netip.AddrFromSlice(b)
	}
	return all
}

// TestWideTogether: entries that are each allowed may not add up to much of the Internet; feeds of small networks may.
func TestWideTogether(t *testing.T) {
	listed := snapshot(3, lists.DefaultSettings(), blackIP("16.0.0.0/8"))
	tests := []struct {
		name     string
		prefixes []netip.Prefix
		refused  string
	}{
		{"one of the widest", eachOf("10.0.0.0", 8, 1), ""},
		{"two of the widest", eachOf("10.0.0.0", 8, 2), "its entries together cover 2 times as much as a /8"},
		{"all of IPv4", eachOf("0.0.0.0", 8, 256), "its entries together cover 255 times as much as a /8"},
		{"a /8 in parts", eachOf("10.0.0.0", 16, 256), ""},
		{"a /8 in parts and one more", eachOf("10.0.0.0", 16, 257), "its entries together cover 1.004 times as much as a /8"},
		{"what lies inside another counts once", append(eachOf("10.0.0.0", 8, 1), eachOf("10.0.0.0", 16, 256)...), ""},
		{"what is listed already does not count", append(eachOf("16.0.0.0", 12, 16), eachOf("10.0.0.0", 8, 1)...), ""},
		{"a feed of /24s", eachOf("20.0.0.0", 24, 200_000), ""},
		{"two of the widest of IPv6", eachOf("2a00::", 19, 2), "its entries together cover 2 times as much as a /19"},
		{"a feed of /48s", eachOf("2a00::", 48, 1000), ""},
	}
	for _, tt := range tests {
		pack, ops := new(lists.Pack), []lists.Operation(nil)
		for _, p := range tt.prefixes {
			e := blackIP(p.String())
			if err := pack.Add(e); err != nil {
				t.Fatal(err)
			}
			ops = append(ops, add(e))
		}
		for how, ops := range map[string][]lists.Operation{"batch": ops, "import": {{Op: lists.OpImport, Pack: pack}}} {
			r := control.Request{Batch: lists.Batch{Ops: ops}}
			_, err := checkLockOut(r, listed, nil, time.Now())
			wire, _ := errors.AsType[*control.Error](err)
			if (err != nil) != (tt.refused != "") || err != nil && (!strings.Contains(wire.Message, tt.refused) || !slices.Equal(wire.Risks, []string{riskWide})) {
				t.Errorf("%s, %s: %v", tt.name, how, err)
			}
			if r.AcceptRisk = []string{riskWide}; err != nil {
				if _, err := checkLockOut(r, listed, nil, time.Now()); err != nil {
					t.Errorf("%s, %s, accepted: %v", tt.name, how, err)
				}
			}
		}
	}
}
