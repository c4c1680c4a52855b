package loader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Reconcile looks at every interface given to Attach and attaches again where one was deleted and made anew, or
// appeared at last. Call it on RTM_NEWLINK (see [Watch]) and every second: until it has run, a new interface of
// an old name is not judged. The result is in the order of Attach.
//
//   - An interface that [Detach] took off is left alone ([ErrDetached]) until Attach is called for it, or a new
//     daemon calls it. Pins that somebody removed by hand are made again.
//   - A renamed interface goes on being judged; its pins are renamed with it. Under its old name it is missing
//     ([ErrNoInterface]), and what appears under that name is attached as a new one.
//   - An interface moved to another network namespace goes on being judged there, until another of its name is
//     attached here.
//   - What was refused is tried again when the interface changes, and else after 1 s, 2 s, and so on up to 32 s. An
//     interface that is judged, but in another mode than the one asked for, is left as it is.
func (l *Loader) Reconcile() []Attachment {
	out := make([]Attachment, 0, len(l.ifaces))
	if err := l.mendPins(); err != nil {
		l.o.Logger.Error("maps are not pinned: commands that need no daemon do not find them", "error", err)
	}
	known := make(map[int]remembered)
	for _, r := range l.ifaces {
		known[r.gone.Index] = remembered{Attachment: r.gone}
	}
	for _, r := range l.ifaces {
		known[r.Index] = *r
	}
	for _, r := range l.ifaces {
		l.reconcile(r, known)
		out = append(out, r.Attachment)
	}
	return out
}

// reconcile brings r up to date; known are the interfaces as they were before, by index.
func (l *Loader) reconcile(r *remembered, known map[int]remembered) {
	d, err := findDevice(r.Interface)
	if errors.Is(err, ErrNoInterface) {
		l.missing(r, err)
		return
	}
	if err != nil { // out of descriptors, say: the kernel goes on judging
		r.Err = err
		return
	}
	pin, err := l.dir.pinOf(d)
	if err != nil {
		r.Err = err
		return
	}
	if r.resting(d) {
		return
	}
	if pin == r.Interface && r.attached && exists(l.dir.counters(pin)) && exists(l.dir.prog(pin)) {
		r.judged(d, known)
		return
	}
	unlock, err := l.dir.lockChanges()
	if err != nil {
		r.Err = err
		return
	}
	defer unlock()
	if pin != "" && pin != r.Interface && r.attached { // renamed back: counters and Detach go by the pin of its name
		if r.judged(d, known); r.Err == nil {
			r.Err = l.dir.followNames()
		}
		return
	}
	if r.attached && !exists(l.dir.link(r.Interface)) && exists(l.dir.detached(r.Interface)) {
		r.Attachment = Attachment{
			Interface: r.Interface, Index: d.index, Layer3: r.Layer3,
			Err: fmt.Errorf("protect %s: %w; it is attached again by a restart of the daemon", r.Interface, ErrDetached),
		}
		return
	}
	l.o.Logger.Info("interface appeared or changed, attaching", "interface", r.Interface, "index", d.index)
	l.attach(r)
}

// judged notes that the device's packets are judged. Where names went round, what is known of the device comes along.
func (r *remembered) judged(d device, known map[int]remembered) {
	was, same := known[d.index], r.Index == d.index
	r.Index, r.Mode, r.Err = d.index, d.mode, nil
	if same || was.Interface == "" {
		return
	}
	r.Frags, r.Layer3, r.Fallback, r.Adopted = was.Frags, was.Layer3, was.Fallback, was.Adopted
	if was.Mode != "" && was.failed.index == d.index { // it is judged, but in another mode than the one asked for
		r.Err, r.failed = was.Err, d
	}
}

// missing notes that there is no such interface, and follows it if it was renamed.
func (l *Loader) missing(r *remembered, err error) {
	adopted := r.Adopted
	if r.Index != 0 {
		r.gone = r.Attachment
	}
	r.Attachment = Attachment{Interface: r.Interface, Adopted: adopted, Err: err}
	r.failed = device{}
	if !exists(l.dir.link(r.Interface)) {
		return
	}
	unlock, err := l.dir.lockChanges()
	if err != nil {
		r.Err = err
		return
	}
	defer unlock()
	if err := l.dir.followNames(); err != nil {
		r.Err = err
		return
	}
	if !exists(l.dir.link(r.Interface)) {
		r.attached = false
		l.o.Logger.Warn("interface was renamed: it is still judged, configure its new name", "interface", r.Interface)
	}
}

// Watch calls changed whenever an interface of the calling thread's network namespace appears, changes or goes
// away, until ctx ends, whose error it returns, at most a quarter of a second later.
func Watch(ctx context.Context, changed func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	defer s.Close()
	if err := s.SetReceiveTimeout(&unix.Timeval{Usec: int64(250 * time.Millisecond / time.Microsecond)}); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	for {
		_, _, err := s.Receive()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.ENOBUFS): // more happened than was kept
			changed()
		default:
			return fmt.Errorf("watch interfaces: %w", err)
		}
	}
}
