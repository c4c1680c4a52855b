package loader

import (
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// key is the key of a trie.
type key interface{ bpf.KeyV4 | bpf.KeyV6 }

func keyV4(p netip.Prefix) bpf.KeyV4 {
	return bpf.KeyV4{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As4()}
}

func keyV6(p netip.Prefix) bpf.KeyV6 {
	return bpf.KeyV6{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As16()}
}

// clock turns wall-clock deadlines into those of the kernel and back.
type clock func(time.Time) time.Duration

// cell returns what the kernel is to hold for c at p.
func (boot clock) cell(p netip.Prefix, c compile.Cell) bpf.Cell {
	k := bpf.Cell{PassUntil: boot.deadline(c.PassUntil), DropUntil: boot.deadline(c.DropUntil), Source: uint8(c.Source), Length: uint8(p.Bits())}
	if c.Protected {
		k.Flags = bpf.CellProtected
	}
	return k
}

// deadline turns Unix seconds into ns of CLOCK_BOOTTIME. What ended before boot ended at 1: 0 means no entry.
func (boot clock) deadline(unix int64) uint64 {
	switch unix {
	case 0:
		return 0
	case compile.Never:
		return bpf.Never
	}
	return uint64(max(1, boot(time.Unix(unix, 0))))
}

// listed is the inverse of cell, to the second.
func (boot clock) listed(k bpf.Cell) compile.Cell {
	return compile.Cell{
		PassUntil: boot.unix(k.PassUntil), DropUntil: boot.unix(k.DropUntil),
		Source: lists.Source(k.Source), Protected: k.Flags&bpf.CellProtected != 0,
	}
}

func (boot clock) unix(deadline uint64) int64 {
	switch {
	case deadline == 0:
		return 0
	case deadline > math.MaxInt64:
		return compile.Never
	}
	now := time.Now()
	return now.Add(time.Duration(deadline) - boot(now)).Round(time.Second).Unix()
}

// bootTime converts by the present difference between the wall clock and CLOCK_BOOTTIME.
func bootTime(t time.Time) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error()) // cannot fail since Linux 2.6.39
	}
	now, left := time.Duration(ts.Nano()), time.Until(t)
	if left > math.MaxInt64-now {
		return math.MaxInt64 // in 292 years
	}
	return max(1, now+left)
}
