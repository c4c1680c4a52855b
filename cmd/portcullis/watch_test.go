package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/portcullis/portcullis/userspace/control"
)

// captured is a packet of a pcapng file.
type captured struct {
	iface    string
	link     layers.LinkType
	time     time.Time
	length   int
	data     []byte
	comments []string
	missed   uint64
}

// readCapture reads a pcapng file with the reader of a library that others use.
func readCapture(r io.Reader) (all []captured, err error) {
	ng, err := pcapgo.NewNgReader(r, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		return nil, err
	}
	for {
		data, info, options, err := ng.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		iface, err := ng.Interface(info.InterfaceIndex)
		if err != nil {
			return all, err
		}
		c := captured{iface: iface.Name, link: iface.LinkType, time: info.Timestamp, length: info.Length, data: data, comments: options.Comments}
		if options.DropCount != nil {
			c.missed = *options.DropCount
		}
		all = append(all, c)
	}
}

// checkCapture is the command "pcapng FILE COUNT IFACE SOURCE COMMENT": the file holds so many IPv4 packets, all of that
// source.
func checkCapture(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	all, err := readCapture(f)
	ts.Check(err)
	if count, err := strconv.Atoi(args[1]); err != nil || len(all) != count {
		ts.Fatalf("%s has %d packets, want %s", args[0], len(all), args[1])
	}
	for _, c := range all {
		p := gopacket.NewPacket(c.data, c.link, gopacket.Default)
		ip, ok := p.NetworkLayer().(*layers.IPv4)
		if !ok || c.iface != args[2] || ip.SrcIP.String() != args[3] || strings.Join(c.comments, "|") != args[4] || p.TransportLayer() == nil {
			ts.Fatalf("%s: %+v: %v", args[0], c, p)
		}
	}
}

// TestCapture: what is written is read again, from Ethernet and from layer-3 interfaces; a file without packets is one too.
func TestCapture(t *testing.T) {
	c := &call{streams: &streams{out: bufio.NewWriter(io.Discard), err: io.Discard}, ctx: context.Background()}
	path := filepath.Join(t.TempDir(), "some.pcapng")
	k, err := c.newCapture(path)
	if err != nil {
		t.Fatal(err)
	}
	ip := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1, 0, 9, 0, 9, 0, 8, 0, 0}
	ethernet := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip...)
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)
	want := []captured{
		{"eth0", layers.LinkTypeEthernet, at, 1500, ethernet, []string{"drop_blacklisted: blacklist 198.51.100.7, source decoy"}, 41},
		{"wg0", layers.LinkTypeRaw, at.Add(time.Second), len(ip), ip, []string{"drop_blacklisted: blacklist 198.51.100.7, source decoy"}, 0},
		{"eth0", layers.LinkTypeEthernet, at.Add(2 * time.Second), 13, ethernet[:13], []string{"drop_short"}, 0},
	}
	for _, w := range want {
		d := control.Drop{Time: w.time, Interface: w.iface, Layer3: w.link == layers.LinkTypeRaw, Reason: "drop_blacklisted",
			Entry: "198.51.100.7", EntrySource: "decoy", Packets: w.missed + 1, Length: w.length, Packet: w.data}
		if w.comments[0] == "drop_short" {
			d.Reason, d.Entry, d.EntrySource = "drop_short", "", ""
		}
		if err := k.drop(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readCapture(bytes.NewReader(text))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	for i := range want {
		got[i].time = got[i].time.UTC()
		if fmt.Sprintf("%+v", got[i]) != fmt.Sprintf("%+v", want[i]) {
			t.Errorf("packet %d:\ngot  %+v\nwant %+v", i, got[i], want[i])
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	empty, err := c.newCapture(filepath.Join(t.TempDir(), "empty.pcapng"))
	if err == nil {
		err = empty.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(empty.name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := readCapture(f); err != nil || len(got) != 0 {
		t.Errorf("a file without packets: %d, %v", len(got), err)
	}
}
