package loader

import (
	"testing"
)

func TestAttachNative(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	veth(t, "gw", "client", 1500)
	l := open(t, Options{PinDir: dir})
	replace(t, l.Maps(), 7, cells{"10.0.0.0/8": drop, "10.1.0.0/16": {PassUntil: pass.PassUntil, DropUntil: drop.DropUntil}})
	a, err := l.Attach("gw")
	must(t, err)
	if a.Mode != ModeNative || !a.Frags || a.Layer3 || a.Fallback != "" || a.Adopted || a.Err != nil || a.Index == 0 {
		t.Errorf("attached as %+v", a)
	}
	client, gw := openWire(t, "client"), openWire(t, "gw")
	for range 10 {
		must(t, client.send(frame("10.2.3.4")))
		must(t, client.send(frame("10.1.3.4")))
		must(t, client.send(frame("192.0.2.9")))
	}
	eventually(t, "packets counted", func() bool {
		return count(t, l.Maps(), "gw", "ipv4", "drop_blacklisted") == 10 &&
			count(t, l.Maps(), "gw", "ipv4", "pass_whitelisted") == 10 &&
			count(t, l.Maps(), "gw", "ipv4", "pass_unlisted") == 10
	})
	got := gw.received("10.1.3.4")
	if got != 10 {
		t.Errorf("%d whitelisted packets came through, want 10", got)
	}
}
