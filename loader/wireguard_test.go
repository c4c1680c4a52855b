package loader

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/wireguard.h.
const (
	wgSetDevice = 1

	wgDeviceIfindex    = 1
	wgDevicePrivateKey = 3
	wgDeviceListenPort = 6
	wgDevicePeers      = 8

	wgPeerPublicKey  = 1
	wgPeerEndpoint   = 4
	wgPeerAllowedIPs = 9

	wgAllowedIPFamily = 1
	wgAllowedIPAddr   = 2
	wgAllowedIPMask   = 3
)

// makeWireGuard makes two WireGuard devices that are each other's only peer, over the loopback interface; an old peer is
// removed before. It returns the first.
func makeWireGuard(t *testing.T, name, peer string) (netlink.Link, error) {
	t.Helper()
	if old, err := netlink.LinkByName(peer); err == nil {
		must(t, netlink.LinkDel(old))
	}
	var devices [2]netlink.Link
	var keys [2]*ecdh.PrivateKey
	for i, n := range []string{name, peer} {
		devices[i] = &netlink.Wireguard{LinkAttrs: named(n)}
		if err := netlink.LinkAdd(devices[i]); err != nil {
			return nil, err
		}
		var err error
		keys[i], err = ecdh.X25519().GenerateKey(rand.Reader)
		must(t, err)
	}
	const port = 51820
	for i, d := range devices {
		must(t, setWireGuard(d.Attrs().Index, keys[i], port+uint16(i), keys[1-i].PublicKey(), port+uint16(1-i)))
	}
	return devices[0], nil
}

// setWireGuard gives a device its key and port, and its peer, which may send from any address.
func setWireGuard(index int, key *ecdh.PrivateKey, port uint16, peer *ecdh.PublicKey, peerPort uint16) error {
	family, err := netlink.GenlFamilyGet("wireguard")
	if err != nil {
		return err
	}
	number16 := func(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
	nested := func(kind int) *nl.RtAttr { return nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil) }
	endpoint := make([]byte, unix.SizeofSockaddrInet4)
	copy(endpoint, number16(unix.AF_INET))
	binary.BigEndian.PutUint16(endpoint[2:], peerPort)
	copy(endpoint[4:], []byte{127, 0, 0, 1})

	peers := nested(wgDevicePeers)
	one := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	one.AddRtAttr(wgPeerPublicKey, peer.Bytes())
	one.AddRtAttr(wgPeerEndpoint, endpoint)
	allowed := one.AddRtAttr(wgPeerAllowedIPs|unix.NLA_F_NESTED, nil)
	for _, f := range []struct {
		family uint16
		size   int
	}{{unix.AF_INET, 4}, {unix.AF_INET6, 16}} {
		a := allowed.AddRtAttr(unix.NLA_F_NESTED, nil)
		a.AddRtAttr(wgAllowedIPFamily, number16(f.family))
		a.AddRtAttr(wgAllowedIPAddr, make([]byte, f.size))
		a.AddRtAttr(wgAllowedIPMask, []byte{0})
	}

	r := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	r.AddData(&nl.Genlmsg{Command: wgSetDevice, Version: 1})
	r.AddData(nl.NewRtAttr(wgDeviceIfindex, binary.NativeEndian.AppendUint32(nil, uint32(index))))
	r.AddData(nl.NewRtAttr(wgDevicePrivateKey, key.Bytes()))
	r.AddData(nl.NewRtAttr(wgDeviceListenPort, number16(port)))
	r.AddData(peers)
	_, err = r.Execute(unix.NETLINK_GENERIC, 0)
	return err
}
