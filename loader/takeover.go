package loader

import (
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/portcullis/portcullis/bpf"
)

// takeOver makes staged maps real: every pinned link gets the program of this build, which reads them, and then
// their pins replace the old ones. A packet is judged by the old program with the old lists or by the new one
// with the new. A process that dies in here leaves each link with one or the other; the next Open finds pins that
// do not fit, or no control, and begins anew with maps of its own.
func (l *Loader) takeOver() error {
	if !l.staged {
		return nil
	}
	l.keepBypass()
	all, err := l.dir.inspect()
	if err != nil {
		return err
	}
	devs, err := devices()
	if err != nil {
		return err
	}
	for _, p := range all {
		d, here := deviceOf(p, devs)
		if !here {
			if p.alive {
				l.o.Logger.Warn("interface is in another network namespace: it keeps its old program and lists", "interface", p.pin)
			}
			continue
		}
		layer3, err := d.layer3()
		if err != nil {
			return err
		}
		if _, err := l.updateLink(d, p.pin, layer3); err != nil {
			return err
		}
	}
	if err := l.dir.publishMaps(l.o); err != nil {
		return fmt.Errorf("publish new maps: %w", err)
	}
	l.staged = false
	return nil
}

func deviceOf(p pinned, devs []device) (device, bool) {
	for _, d := range devs {
		if p.alive && d.prog == p.prog {
			return d, true
		}
	}
	return device{}, false
}

// keepBypass carries the emergency switch over from the old maps. The first four words of control keep their
// place in every layout, for this.
func (l *Loader) keepBypass() {
	m, err := loadPin(filepath.Join(l.dir.path, bpf.MapControl))
	if err != nil {
		return // nothing to carry over
	}
	defer m.Close()
	w, err := mapControl(m)
	if err != nil {
		return
	}
	defer w.unmap()
	atomic.StoreUint32(&l.maps.words.Bypass, atomic.LoadUint32(&w.Bypass))
}
