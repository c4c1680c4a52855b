package userspace

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/portcullis/portcullis/userspace/control"
)

// protection is one address or prefix that must never reach the drop side, and the risk that an entry over it is.
type protection struct {
	prefix netip.Prefix
	risk   string // the name --accept-risk takes
	why    string // for people: "own address of eth0"
}

// Names of the risks an entry can be, as --accept-risk takes them.
const (
	riskLoopback   = "loopback"
	riskOwnAddress = "own-address"
	riskGateway    = "gateway"
	riskResolver   = "resolver"
	riskProxy      = "trusted-proxy"
	riskProtected  = "protected"
	riskSSH        = "ssh-session"
	riskWide       = "wide-prefix"
)

// knownRisks are all of them.
var knownRisks = []string{riskLoopback, riskOwnAddress, riskGateway, riskResolver, riskProxy, riskProtected, riskSSH, riskWide}

// protector finds the protected addresses of this host. Its fields name the files it reads, so that a test can
// give it others.
type protector struct {
	config     []protection // from the configuration, fixed
	resolvConf string
	utmp       string
}

func newProtector(c Config) (*protector, error) {
	p := &protector{resolvConf: "/etc/resolv.conf", utmp: "/run/utmp"}
	add := func(list []string, risk, why string) error {
		for _, text := range list {
			prefix, err := parsePrefix(text)
			if err != nil {
				return fmt.Errorf("%w: %s: %q: %w", ErrConfig, why, text, err)
			}
			p.config = append(p.config, protection{prefix, risk, why})
		}
		return nil
	}
	err := errors.Join(
		add(c.TrustedProxies, riskProxy, "trusted proxy (configuration)"),
		add(c.Protected, riskProtected, "protected (configuration)"))
	return p, err
}

// find lists what is protected now: loopback, the host's own addresses, default gateways, resolvers, what the
// configuration names, and the peers of SSH sessions that are logged in. Sorted, each prefix once.
// What cannot be read is left out and named in the error; the rest is still valid.
func (p *protector) find() ([]protection, error) {
	all := []protection{
		{netip.MustParsePrefix("127.0.0.0/8"), riskLoopback, "loopback"},
		{netip.MustParsePrefix("::1/128"), riskLoopback, "loopback"},
	}
	own, err1 := ownAddresses()
	gateways, err2 := defaultGateways()
	resolvers, err3 := resolvers(p.resolvConf)
	sessions, err4 := sessionPeers(p.utmp)
	all = slices.Concat(all, own, gateways, resolvers, p.config, sessions)
	all = slices.DeleteFunc(all, func(q protection) bool {
		a := q.prefix.Addr()
		return a.IsUnspecified() && q.prefix.IsSingleIP() || a.IsMulticast()
	})
	slices.SortStableFunc(all, func(a, b protection) int {
		if c := a.prefix.Addr().Compare(b.prefix.Addr()); c != 0 {
			return c
		}
		return a.prefix.Bits() - b.prefix.Bits()
	})
	all = slices.CompactFunc(all, func(a, b protection) bool { return a.prefix == b.prefix })
	return all, errors.Join(err1, err2, err3, err4)
}

func ownAddresses() ([]protection, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	var found []protection
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			found = append(found, protection{hostPrefix(ip), riskOwnAddress, "own address of " + names[a.LinkIndex]})
		}
	}
	return found, nil
}

func defaultGateways() ([]protection, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var found []protection
	add := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			found = append(found, protection{hostPrefix(a), riskGateway, "default gateway"})
		}
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		add(r.Gw)
		for _, hop := range r.MultiPath {
			add(hop.Gw)
		}
	}
	return found, nil
}

func resolvers(path string) ([]protection, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	var found []protection
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			found = append(found, protection{hostPrefix(a), riskResolver, "resolver (" + path + ")"})
		}
	}
	return found, nil
}

// Layout of struct utmp on 64-bit Linux with glibc (utmp(5)): the record of a login session.
const (
	utmpSize        = 384
	utmpUserProcess = 7
	utmpPID         = 4
	utmpAddr        = 348
)

// sessionPeers reads the addresses that login sessions come from. Only sessions that passed authentication are in
// utmp: protecting every TCP peer of sshd would shield whoever tries passwords there.
func sessionPeers(path string) ([]protection, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a host without utmp: the CLI still names its own session (SSH_CONNECTION)
	}
	if err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	var found []protection
	for ; len(data) >= utmpSize; data = data[utmpSize:] {
		rec := data[:utmpSize]
		pid := int(int32(binary.LittleEndian.Uint32(rec[utmpPID:])))
		if binary.LittleEndian.Uint16(rec) != utmpUserProcess || pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		addr := rec[utmpAddr : utmpAddr+16]
		var a netip.Addr
		if bytes.Equal(addr[4:], make([]byte, 12)) { // IPv4 sits in the first word
			a = netip.AddrFrom4([4]byte(addr[:4]))
		} else {
			a = netip.AddrFrom16([16]byte(addr)).Unmap()
		}
		if !a.IsUnspecified() {
			found = append(found, protection{hostPrefix(a), riskSSH, "peer of a login session"})
		}
	}
	return found, nil
}

func prefixes(all []protection) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, p := range all {
		out[i] = p.prefix
	}
	return out
}

func wireProtected(all []protection) []control.ProtectedAddr {
	out := make([]control.ProtectedAddr, len(all))
	for i, p := range all {
		out[i] = control.ProtectedAddr{Prefix: p.prefix.String(), Why: p.why}
	}
	return out
}
