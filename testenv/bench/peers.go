package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/testenv/generator"
)

// Names of receivers that ratios ask for.
const (
	emptyDrop = "empty program, drops"
	emptyPass = "empty program, passes"
	noFilter  = "no filter"
	nftables  = "nftables"
	ipset     = "ipset"
	xdpFilter = "xdp-filter"
	watched   = "portcullis, watched"
)

// ours names the receiver that is our program in a mode.
func ours(mode string) string { return "portcullis, " + mode }

// filterMax is the size of xdp-filter's maps.
const filterMax = 10_000

// receivers in the order of the tables, each as fast as we know how to configure it.
func receivers() []receiver {
	all := []receiver{
		{name: emptyDrop, about: "native XDP, `return XDP_DROP`: the limit", up: emptyProgram(false)},
		{name: emptyPass, about: "native XDP, `return XDP_PASS`", passes: true, up: emptyProgram(true)},
		{name: noFilter, about: "the kernel alone; its receive queue comes from GRO", passes: true, up: bare},
	}
	for _, m := range modes {
		about := fmt.Sprintf("native XDP, mode=%s, attached without fragments", m.name)
		all = append(all, receiver{name: ours(m.name), about: about, filters: true, up: program(m)})
	}
	last := modes[len(modes)-1]
	return append(all,
		receiver{name: watched, about: "the same in mode " + last.name + ", while samples of what it drops are read 20 times a second", filters: true,
			up: program(last), during: readSamples},
		receiver{name: nftables, about: "a netdev set of declared size at the ingress hook of the interface, one rule", filters: true, up: nftUp},
		receiver{name: ipset, about: "hash:ip with as many buckets as entries, one rule of iptables-legacy, raw PREROUTING", filters: true, up: ipsetUp},
		receiver{name: xdpFilter, about: "native XDP, the smallest program (IPv4 sources, policy allow)", filters: true, most: filterMax, up: xdpFilterUp},
	)
}

func emptyProgram(pass bool) func(*session, *testenv.Namespace, blocklist, *held) (io.Closer, error) {
	return func(_ *session, n *testenv.Namespace, _ blocklist, _ *held) (io.Closer, error) {
		return generator.Empty(n, "eth0", pass)
	}
}

func bare(_ *session, n *testenv.Namespace, _ blocklist, _ *held) (io.Closer, error) {
	return closers{}, n.GRO("eth0")
}

func program(m mode) func(*session, *testenv.Namespace, blocklist, *held) (io.Closer, error) {
	return func(_ *session, n *testenv.Namespace, _ blocklist, h *held) (io.Closer, error) {
		c, err := h.program(m)
		if err != nil {
			return nil, err
		}
		l, err := generator.Attach(n, "eth0", c.Programs[bpf.ProgEth])
		if err != nil {
			c.Close()
			return nil, err
		}
		return closers{closeFunc(func() error { c.Close(); return nil }), l}, nil
	}
}

// readSamples reads as the daemon does for portcullis watch.
func readSamples(h *held) (end func(dropsAll bool) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.l.Maps().ReadSamples(ctx, func([]loader.Sample) {}) }()
	return func(dropsAll bool) error {
		before, err := h.l.Maps().Sampled()
		cancel()
		if err = errors.Join(err, <-done); err == nil && dropsAll && before.Written == 0 {
			err = errors.New("no sample was written: the rate would mean nothing")
		}
		return err
	}
}

// command runs a tool in a namespace and returns what it says.
func command(n *testenv.Namespace, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s: %w: %s", name, err, text[:min(len(text), 300)])
	}
	return nil
}

