package loader

import (
	"errors"
	"testing"
)

// TestDetach takes a running daemon's program off; the daemon must not put it back by itself.
func TestDetach(t *testing.T) {
	g := newGateway(t)
	veth(t, "gw2", "client2", 1500)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	replace(t, l.Maps(), 1, list)
	for _, name := range []string{"gw", "gw2"} {
		_, err = l.Attach(name)
		must(t, err)
	}
	g.start(t)
	g.check(t, "attached")

	done, err := Detach(g.pins, "gw")
	if err != nil || len(done) != 1 || done[0] != "gw" {
		t.Fatalf("detached %v, %v", done, err)
	}
	eventually(t, "listed frames", func() bool { return g.gw.received()[bad] > 0 })
	for range 3 {
		if got := l.Reconcile(); !errors.Is(got[0].Err, ErrDetached) || got[0].Mode != "" || got[1].Err != nil {
			t.Fatalf("reconciled to %+v", got)
		}
	}
	g.flood.stop()
	removeLink(t, "gw")
	l.Reconcile()
	veth(t, "gw", "client", 1500)
	if got := l.Reconcile(); !errors.Is(got[0].Err, ErrDetached) {
		t.Errorf("made again: %+v", got[0])
	}
	_, err = Detach(g.pins, "gw")
	wantErr(t, err, ErrNotLoaded, "gw")

	// Attach attaches again.
	a, err := l.Attach("gw")
	must(t, err)
	if a.Adopted || a.Mode != ModeNative {
		t.Errorf("attached as %+v", a)
	}
	g.start(t)
	g.check(t, "attached again")

	// With the daemon there, its maps stay; without, everything goes.
	done, err = Detach(g.pins)
	if err != nil || len(done) != 2 {
		t.Fatalf("detached %v, %v", done, err)
	}
	if !exists(g.pins + "/control") {
		t.Error("the maps of a running daemon are gone")
	}
	must(t, l.Close())
	if exists(g.pins) {
		t.Error("pins that no link needs are left behind")
	}
	_, err = Detach(g.pins)
	wantErr(t, err, ErrNotLoaded)
}

// TestDetachGone: the interface is gone, its pins are not.
func TestDetachGone(t *testing.T) {
	g := newGateway(t)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	_, err = l.Attach("gw")
	must(t, err)
	must(t, l.Close())
	removeLink(t, "gw")
	done, err := Detach(g.pins, "gw")
	if err != nil || len(done) != 1 || exists(g.pins) {
		t.Errorf("detached %v, %v; the directory is there: %v", done, err, exists(g.pins))
	}
}
