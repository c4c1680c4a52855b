package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// blocklist is a blacklist to measure with, one family, no end to any entry.
type blocklist struct {
	name     string
	origin   string         // where its entries come from
	prefixes []netip.Prefix // sorted as compile.Table.All yields them, unique
	v6       bool
}

// cells is what the kernel's maps are to hold: the same cell for every prefix, since nothing is whitelisted.
func (l blocklist) cells() iter.Seq2[netip.Prefix, compile.Cell] {
	return func(yield func(netip.Prefix, compile.Cell) bool) {
		for _, p := range l.prefixes {
			if !yield(p, compile.Cell{DropUntil: compile.Never, Source: lists.Manual}) {
				return
			}
		}
	}
}

// matcher answers what is listed, for drawing sources that are not.
func (l blocklist) matcher() func(netip.Addr) bool {
	t := new(bart.Lite)
	for _, p := range l.prefixes {
		t.Insert(p)
	}
	return t.Contains
}

func newList(name, origin string, prefixes []netip.Prefix) blocklist {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	prefixes = slices.Compact(prefixes)
	return blocklist{name: name, origin: origin, prefixes: prefixes, v6: prefixes[0].Addr().Is6()}
}

// collect draws prefixes until there are n different ones.
func collect(n int, draw func() netip.Prefix) []netip.Prefix {
	seen := make(map[netip.Prefix]struct{}, n)
	out := make([]netip.Prefix, 0, n)
	for len(out) < n {
		p := draw()
		if _, twice := seen[p]; !twice {
			seen[p] = struct{}{}
			out = append(out, p)
		}
	}
	return out
}

// hosts lists n random unicast addresses.
func hosts(name string, n int, r *rand.Rand) blocklist {
	// One bit an address tells what was drawn: a map of ten million would take seconds.
	seen := make([]uint64, 1<<26)
	prefixes := make([]netip.Prefix, 0, n)
	for len(prefixes) < n {
		a := unicast(r)
		if bit := uint64(1) << (a % 64); seen[a/64]&bit == 0 {
			seen[a/64] |= bit
			prefixes = append(prefixes, netip.PrefixFrom(address(a), 32))
		}
	}
	return newList(name, "random hosts", prefixes)
}

// unicast draws an address that could be a client's: 1.0.0.0 to 223.255.255.255 without loopback.
func unicast(r *rand.Rand) uint32 {
	for {
		if a := r.Uint32(); a>>24 >= 1 && a>>24 <= 223 && a>>24 != 127 {
			return a
		}
	}
}

func address(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a)))
}

// mixed is 30 % /24, 15 % /16 to /31, the rest hosts.
func mixed(name string, n int, r *rand.Rand) blocklist {
	return newList(name, "random: 30 % /24, 15 % /16 to /31, rest hosts", collect(n, func() netip.Prefix {
		bits := 32
		switch f := r.Float64(); {
		case f < 0.30:
			bits = 24
		case f < 0.45:
			bits = 16 + r.IntN(16)
		}
		return netip.PrefixFrom(address(unicast(r)), bits).Masked()
	}))
}

// mixed6 is 55 % /128, 30 % /64, 10 % /48, 5 % /32 in space that registries hand out.
func mixed6(name string, n int, r *rand.Rand) blocklist {
	return newList(name, "random: 55 % /128, 30 % /64, 10 % /48, 5 % /32", collect(n, func() netip.Prefix {
		bits := 128
		switch f := r.Float64(); {
		case f < 0.30:
			bits = 64
		case f < 0.40:
			bits = 48
		case f < 0.45:
			bits = 32
		}
		return netip.PrefixFrom(unicast6(r), bits).Masked()
	}))
}

func unicast6(r *rand.Rand) netip.Addr {
	blocks := []uint64{0x2001_0000, 0x2400_0000, 0x2600_0000, 0x2a00_0000}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], (blocks[r.IntN(4)]+uint64(r.IntN(1<<20)))<<32|uint64(r.Uint32()))
	binary.BigEndian.PutUint64(b[8:], r.Uint64())
	return netip.AddrFrom16(b)
}

// real120K reads the file that BENCH_DATA names, or ../shared/data/ipsum.txt.gz beside the checkout. Where neither is
// there it makes a list of the same size and says so: runs of up to 32 hosts in random /24s.
func real120K(root string, r *rand.Rand) (blocklist, error) {
	path := os.Getenv("BENCH_DATA")
	named := path != ""
	if !named {
		path = filepath.Join(root, "..", "shared", "data", "ipsum.txt.gz")
	}
	prefixes, err := readPrefixes(path, false)
	switch {
	case err == nil && len(prefixes) > 0:
		return newList("120 K hosts", "a real list, "+filepath.Base(path), prefixes), nil
	case err == nil:
		return blocklist{}, fmt.Errorf("read %s: no IPv4 address in it", path)
	case named || !errors.Is(err, os.ErrNotExist):
		return blocklist{}, err
	}
	var at, left uint32
	return newList("120 K hosts", "synthetic: hosts in runs of up to 32 a /24", collect(120_000, func() netip.Prefix {
		if left == 0 {
			at, left = unicast(r)&^255, 1+r.Uint32N(32)
		}
		left--
		return netip.PrefixFrom(address(at+r.Uint32N(256)), 32)
	})), nil
}

// bgp reads the routing table that comes with the tests of gaissmai/bart, of one family.
func bgp(root string, v6 bool) (blocklist, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gaissmai/bart")
	cmd.Dir = root
	dir, err := cmd.Output()
	if err != nil {
		return blocklist{}, fmt.Errorf("find the module bart: %w", err)
	}
	prefixes, err := readPrefixes(filepath.Join(strings.TrimSpace(string(dir)), "internal/tests/testdata/prefixes.txt.gz"), v6)
	if err != nil {
		return blocklist{}, err
	}
	name := "BGP table"
	if v6 {
		name = "BGP table, IPv6"
	}
	return newList(name, "a full routing table, test data of gaissmai/bart (MIT)", prefixes), nil
}

// readPrefixes reads the first field of each line; comments and the other family are passed over.
func readPrefixes(path string, v6 bool) ([]netip.Prefix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("read list %s: %w", path, err)
		}
	}
	var out []netip.Prefix
	scan := bufio.NewScanner(in)
	for n := 1; scan.Scan(); n++ {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		p, err := netip.ParsePrefix(fields[0])
		if err != nil {
			a, err := netip.ParseAddr(fields[0])
			if err != nil {
				return nil, fmt.Errorf("read list %s: line %d: %w", path, n, err)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is6() == v6 {
			out = append(out, p.Masked())
		}
	}
	return out, scan.Err()
}