// write makes a file in the lab.
func (s *session) write(name string, text func(w *bufio.Writer)) (path string, err error) {
	path = filepath.Join(s.lab.Dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	w := bufio.NewWriter(f)
	text(w)
	return path, errors.Join(w.Flush(), f.Close())
}

// plainFile writes a list as feeds do, hosts only.
func (s *session) plainFile(list blocklist) (string, error) {
	return s.write("list.txt", func(w *bufio.Writer) {
		for _, p := range list.prefixes {
			fmt.Fprintln(w, p.Addr())
		}
	})
}

// nftFile writes a ruleset with the list, hosts only.
func (s *session) nftFile(list blocklist) (string, error) {
	return s.write("list.nft", func(w *bufio.Writer) {
		fmt.Fprintf(w, "table netdev bench {\n\tset listed {\n\t\ttype ipv4_addr\n\t\tsize %d\n\t\telements = {\n", len(list.prefixes))
		for _, p := range list.prefixes {
			fmt.Fprintf(w, "%s,\n", p.Addr())
		}
		fmt.Fprint(w, "\t\t}\n\t}\n\tchain ingress {\n\t\ttype filter hook ingress device \"eth0\" priority -500; policy accept;\n"+
			"\t\tip saddr @listed drop\n\t}\n}\n")
	})
}

func nftUp(s *session, n *testenv.Namespace, list blocklist, _ *held) (io.Closer, error) {
	path, err := s.nftFile(list)
	if err != nil {
		return nil, err
	}
	defer os.Remove(path)
	if err := errors.Join(n.GRO("eth0"), command(n, "nft", "-f", path)); err != nil {
		return nil, err
	}
	return closeFunc(func() error { return command(n, "nft", "flush", "ruleset") }), nil
}

// ipsetFile writes a set for ipset restore, hosts only.
func (s *session) ipsetFile(list blocklist) (string, error) {
	return s.write("list.ipset", func(w *bufio.Writer) {
		buckets := 1024
		for buckets < len(list.prefixes) {
			buckets *= 2
		}
		fmt.Fprintf(w, "create listed hash:ip family inet hashsize %d maxelem %d\n", buckets, len(list.prefixes))
		for _, p := range list.prefixes {
			fmt.Fprintf(w, "add listed %s\n", p.Addr())
		}
	})
}

func ipsetUp(s *session, n *testenv.Namespace, list blocklist, _ *held) (io.Closer, error) {
	path, err := s.ipsetFile(list)
	if err != nil {
		return nil, err
	}
	defer os.Remove(path)
	err = errors.Join(n.GRO("eth0"), command(n, "ipset", "restore", "-file", path),
		command(n, "iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-m", "set", "--match-set", "listed", "src", "-j", "DROP"))
	if err != nil {
		return nil, err
	}
	return closeFunc(func() error {
		return errors.Join(command(n, "iptables-legacy", "-t", "raw", "-F"), command(n, "ipset", "destroy"))
	}), nil
}

// xdpFilterUp lets xdp-filter attach and list one address, in mounts of its own since it pins below /sys/fs/bpf. The
// other addresses get the same value by the map itself: a process for each would take minutes.
func xdpFilterUp(_ *session, n *testenv.Namespace, list blocklist, _ *held) (io.Closer, error) {
	first := list.prefixes[0].Addr()
	script := fmt.Sprintf("mount --make-rprivate / && mount -t bpf bpf /sys/fs/bpf && "+
		"xdp-filter load -m native -p allow -f ipv4 eth0 && xdp-filter ip -m src %s", first)
	if err := command(n, "unshare", "-m", "sh", "-c", script); err != nil {
		return nil, err
	}
	m, err := attachedMap(n, "filter_ipv4")
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var values []uint64
	if err := m.Lookup(first.As4(), &values); err != nil {
		return nil, fmt.Errorf("read xdp-filter's map: %w", err)
	}
	for _, p := range list.prefixes[1:] {
		if err := m.Put(p.Addr().As4(), values); err != nil {
			return nil, fmt.Errorf("fill xdp-filter's map: %w", err)
		}
	}
	return closers{}, nil // it goes with the namespace
}

// attachedMap opens a map of the program that is attached to eth0.
func attachedMap(n *testenv.Namespace, name string) (found *ebpf.Map, err error) {
	var id int
	err = n.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil && l.Attrs().Xdp == nil {
			err = errors.New("no program is attached")
		}
		if err == nil {
			id = int(l.Attrs().Xdp.ProgId)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find program on eth0: %w", err)
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return nil, fmt.Errorf("open program on eth0: %w", err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil, fmt.Errorf("describe program on eth0: %w", err)
	}
	ids, _ := info.MapIDs()
	for _, id := range slices.Backward(ids) {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, fmt.Errorf("open map of program on eth0: %w", err)
		}
		if i, err := m.Info(); err == nil && i.Name == name {
			return m, nil
		}
		_ = m.Close()
	}
	return nil, fmt.Errorf("the program on eth0 has no map %s", name)
}
