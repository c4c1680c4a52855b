package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// Attachment is the state of one interface.
type Attachment struct {
	Interface string
	Index     int    // 0: the interface does not exist now
	Mode      Mode   // native or generic as it is, "" if not attached
	Frags     bool   // the multi-buffer program
	Layer3    bool   // the entry program for devices without an Ethernet header
	Fallback  string // why native was refused, in the kernel's words; "" if native
	Err       error  // why it is not attached now; nil if it is
	Adopted   bool   // a previous daemon had attached it
}

// remembered is an interface that Attach was called for.
type remembered struct {
	Attachment
	attached bool   // it has been, and has not been renamed since: then Detach may have taken it
	failed   device // as it was when attaching failed
	again    retry  // while it stays so
	// gone is what was told of the interface when it went, or was renamed.
	gone Attachment
}

// refused notes a failure of attaching to the device as it was then.
func (r *remembered) refused(d device, err error) {
	if d != r.failed {
		r.again = retry{}
		r.again.wait()
	}
	r.Err, r.failed = err, d
}

// resting reports whether nothing is to be tried at the device now.
func (r *remembered) resting(d device) bool {
	return r.Err != nil && r.failed == d && (r.Mode != "" || !r.again.due())
}

// Attach puts the program of this build on the interface, pinned: by link.Update if a link of ours is pinned for
// it, so that no packet in between is unjudged, else by attaching in the order of Options.Mode. An update keeps
// the mode; where that is not the one asked for, the error is [ErrNativeMode] or [ErrGenericMode], and the
// interface goes on being judged. A program of somebody else is left alone: [ErrForeignProgram] names it.
// The pins of an interface that was renamed since it was attached are renamed with it.
//
// The interface is remembered for [Loader.Reconcile], also when an error is returned: it may appear later.
// Call Maps().Replace before: what the maps hold is enforced at once.
func (l *Loader) Attach(iface string) (Attachment, error) {
	r := l.remember(iface)
	unlock, err := l.dir.lockChanges()
	if err != nil {
		return Attachment{Interface: iface, Err: err}, err
	}
	defer unlock()
	l.attach(r)
	return r.Attachment, r.Err
}

func (l *Loader) remember(iface string) *remembered {
	for _, r := range l.ifaces {
		if r.Interface == iface {
			return r
		}
	}
	r := &remembered{Attachment: Attachment{Interface: iface}}
	l.ifaces = append(l.ifaces, r)
	return r
}

// attach brings r up to date; the lock for changes is held.
func (l *Loader) attach(r *remembered) {
	was := r.Attachment
	r.Attachment = Attachment{Interface: was.Interface}
	d, err := l.judge(r)
	if err != nil {
		if now, findErr := findDevice(r.Interface); findErr == nil && r.Mode != "" {
			d = now // an upgrade changed its program
		}
		r.refused(d, err)
		return
	}
	r.attached, r.failed = true, device{}
	if err := l.dir.unmarkDetached(r.Interface); err != nil {
		l.o.Logger.Warn("an old mark of detach is left", "interface", r.Interface, "error", err)
	}
}

// judge attaches or upgrades, and fills in r.
func (l *Loader) judge(r *remembered) (device, error) {
	if err := l.takeOver(); err != nil {
		return device{}, err
	}
	if err := l.dir.followNames(); err != nil {
		return device{}, err
	}
	d, err := findDevice(r.Interface)
	if err != nil {
		return d, err
	}
	r.Index = d.index
	if r.Layer3, err = d.layer3(); err != nil {
		return d, err
	}
	pin, err := l.dir.pinOf(d)
	if err != nil {
		return d, err
	}
	switch {
	case pin != "":
		return d, l.upgrade(r, d, pin)
	case d.prog != 0:
		return d, foreignProgram(d)
	default:
		return d, l.attachNew(r, d)
	}
}

// upgrade replaces the program of the link that judges the device's packets, pinned under that name.
func (l *Loader) upgrade(r *remembered, d device, pin string) (err error) {
	if r.Frags, err = l.updateLink(d, pin, r.Layer3); err != nil {
		return err
	}
	r.Mode, r.Adopted = d.mode, true
	switch {
	case r.Mode == ModeGeneric && l.o.Mode == ModeNative:
		err = ErrNativeMode
	case r.Mode == ModeNative && l.o.Mode == ModeGeneric:
		err = ErrGenericMode
	}
	if r.Mode == ModeGeneric {
		r.Fallback = "an earlier daemon attached in generic mode; detach and attach again to try native"
		for _, other := range l.ifaces {
			if other.gone.Index == d.index && other.gone.Mode == ModeGeneric {
				r.Fallback = other.gone.Fallback // this daemon did, when the device had another name
			}
		}
	}
	if err != nil {
		return fmt.Errorf("upgrade %s: %w: it is attached in %s mode and stays so, and enforces; "+
			"to change the mode: portcullis detach %s, then start the daemon again", d.name, err, r.Mode, d.name)
	}
	return nil
}

// updateLink points the link pinned under a name at the program of this build, the one for fragments if the device
// takes it.
func (l *Loader) updateLink(d device, pin string, layer3 bool) (frags bool, err error) {
	ln, err := l.dir.openLink(pin)
	if err != nil {
		return false, err
	}
	defer ln.Close()
	var errs []error
	for _, frags := range []bool{true, false} {
		if frags && d.mode == ModeGeneric {
			continue
		}
		err := l.exchange(ln, pin, layer3, frags)
		if err == nil {
			return frags, nil
		}
		errs = append(errs, err)
	}
	return false, fmt.Errorf("upgrade program on %s, the old one goes on judging: %w", d.name, errors.Join(errs...))
}

