package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/portcullis/portcullis/userspace/control"
)

// samplePacket is how many bytes of a packet a sample holds.
const samplePacket = 256

// capture writes samples to a pcapng file, as Wireshark reads it: an interface for each, and with each packet what it was
// dropped for and how many were dropped since the one before without a sample.
type capture struct {
	*call
	name   string
	file   *os.File // nil: standard output
	out    *bufio.Writer
	w      *pcapgo.NgWriter // nil: no packet has come yet
	ids    map[string]int   // of interfaces
	count  int
	missed uint64
}

func (c *call) newCapture(name string) (*capture, error) {
	k := &capture{call: c, name: name, out: c.out, ids: map[string]int{}}
	if name == "-" {
		k.name = "standard output"
		return k, nil
	}
	// Packets hold what is nobody else's business.
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, &usageError{"write packets: " + err.Error(), "name a file that you may write, or - for standard output"}
	}
	k.file, k.out = f, bufio.NewWriter(f)
	return k, nil
}

func (k *capture) drop(d control.Drop) error {
	id, err := k.ifaceID(d.Interface, d.Layer3)
	if err != nil {
		return k.failed(err)
	}
	missed := d.Packets - 1
	options := pcapgo.NgPacketOptions{DropCount: &missed, Comments: []string{why(d)}}
	info := gopacket.CaptureInfo{Timestamp: d.Time, CaptureLength: len(d.Packet), Length: max(d.Length, len(d.Packet)), InterfaceIndex: id}
	if err := k.w.WritePacketWithOptions(info, d.Packet, options); err != nil {
		return k.failed(err)
	}
	k.count++
	return k.flush()
}

// why says what a packet was dropped for.
func why(d control.Drop) string {
	if d.Entry == "" {
		return d.Reason
	}
	return fmt.Sprintf("%s: blacklist %s, source %s", d.Reason, d.Entry, d.EntrySource)
}

// ifaceID is the number of an interface in the file, which is told of it when its first packet comes.
func (k *capture) ifaceID(name string, layer3 bool) (int, error) {
	iface := pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet, SnapLength: samplePacket, TimestampResolution: 9}
	if layer3 {
		iface.LinkType = layers.LinkTypeRaw
	}
	if id, ok := k.ids[name]; ok {
		return id, nil
	}
	id, err := 0, error(nil)
	if k.w == nil {
		k.w, err = pcapgo.NewNgWriterInterface(k.out, iface, pcapgo.NgWriterOptions{
			SectionInfo: pcapgo.NgSectionInfo{Application: "portcullis " + buildVersion(), OS: "linux"},
		})
	} else {
		id, err = k.w.AddInterface(iface)
	}
	k.ids[name] = id
	return id, err
}

func (k *capture) lost(samples uint64) error {
	k.missed += samples
	return nil
}

// flush makes what was written visible to whoever reads along.
func (k *capture) flush() error {
	if k.w == nil {
		return nil
	}
	if err := errors.Join(k.w.Flush(), k.out.Flush()); err != nil {
		return k.failed(err)
	}
	return nil
}

func (k *capture) failed(err error) error {
	if k.file == nil {
		return &outputError{err}
	}
	return fmt.Errorf("write %s: %w", k.name, err)
}

// close ends the file, which is a valid one without packets too.
func (k *capture) close() error {
	var errs []error
	if k.w == nil {
		_, err := k.ifaceID("none", false)
		errs = append(errs, err)
	}
	errs = append(errs, k.flush())
	if k.file != nil {
		if err := k.file.Close(); err != nil {
			errs = append(errs, k.failed(err))
		}
	}
	k.note(fmt.Sprintf("%d packets written to %s", k.count, k.name))
	if k.missed > 0 {
		k.warn(fmt.Sprintf("%d samples were lost, because this was too slow to take them", k.missed))
	}
	return errors.Join(errs...)
}
