// Package generator sends millions of frames a second between the namespaces of a lab, each from another source.
//
// The sender is an XDP program that the kernel runs on live frames (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18): it writes
// the next source into each frame and sends it out of a veth. It only ever sends into namespaces of the lab, as many
// frames as it is told to. Needs root.
package generator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/testenv"
)

// perBlock is how many sources share an element of the ring.
const perBlock = 16

// Batch is how many frames the kernel makes at a time: Send rounds up to it.
const Batch = 64

// most bounds a Send: at the slowest receiver a minute or two.
const most = 100_000_000

// Sources is where frames come from.
type Sources struct {
	// Ring is gone through again and again, also from one Send to the next. Each in network order, as in a packet,
	// read as a little endian number. Its length is a power of two, at least 16.
	Ring []uint32
	// Spoof draws from all 2^32 addresses instead.
	Spoof bool
}

// Sender sends frames. Not safe for concurrent use.
type Sender struct {
	from  *testenv.Namespace
	c     *ebpf.Collection
	frame []byte
}

// New makes a sender of the frame, which is plain Ethernet and IPv4 and whose source is replaced. Close it after use.
func New(from *testenv.Namespace, frame testenv.Frame, s Sources) (*Sender, error) {
	if !frame.Source.Is4() || len(frame.Tags) > 0 {
		return nil, errors.New("make sender: the frame is not plain IPv4")
	}
	if n := len(s.Ring); !s.Spoof && (n < perBlock || bits.OnesCount(uint(n)) != 1) {
		return nil, fmt.Errorf("make sender: %d sources: their number must be a power of two, at least %d", n, perBlock)
	}
	frame.Source = netip.IPv4Unspecified()
	t := &Sender{from: from, frame: frame.Bytes()}
	spec, err := loadGenerator()
	if err != nil {
		return nil, fmt.Errorf("make sender: %w", err)
	}
	ring := max(perBlock, len(s.Ring))
	spec.Maps[generatorMapRing].MaxEntries = uint32(ring / perBlock)
	err = errors.Join(
		spec.Variables[generatorVarSources].Set(uint32(ring)),
		spec.Variables[generatorVarSpoof].Set(s.Spoof),
		spec.Variables[generatorVarChecksum].Set(headerSum(t.frame)),
	)
	if err != nil {
		return nil, fmt.Errorf("make sender: %w", err)
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{generatorProgGenerate: spec.Programs[generatorProgGenerate]}
	if t.c, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("load sender: %w", err)
	}
	if s.Spoof {
		return t, nil
	}
	if err := WriteRing(t.c.Maps[generatorMapRing], s.Ring); err != nil {
		t.c.Close()
		return nil, fmt.Errorf("make sender: %w", err)
	}
	return t, nil
}

// WriteRing copies words to the start of a map: an array that can be mapped, with elements of whole words.
func WriteRing(m *ebpf.Map, words []uint32) error {
	size := int(m.MaxEntries()) * int(m.ValueSize())
	if len(words)*4 > size {
		return fmt.Errorf("write ring: %d words do not fit into %d bytes", len(words), size)
	}
	page := unix.Getpagesize()
	mem, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	copy(unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), len(words)), words)
	return unix.Munmap(mem)
}

// headerSum adds the words of the IP header as the program does, without its check.
func headerSum(frame []byte) (sum uint32) {
	const ip = 14
	for i := ip; i < ip+20; i += 2 {
		if i != ip+10 {
			sum += uint32(binary.LittleEndian.Uint16(frame[i:]))
		}
	}
	return sum
}

// xdpMD is struct xdp_md as a test run takes it.
type xdpMD struct{ Data, DataEnd, DataMeta, Ifindex, Queue, Egress uint32 }

// Send sends count frames, rounded up to whole batches, out of an interface of the sender's namespace, whose other end
// must be up and have an XDP program or GRO. The kernel does the receiver's work in the sender's thread, after every
// batch; took is the CPU time of both. So it does not matter who else wants the CPU, and the thread is a real-time one
// meanwhile to keep that work from moving to ksoftirqd. How many frames arrived only the receiver knows.
func (s *Sender) Send(iface string, count int) (took time.Duration, err error) {
	count = (count + Batch - 1) / Batch * Batch
	if count > most {
		return 0, fmt.Errorf("send %d frames: at most %d at a time", count, most)
	}
	index, err := s.from.Index(iface)
	if err != nil {
		return 0, err
	}
	options := &ebpf.RunOptions{
		Data: s.frame, Repeat: uint32(count), BatchSize: Batch, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		Context: xdpMD{DataEnd: uint32(len(s.frame)), Ifindex: uint32(index)},
	}
	err = s.from.Do(func() error {
		defer realTime()()
		began, err := cpuTime()
		if err != nil {
			return err
		}
		_, runErr := s.c.Programs[generatorProgGenerate].Run(options)
		ended, err := cpuTime()
		took = ended - began
		return errors.Join(runErr, err)
	})
	if err != nil {
		return took, fmt.Errorf("send %d frames: %w", count, err)
	}
	return took, nil
}

// realTime puts the thread before all ordinary ones until the function it returns is called. Where that is refused,
// figures are less steady, no more.
func realTime() (end func()) {
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return func() {}
	}
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	return func() { _ = unix.SchedSetAttr(0, was, 0) }
}

// cpuTime is that of this thread.
func cpuTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// Close unloads the sender.
func (s *Sender) Close() { s.c.Close() }

// Empty attaches a program that drops everything (pass: passes everything) and does nothing else, natively. It stays
// until it is closed.
func Empty(n *testenv.Namespace, iface string, pass bool) (link.Link, error) {
	spec, err := loadGenerator()
	if err != nil {
		return nil, fmt.Errorf("attach empty program: %w", err)
	}
	name := generatorProgDropAll
	if pass {
		name = generatorProgPassAll
	}
	p, err := ebpf.NewProgram(spec.Programs[name])
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	defer p.Close()
	return Attach(n, iface, p)
}

// Attach attaches a program natively to an interface of a namespace.
func Attach(n *testenv.Namespace, iface string, p *ebpf.Program) (l link.Link, err error) {
	index, err := n.Index(iface)
	if err != nil {
		return nil, err
	}
	err = n.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach to %s %s: %w", n.Name, iface, err)
	}
	return l, nil
}
