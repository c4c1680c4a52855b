package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// Sample is one packet that was dropped.
type Sample struct {
	Time      time.Time // by the wall clock as it is now
	Interface int       // index
	Layer3    bool      // the packet begins with its IP header
	Family    string    // as [Count] has it
	Reason    string
	Length    int    // of the packet
	Packet    []byte // the first 256 bytes of it, or all
	// Packets is how many were dropped, with this one, since the last sample of the same interface, family, reason and CPU.
	Packets uint64
}

// How often the ring is read, and for how long programs may go on writing to it after that.
const (
	sampleEvery = 50 * time.Millisecond
	watchSpan   = 3 * time.Second
)

// ReadSamples has the programs write samples of what they drop, at most a thousand a second for each counter of each
// CPU, and hands them over in batches, until ctx ends; it then returns nil. While nobody calls it, nothing is written.
// One call at a time: others wait for it to end. It needs no capability.
func (m *Maps) ReadSamples(ctx context.Context, each func([]Sample)) error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	m.watching.Lock()
	defer m.watching.Unlock()
	ring, err := ringbuf.NewReader(m.samples)
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	defer ring.Close()
	r := sampleReader{ring: ring, counts: make(map[sampleKey]uint64)}
	if _, err := r.read(); err != nil { // what an earlier reader has left
		return err
	}
	clear(r.counts)
	defer atomic.StoreUint64(&m.words.Watch, 0)
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		if err := m.watchOn(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		batch, err := r.read()
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			each(batch)
		}
	}
}

// watchOn lets programs write for a while.
func (m *Maps) watchOn() error {
	now, err := coarse()
	if err == nil {
		atomic.StoreUint64(&m.words.Watch, uint64(now+watchSpan))
	}
	return err
}

// coarse is the clock of the lease and of the watch.
func coarse() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// sampleKey is whose counter a sample tells of.
type sampleKey struct {
	iface, cpu     uint32
	family, reason uint8
}

type sampleReader struct {
	ring   *ringbuf.Reader
	counts map[sampleKey]uint64 // packets as of the last sample
}

// sampleHead is the size of a bpf.Sample without the packet.
const sampleHead = 40

// maxBatch bounds what is read at once: the ring holds less than 4,000.
const maxBatch = 4096

// read reads what the ring holds.
func (r *sampleReader) read() ([]Sample, error) {
	r.ring.SetDeadline(time.Unix(1, 0)) // the past: what is there, without waiting
	now := time.Now()
	booted := now.Add(-bootTime(now))
	var all []Sample
	for len(all) < maxBatch {
		record, err := r.ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read samples: %w", err)
		}
		if s, ok := r.decode(record.RawSample, booted); ok {
			all = append(all, s)
		}
	}
	return all, nil
}

// decode reads a bpf.Sample. One that is not whole is of a program of another build: it is passed over.
func (r *sampleReader) decode(b []byte, booted time.Time) (Sample, bool) {
	if len(b) < sampleHead+bpf.SamplePacket {
		return Sample{}, false
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	count := binary.NativeEndian.Uint64(b[8:])
	key := sampleKey{iface: word(16), cpu: word(20), family: b[30], reason: b[31]}
	captured := min(int(binary.NativeEndian.Uint16(b[28:])), bpf.SamplePacket)
	s := Sample{
		Time:      booted.Add(time.Duration(binary.NativeEndian.Uint64(b))),
		Interface: int(key.iface), Length: int(word(24)), Layer3: word(32) != 0,
		Family: bpf.Family(key.family).String(), Reason: bpf.Reason(key.reason).String(),
		Packet: b[sampleHead:][:captured], Packets: 1,
	}
	if last, ok := r.counts[key]; ok && count > last {
		s.Packets = count - last
	}
	r.counts[key] = count
	return s, true
}

// Sampled is how many samples programs have written since the maps were made, and how many found no room. Uncounted are drops
// that exact accounting had no room for.
type Sampled struct{ Written, Lost, Uncounted uint64 }

// Sampled reads it.
func (m *Maps) Sampled() (sum Sampled, err error) {
	leave, err := m.enter()
	if err != nil {
		return sum, err
	}
	defer leave()
	var perCPU []bpf.Sampled
	if err := m.sampled.Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("read number of samples: %w", err)
	}
	for _, n := range perCPU {
		sum.Written += n.Written
		sum.Lost += n.Lost
		sum.Uncounted += n.Uncounted
	}
	return sum, nil
}
