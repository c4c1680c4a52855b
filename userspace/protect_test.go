package userspace

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// utmpRecord makes one record as login(1) and sshd write it.
func utmpRecord(kind uint16, pid int, addr netip.Addr) []byte {
	rec := make([]byte, utmpSize)
	binary.LittleEndian.PutUint16(rec, kind)
	binary.LittleEndian.PutUint32(rec[utmpPID:], uint32(pid))
	copy(rec[utmpAddr:], addr.AsSlice())
	return rec
}

func TestSessionPeers(t *testing.T) {
	v4, v6, gone := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("203.0.113.9")
	data := slices.Concat(
		utmpRecord(utmpUserProcess, os.Getpid(), v4),
		utmpRecord(utmpUserProcess, os.Getpid(), v6),
		utmpRecord(8, os.Getpid(), gone),                                  // DEAD_PROCESS: logged out
		utmpRecord(utmpUserProcess, 1<<22+1, gone),                        // no such process
		utmpRecord(utmpUserProcess, os.Getpid(), netip.IPv4Unspecified()), // a local login
		make([]byte, utmpSize/2))                                          // torn record
	got, err := sessionPeers(writeFile(t, "utmp", data))
	if err != nil {
		t.Fatal(err)
	}
	want := []protection{
		{hostPrefix(v4), riskSSH, "peer of a login session"},
		{hostPrefix(v6), riskSSH, "peer of a login session"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestResolvers(t *testing.T) {
	path := writeFile(t, "resolv.conf", []byte("# c\nnameserver 192.0.2.53\nsearch x\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\n"))
	got, err := resolvers(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.53/32"), netip.MustParsePrefix("fe80::1/128")}
	if !slices.Equal(prefixes(got), want) {
		t.Fatalf("got %v, want %v", prefixes(got), want)
	}
}

func TestFindProtected(t *testing.T) {
	c := DefaultConfig()
	c.Protected, c.TrustedProxies = []string{"192.0.2.1", "::ffff:192.0.2.0/120"}, []string{"198.51.100.77/24"}
	p, err := newProtector(c)
	if err != nil {
		t.Fatal(err)
	}
	p.resolvConf, p.utmp = "/nonexistent", "/nonexistent"
	found, err := p.find()
	if err != nil {
		t.Fatal(err)
	}
	got := prefixes(found)
	for _, want := range []string{"127.0.0.0/8", "::1/128", "192.0.2.1/32", "192.0.2.0/24", "198.51.100.0/24"} {
		if !slices.Contains(got, netip.MustParsePrefix(want)) {
			t.Errorf("%s is not protected", want)
		}
	}
	if !slices.IsSortedFunc(got, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }) {
		t.Error("not sorted")
	}
}
