package loader

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
)

// takeOver makes sure, once, that every pinned link reads the maps of this Loader: it gets the program of this
// build where it reads others, and then staged maps become real. Links read others when the maps are staged, or
// when a process died in here.
//
// A packet is judged by the old program with the old lists or by the new one with the new. A process that dies in
// here leaves each link with one or the other; the next Open finds pins that fit, and takes the links back, or
// pins that do not, and begins anew with maps of its own.
func (l *Loader) takeOver() error {
	if l.tookOver {
		return nil
	}
	if l.staged {
		l.keepBypass()
	}
	left, err := l.takeLinks()
	if err != nil {
		return err
	}
	if l.staged {
		l.keepBypass() // as it is now: it may have been switched meanwhile
		if left == 0 {
			waitForReaders()
			l.maps.discards(l.dir.openTries())
		}
		if err := l.dir.publishMaps(l.o); err != nil {
			return fmt.Errorf("publish new maps: %w", err)
		}
	}
	l.staged, l.tookOver = false, true
	return nil
}

// takeLinks updates the links that read other maps and returns how many could not be reached.
func (l *Loader) takeLinks() (left int, err error) {
	all, err := l.dir.inspect()
	if err != nil {
		return 0, err
	}
	devs, err := devices()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if !p.alive || l.reads(p.prog) {
			continue
		}
		i := slices.IndexFunc(devs, func(d device) bool { return d.prog == p.prog })
		if i < 0 {
			left++
			l.o.Logger.Warn("interface is in another network namespace: it keeps its old program and lists", "interface", p.pin)
			continue
		}
		layer3, err := devs[i].layer3()
		if err != nil {
			return 0, err
		}
		if _, err := l.updateLink(devs[i], p.pin, layer3); err != nil {
			return 0, err
		}
	}
	return left, nil
}

// reads reports whether a program reads the maps of this Loader.
func (l *Loader) reads(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return false
	}
	used, _ := info.MapIDs()
	control, err := l.maps.control.Info()
	if err != nil {
		return false
	}
	ours, ok := control.ID()
	return ok && slices.Contains(used, ours)
}

// keepBypass carries the emergency switch over from the old maps, of whatever layout.
func (l *Loader) keepBypass() {
	var on uint32
	if err := l.dir.withCommon(func(w *commonWords) { on = atomic.LoadUint32(&w.Bypass) }); err != nil {
		return // nothing to carry over
	}
	atomic.StoreUint32(&l.maps.words.Bypass, on)
}

// openTries opens the pinned tries, of whatever layout.
func (d pinDir) openTries() (all []*ebpf.Map) {
	for _, name := range trieNames {
		m, err := loadPin(filepath.Join(d.path, name))
		switch {
		case err != nil:
		case m.Type() != ebpf.LPMTrie:
			_ = m.Close()
		default:
			all = append(all, m)
		}
	}
	return all
}

// discard empties a trie that no program reads any more and closes it: full, it would be freed in one go, which holds a CPU
// for 0.4 s a million. Paced, that goes at the kernel's pace, and of many entries it returns when nearly all are freed.
func discard(ctx context.Context, m *ebpf.Map, paced bool) error {
	defer m.Close()
	if m.KeySize() == 8 {
		return trie[bpf.KeyV4]{m}.discard(ctx, paced)
	}
	return trie[bpf.KeyV6]{m}.discard(ctx, paced)
}

func (t trie[K]) discard(ctx context.Context, paced bool) error {
	many := 0
	for done := false; !done; {
		began := time.Now()
		n, last, err := t.sweep(nil)
		if err != nil {
			return err
		}
		if many, done = many+n, last; paced && !done {
			pace(began)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for i := 0; paced && many > drainKeys && i < drainRounds; i++ {
		time.Sleep(drainEvery)
		if err := onEachCPU(t.drain); err != nil {
			return err
		}
	}
	return nil
}
