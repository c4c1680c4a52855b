package bpf

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random packets")

// TestRandomPackets gives random packets under random lists to all programs, and compares every action with the
// model's and all counters after every few packets.
func TestRandomPackets(t *testing.T) {
	k := load(t)
	packets, perList := 200_000, 500
	if testing.Short() {
		packets = 10_000
	}
	t.Logf("seed %d (go test ./bpf -run RandomPackets -seed %d)", *seed, *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	reached := map[string]int{}
	for done := 0; done < packets; {
		w := randomWorld(r, bootNow(t))
		k.put(t, w)
		for range perList / batchSize {
			k.compareBatch(t, r, w, reached)
			done += batchSize
		}
	}
	for _, rule := range rules {
		if testing.Short() {
			break // too few packets to reach all
		}
		if rule.reason == PassIndex {
			continue // not in this mode
		}
		for _, f := range rule.families {
			if key := f.String() + " " + rule.reason.String(); reached[key] == 0 {
				t.Errorf("no random packet left by %s", key)
			}
		}
	}
	t.Logf("%v", reached)
}

const batchSize = 50

// put writes the world into the maps.
func (k *kernel) put(t testing.TB, w *world) {
	t.Helper()
	k.fill(t, 0, w.lists[0]...)
	k.fill(t, 1, w.lists[1]...)
	w.words.Layout = Layout
	k.set(t, w.words)
}

// compareBatch runs a few packets between two readings of the counters, which cost more than a packet.
func (k *kernel) compareBatch(t *testing.T, r *rand.Rand, w *world, reached map[string]int) {
	t.Helper()
	before := k.tallies(t)
	expected := before
	var log []string
	for range batchSize {
		layer3 := r.IntN(4) == 0
		frame := randomFrame(r, w, layer3)
		prog, linear := randomProgram(r, k, layer3, len(frame))
		if prog == ProgEth || prog == ProgL3 {
			frame = frame[:min(len(frame), linearMax)] // never sees several fragments
		}
		f, want := w.model(frame, layer3)
		action, ok := k.run(t, prog, frame, linear)
		if !ok {
			continue
		}
		note := fmt.Sprintf("%s, %d linear, %x: want %s %s", prog, linear, frame, f, want)
		if action != xdpAction(want) {
			t.Fatalf("seed %d: action %d of %s, words %+v, lists %v", *seed, action, note, w.words, w.lists)
		}
		log = append(log, note)
		reached[f.String()+" "+want.String()]++
		expected[Way(f, want)].Packets++
		expected[Way(f, want)].Bytes += uint64(len(frame))
	}
	if after := k.tallies(t); after != expected {
		for _, note := range log {
			t.Log(note)
		}
		t.Fatalf("seed %d: counters are off: wanted %s, but %s", *seed, moved(before, expected), moved(before, after))
	}
}

func randomProgram(r *rand.Rand, k *kernel, layer3 bool, length int) (prog string, linear int) {
	prog, linear = ProgEth, -1
	frags := k.frags && r.IntN(2) == 0
	switch {
	case layer3 && frags:
		prog = ProgL3Frags
	case layer3:
		prog = ProgL3
	case frags:
		prog = ProgEthFrags
	}
	if frags && r.IntN(3) > 0 {
		linear = r.IntN(length + 1)
	}
	return prog, linear
}

// randomWorld has lists of nested prefixes around few addresses, so that packets meet them and their edges.
func randomWorld(r *rand.Rand, now uint64) *world {
	w := &world{now: now, words: Control{Active: r.Uint32N(2)}}
	switch r.IntN(20) {
	case 0:
		w.words.Bypass = 1 + r.Uint32N(3)
	case 1:
		w.words.FirewallOff = 1
	}
	for side := range w.lists {
		seen := map[netip.Prefix]bool{}
		for range r.IntN(40) {
			a := randomAddr(r, w, r.IntN(2) == 0)
			p, _ := a.Prefix(r.IntN(a.BitLen() + 1))
			if seen[p] {
				continue
			}
			seen[p] = true
			w.lists[side] = append(w.lists[side], entry{p.String(), Cell{
				PassUntil: randomDeadline(r, now), DropUntil: randomDeadline(r, now),
				Source: uint8(r.IntN(8)), Flags: uint8(r.IntN(2)),
			}})
		}
	}
	return w
}

func randomDeadline(r *rand.Rand, now uint64) uint64 {
	return []uint64{0, 0, 0, 1, now - 1, now + hour, Never - 1, Never, Never}[r.IntN(9)]
}

// randomAddr is a random address, a special one, or the first or last of a listed prefix, or one beyond.
func randomAddr(r *rand.Rand, w *world, v4 bool) netip.Addr {
	var a16 [16]byte
	for i := range a16 {
		a16[i] = byte(r.Uint32())
	}
	a := netip.AddrFrom16(a16)
	if v4 {
		a = netip.AddrFrom4([4]byte(a16[:4]))
	}
	entries := w.lists[w.words.Active]
	if len(entries) > 0 && r.IntN(4) > 0 {
		p := netip.MustParsePrefix(entries[r.IntN(len(entries))].prefix)
		if p.Addr().Is4() != v4 {
			return a
		}
		// The prefix's bits, and behind them all zeros, all ones or noise.
		b, noise := p.Addr().AsSlice(), a.AsSlice()
		fill := r.IntN(3)
		for bit := p.Bits(); bit < len(b)*8; bit++ {
			mask := byte(0x80 >> (bit % 8))
			if fill == 1 || fill == 2 && noise[bit/8]&mask != 0 {
				b[bit/8] |= mask
			}
		}
		a, _ = netip.AddrFromSlice(b)
		switch r.IntN(4) {
		case 0:
			a = orSame(a.Next(), a)
		case 1:
			a = orSame(a.Prev(), a)
		}
	}
	return a
}

func orSame(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}

// randomFrame is a packet in a random encapsulation; often with a few bytes changed, sometimes cut.
func randomFrame(r *rand.Rand, w *world, layer3 bool) []byte {
	ip := randomIP(r, w)
	frame := ip
	if !layer3 {
		frame = randomLink(r, ip)
	}
	for range max(0, r.IntN(6)-3) {
		frame[r.IntN(min(len(frame), 100))] = byte(r.Uint32())
	}
	if r.IntN(8) == 0 {
		frame = frame[:r.IntN(len(frame))]
	}
	if len(frame) < minRun {
		frame = append(frame, make([]byte, minRun-len(frame))...)
	}
	return frame
}

func randomLink(r *rand.Rand, ip []byte) []byte {
	proto, ppp := outer(ip)
	var tail []byte
	if r.IntN(4) == 0 {
		proto, tail = protoPPPoE, pppoe(ppp)
		if r.IntN(2) == 0 {
			tail = pppoe(0, ppp)
		}
	}
	if r.IntN(16) == 0 {
		proto = uint16(r.Uint32())
	}
	tags := []int{0, 0, 0, 1, 1, 2, 3, 7, 8, 9, 10}[r.IntN(11)]
	next := func(i int) uint16 {
		if i == tags {
			return proto
		}
		return []uint16{protoQ, protoAD, protoQinQ}[r.IntN(3)]
	}
	frame := ethernet(next(0))
	for i := range tags {
		frame = append(frame, tag(uint16(r.IntN(4096)), next(i+1))...)
	}
	return join(frame, tail, ip)
}

func randomIP(r *rand.Rand, w *world) []byte {
	payload := udp()
	if r.IntN(20) == 0 {
		payload = make([]byte, r.IntN(5000))
	}
	if r.IntN(2) == 0 {
		source := randomAddr(r, w, true).String()
		if r.IntN(20) == 0 {
			source = "0.0.0.0"
		}
		return append(ipv4(source), payload...)
	}
	source := randomAddr(r, w, false).String()
	switch r.IntN(10) {
	case 0:
		source = "::"
	case 1:
		source = "fe80::" + fmt.Sprintf("%x", r.IntN(65536))
	case 2, 3, 4:
		source = "::ffff:" + randomAddr(r, w, true).String()
	}
	next, hops := byte(17), byte(64)
	if r.IntN(4) == 0 {
		next, hops, payload = 58, byte(254+r.IntN(2)), []byte{byte(131 + r.IntN(8)), 0, 0, 0}
	}
	return ipv6(source, next, hops, payload...)
}