// exchange updates a link. From then on the new program judges; the pins follow.
func (l *Loader) exchange(ln link.Link, pin string, layer3, frags bool) error {
	p, err := l.load(pin, layer3, frags)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Pin(l.dir.staged("prog")); err != nil {
		return fmt.Errorf("pin program: %w", permission(err))
	}
	if err := l.o.step("update link"); err != nil {
		return err
	}
	if err := ln.Update(p); err != nil {
		return fmt.Errorf("update link: %w", err)
	}
	return l.dir.publishInterface(pin, l.o)
}

// attempt is one way of attaching.
type attempt struct {
	mode  Mode
	frags bool
}

func (m Mode) attempts() []attempt {
	native := []attempt{{ModeNative, true}, {ModeNative, false}}
	generic := []attempt{{ModeGeneric, false}}
	switch m {
	case ModeNative:
		return native
	case ModeGeneric:
		return generic
	default:
		return append(native, generic...)
	}
}

// attachNew makes a link in the first way that the kernel takes, and pins it.
func (l *Loader) attachNew(r *remembered, d device) error {
	var refusals []string
	for _, a := range l.o.Mode.attempts() {
		why, err := l.try(r, d, a)
		if err != nil {
			return err
		}
		if why == "" {
			r.Mode, r.Frags = a.mode, a.frags
			if a.mode == ModeGeneric && len(refusals) > 0 {
				r.Fallback = strings.Join(refusals, "; ")
			}
			return nil
		}
		if a.frags {
			why = "with fragments: " + why
		}
		refusals = append(refusals, why)
	}
	words := strings.Join(refusals, "; ")
	if l.o.Mode == ModeGeneric {
		return fmt.Errorf("attach to %s in generic mode: %w: %s", d.name, ErrUnsupported, words)
	}
	return fmt.Errorf("attach to %s: %w: %s; change what it names (MTU, offloads, queues), or start with --mode %s",
		d.name, ErrNativeMode, words, ModeNativeThenGeneric)
}

// try attaches in one way. why is the kernel's refusal, "" if it is attached; err ends the search.
func (l *Loader) try(r *remembered, d device, a attempt) (why string, err error) {
	p, err := l.load(d.name, r.Layer3, a.frags)
	if err != nil {
		if a.frags {
			return err.Error(), nil // before Linux 5.18
		}
		return "", err
	}
	defer p.Close()
	flags := link.XDPDriverMode
	if a.mode == ModeGeneric {
		flags = link.XDPGenericMode
	}
	if err := l.o.step("attach"); err != nil {
		return "", err
	}
	ln, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: d.index, Flags: flags})
	switch {
	case errors.Is(err, unix.ENODEV):
		return "", noInterface(d.name)
	case errors.Is(err, unix.EBUSY):
		if now, findErr := findDevice(d.name); findErr == nil && now.prog != 0 {
			return "", foreignProgram(now)
		}
		return "", fmt.Errorf("attach to %s: %w", d.name, err)
	case errors.Is(err, unix.EPERM):
		return "", fmt.Errorf("attach to %s: %w", d.name, permission(err))
	case err != nil:
		return refusal(d, p, uint32(flags), err), nil
	}
	defer ln.Close()
	if err := p.Pin(l.dir.staged("prog")); err != nil {
		return "", fmt.Errorf("pin program: %w", permission(err))
	}
	if err := ln.Pin(l.dir.staged("link")); err != nil {
		return "", fmt.Errorf("pin link: %w", permission(err))
	}
	return "", l.dir.publishInterface(d.name, l.o)
}

// load loads one entry program with the maps of this Loader and the interface's counters, which are staged if
// they are new. The staging directory is fresh afterwards but for them.
func (l *Loader) load(pin string, layer3, frags bool) (*ebpf.Program, error) {
	spec, err := l.o.spec()
	if err != nil {
		return nil, err
	}
	name := map[[2]bool]string{
		{false, false}: bpf.ProgEth, {false, true}: bpf.ProgEthFrags, {true, false}: bpf.ProgL3, {true, true}: bpf.ProgL3Frags,
	}[[2]bool{layer3, frags}]
	spec.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	counters, err := l.stageCounters(pin, spec.Maps[bpf.MapCounters])
	if err != nil {
		return nil, err
	}
	defer counters.Close()
	maps := l.maps.shared()
	maps[bpf.MapCounters] = counters
	if l.maps.prefixes != nil {
		maps[bpf.MapPrefixes] = l.maps.prefixes
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", name, permission(err))
	}
	defer c.Close()
	return c.DetachProgram(name), nil
}

// stageCounters opens the counters pinned for an interface, or makes and stages new ones.
func (l *Loader) stageCounters(pin string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	if err := stage(l.dir.stagingInterface()); err != nil {
		return nil, err
	}
	if m, err := loadPin(l.dir.counters(pin)); err == nil {
		if spec.Compatible(m) == nil {
			return m, nil
		}
		_ = m.Close() // of another layout
	} else if !errors.Is(err, ErrNotLoaded) {
		return nil, err
	}
	staged := l.dir.staged("counters")
	if err := createMap(spec, staged, func(*ebpf.Map) error { return nil }); err != nil {
		return nil, err
	}
	return loadPin(staged)
}
