package differential

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// question is struct question of the program.
type question struct {
	source [16]byte
	drop   uint32
	_      [3]uint32
}

func (q *question) set(a netip.Addr, drop bool) {
	q.source, q.drop = [16]byte{}, 0
	if a.Is4() {
		v4 := a.As4()
		copy(q.source[12:], v4[:])
	} else {
		q.source = a.As16()
	}
	if drop {
		q.drop = 1
	}
}

func (q *question) addr(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16(q.source)
	}
	return netip.AddrFrom4([4]byte(q.source[12:]))
}

// perCall is how many questions a call into the kernel answers: some milliseconds.
const perCall = 8 << 10

// way is the program loaded for one way to look sources up, on the maps of a loader.
type way struct {
	name string
	*ebpf.Collection
}

// loadWays loads the program for each, with questions of their own that all share.
func loadWays(t *testing.T, pins string, size int) (ways []way, questions []question) {
	t.Helper()
	var shared *ebpf.Map
	for name, mode := range map[string]uint32{"index": bpf.ModeIndexed, "LPM": bpf.ModeLPM} {
		spec, err := loadDifferential()
		must(t, err)
		must(t, spec.Variables[bpf.VarMode].Set(mode))
		spec.Maps[differentialMapQuestions].MaxEntries = uint32(size)
		c, err := load(spec, pins, shared)
		must(t, err)
		t.Cleanup(c.Close)
		shared = c.Maps[differentialMapQuestions]
		ways = append(ways, way{name, c})
	}
	bytes := size * int(unsafe.Sizeof(question{}))
	mem, err := unix.Mmap(shared.FD(), 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(mem)) })
	return ways, unsafe.Slice((*question)(unsafe.Pointer(&mem[0])), size)
}

// load loads a spec with the pinned maps wherever it has one of that name, and with questions if there are.
func load(spec *ebpf.CollectionSpec, pins string, questions *ebpf.Map) (*ebpf.Collection, error) {
	use := make(map[string]*ebpf.Map)
	defer func() {
		for name, m := range use {
			if name != differentialMapQuestions {
				_ = m.Close()
			}
		}
	}()
	if questions != nil {
		use[differentialMapQuestions] = questions
	}
	for name := range spec.Maps {
		if strings.HasPrefix(name, ".") || use[name] != nil {
			continue // variables
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(pins, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		use[name] = m
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use})
}

// answers is what a run found.
type answers struct{ dropped, indexed, wrong uint64 }

// compare has the kernel answer all questions.
func (w way) compare(questions []question, v6 bool) (sum answers, err error) {
	name := differentialProgCompareV4
	if v6 {
		name = differentialProgCompareV6
	}
	for first := 0; first < len(questions); first += perCall {
		n := min(perCall, len(questions)-first)
		zero := uint64(0)
		err := errors.Join(
			w.Variables[differentialVarFirst].Set(uint32(first)), w.Variables[differentialVarCount].Set(uint32(n)),
			w.Variables[differentialVarDropped].Set(zero), w.Variables[differentialVarIndexed].Set(zero),
			w.Variables[differentialVarWrong].Set(zero),
		)
		if err != nil {
			return sum, err
		}
		action, err := w.Programs[name].Run(&ebpf.RunOptions{Data: make([]byte, 64)})
		if err != nil || action != 2 {
			return sum, fmt.Errorf("run %s: action %d, %w", name, action, err)
		}
		var one answers
		var where uint32
		err = errors.Join(
			w.Variables[differentialVarDropped].Get(&one.dropped), w.Variables[differentialVarIndexed].Get(&one.indexed),
			w.Variables[differentialVarWrong].Get(&one.wrong), w.Variables[differentialVarWhere].Get(&where),
		)
		if err != nil {
			return sum, err
		}
		if one.wrong > 0 {
			q := questions[where]
			return sum, fmt.Errorf("%s: %d verdicts are wrong, of %s the last: should drop: %v", w.name, one.wrong, q.addr(v6), q.drop != 0)
		}
		sum.dropped += one.dropped
		sum.indexed += one.indexed
	}
	return sum, nil
}
