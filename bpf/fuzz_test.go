package bpf

import "testing"

// FuzzPacket holds the parser against the model: any bytes, any fragment boundary, lists that give every verdict.
//
//	go test ./bpf -run '^$' -fuzz FuzzPacket -fuzztime 60s -fuzzminimizetime 20x
func FuzzPacket(f *testing.F) {
	k := load(f)
	w := &world{now: bootNow(f)}
	w.lists[0] = []entry{
		{"0.0.0.0/1", listed},
		{"128.0.0.0/2", Cell{PassUntil: 1, DropUntil: w.now - 1}},
		{"192.0.0.0/3", both},
		{"224.0.0.0/4", protected},
		{"::/1", listed},
		{"8000::/2", Cell{PassUntil: 1, DropUntil: Never}},
		{"fe80::/10", listed},
		{"ff00::/8", both},
	}
	w.lists[1] = []entry{{"0.0.0.0/0", both}, {"::/0", both}, {"::ffff:0:0/96", listed}}
	w.words.Layout = Layout
	k.put(f, w)

	for _, r := range ipRows() {
		for i, e := range encapsulations {
			frame := e.wrap(r.packet)
			f.Add(frame[:min(len(frame), 200)], e.layer3, uint8(i), uint8(0))
		}
	}
	for i, r := range frameRows() {
		f.Add(r.packet, false, uint8(i), uint8(i%8))
	}
	f.Fuzz(func(t *testing.T, frame []byte, layer3 bool, linear, words uint8) {
		frame = frame[:min(len(frame), 2048)] // the headers are in the first bytes
		w := *w
		w.words.Active = uint32(words & 1)
		w.words.Bypass = uint32(words >> 1 & 1)
		w.words.FirewallOff = uint32(words >> 2 & 1)
		k.set(t, w.words)
		family, want := w.model(frame, layer3)
		progs := []string{ProgEth, ProgEthFrags}
		if layer3 {
			progs = []string{ProgL3, ProgL3Frags}
		}
		k.expect(t, progs[0], frame, -1, family, want)
		if k.frags {
			k.expect(t, progs[1], frame, -1, family, want)
			k.expect(t, progs[1], frame, int(linear), family, want)
		}
	})
}
