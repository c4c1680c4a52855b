package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// refusal says in the kernel's own words why it would not attach the program to the device. Attaching through a
// link gives an errno only, so the same is tried once more through netlink, which runs the same checks and
// answers with text. Should that succeed, it is taken off again: without a link nothing could be upgraded.
func refusal(d device, p *ebpf.Program, flags uint32, cause error) string {
	words, err := tryNetlink(d, p.FD(), flags|unix.XDP_FLAGS_UPDATE_IF_NOEXIST)
	if err == nil {
		_, _ = tryNetlink(d, -1, flags)
		return cause.Error()
	}
	var errno unix.Errno
	if !errors.As(cause, &errno) {
		return cause.Error()
	}
	if words == "" && errors.Is(errno, unix.EOPNOTSUPP) {
		words = "the driver has no native XDP"
	}
	if words == "" {
		words = "no reason given"
	}
	text := fmt.Sprintf("%s (%s)", words, errno)
	if driver := d.driver(); driver != "" && !strings.HasPrefix(text, driver+":") {
		text = driver + ": " + text
	}
	return text
}

// tryNetlink sets (fd -1: clears) the device's XDP program and returns the kernel's text if it refuses.
func tryNetlink(d device, fd int, flags uint32) (words string, err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return "", err
	}
	defer unix.Close(s)
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(s, unix.SOL_NETLINK, option, 1); err != nil {
			return "", err
		}
	}
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return "", err
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(d.index)
	xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(uint32(int32(fd))))
	xdp.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(flags))
	req.AddData(msg)
	req.AddData(xdp)
	if err := unix.Sendto(s, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", err
	}
	buf := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(s, buf, 0)
	if err != nil {
		return "", err
	}
	return parseAck(buf[:n])
}

// parseAck reads a netlink acknowledgement: header, errno, header of the request, then attributes.
func parseAck(b []byte) (words string, err error) {
	const fixed = unix.SizeofNlMsghdr + 4 + unix.SizeofNlMsghdr
	if len(b) < fixed || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return "", errors.New("netlink answered something else")
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])))
	if errno == 0 {
		return "", nil
	}
	if binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_ACK_TLVS == 0 {
		return "", errno
	}
	attrs, parseErr := nl.ParseRouteAttr(b[fixed:])
	if parseErr != nil {
		return "", errno
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			words = unix.ByteSliceToString(a.Value)
		}
	}
	return words, errno
}
