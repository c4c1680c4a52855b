package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/testenv"
)

// longestBusy is how long the kernel may work for us without a chance for others.
const longestBusy = 10 * time.Millisecond

// TestKernelIsNeverLongBusy replaces whole lists and clears them, a million prefixes with -long, and looks how
// long work items, RCU callbacks and their threads hold a CPU to free what that leaves. Others on the machine can take a
// CPU away in the middle, which looks the same: the best of three counts.
func TestKernelIsNeverLongBusy(t *testing.T) {
	r := newRig(t)
	trace, err := r.lab.TraceKernel()
	r.must(err)
	rnd := random(t)
	size := times(200_000, 1_000_000)
	wholes := []whole{newWhole(rnd, size, nil), newWhole(rnd, size, nil)}
	for try := 1; ; try++ {
		p := pacing{rig: r, trace: trace, size: size, dir: filepath.Join(r.bpffs, fmt.Sprint("paced", try))}
		p.run(wholes)
		if len(p.bad) == 0 {
			return
		}
		t.Logf("try %d: longer than %v: %v", try, longestBusy, p.bad)
		if try == 3 {
			t.Fatal("the kernel was busy for too long each time")
		}
	}
}

// pacing is one measurement.
type pacing struct {
	*rig
	trace *testenv.KernelTrace
	size  int
	dir   string
	bad   []string
}

func (p *pacing) run(wholes []whole) {
	p.t.Helper()
	ctx := context.Background()
	var ld *loader.Loader
	var err error
	p.must(p.Gateway.Do(func() error {
		if ld, err = loader.Open(loader.Options{PinDir: p.dir, Mode: loader.ModeNative}); err != nil {
			return err
		}
		if err := ld.Maps().Replace(ctx, 1, wholes[0].all(), p.size, nil); err != nil {
			return err
		}
		_, err := ld.Attach("eth0")
		return err
	}))
	p.watch("replace", func() error { return ld.Maps().Replace(ctx, 2, wholes[1].all(), p.size, nil) })
	began := time.Now()
	p.watch("free what was replaced", func() error { return ld.Maps().Sweep(ctx) })
	swept := time.Since(began)
	p.watch("clear", func() error { return ld.Maps().Replace(ctx, 3, compile.New().All(), 0, nil) })
	// Who replaces a list before the last one is freed is not kept waiting, and the kernel frees the rest at once.
	began = time.Now()
	p.must(ld.Maps().Replace(ctx, 4, wholes[0].all(), p.size, nil))
	soon := time.Since(began)
	wait(300 * time.Millisecond) // what that leaves is not what is watched next
	if p.t.Logf("replace before it is freed: %v, where freeing takes %v", soon, swept); soon > swept/2 {
		p.bad = append(p.bad, fmt.Sprintf("a replacement took %v, as long as freeing", soon))
	}
	p.watch("end the daemon", ld.Close)
	p.must(p.Gateway.Do(func() error {
		_, err := loader.Detach(p.dir)
		return err
	}))
	wait(300 * time.Millisecond)
}

// forUs are the functions and threads that free what was ours: maps, tries' entries, mapped memory.
var forUs = regexp.MustCompile(`^(.*bpf.*|.*mem_alloc.*|.*vfree.*|.*rcu.*|` + testenv.RCUCallbacks + `)$`)

// watch does something, lets the kernel end what that began, and notes what took too long.
func (p *pacing) watch(what string, f func() error) {
	p.t.Helper()
	busy, err := p.trace.Watch(func() error {
		err := f()
		wait(300 * time.Millisecond) // longer than the longest grace period
		return err
	})
	p.must(err)
	busy = slices.DeleteFunc(busy, func(b testenv.Busy) bool {
		return !forUs.MatchString(b.What) || b.By != 0 && b.By != os.Getpid()
	})
	if len(busy) == 0 {
		p.t.Fatalf("%s: no work of the kernel was seen", what)
	}
	p.t.Logf("%s, %d prefixes: the longest were %v", what, p.size, busy[:min(len(busy), 3)])
	for _, b := range busy {
		if b.For > longestBusy {
			p.bad = append(p.bad, fmt.Sprintf("%s: %v", what, b))
		}
	}
}
