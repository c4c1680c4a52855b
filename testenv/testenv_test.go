package testenv

import (
	"bufio"
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEdgeCarriesEveryProbe(t *testing.T) {
	l := New(t)
	e, err := NewEdge(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Host{e.Client, e.Another} {
		if err := e.Reach(h); err != nil {
			t.Error(err)
		}
	}
	// Without the backend every probe meets silence, and that is told apart from an answer.
	if err := e.Gateway.Delete("eth0"); err != nil {
		t.Fatal(err)
	}
	if err := e.Uplink(); err != nil {
		t.Fatal(err)
	}
	if err := e.Reach(e.Client); err != nil {
		t.Fatalf("after the uplink was made again: %v", err)
	}
	if err := e.Internet.Sysctl("net/ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	if err := e.Blocked(e.Client, "ping", "tcp", "udp"); err != nil {
		t.Error(err)
	}
	if err := e.Blocked(e.Client, "ping6"); err == nil {
		t.Error("Blocked does not notice that ping6 is answered")
	}
}

func TestCraftedFramesArrive(t *testing.T) {
	l := New(t)
	e, err := NewEdge(l)
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := e.UplinkMACs()
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Internet.Wire("uplink0")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := e.Gateway.Wire("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	behind, err := e.Backend.Wire("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()

	base := Frame{From: from, To: to, SourcePort: 1, Port: 9}
	v4, v6 := base, base
	v4.Source, v4.Destination = e.Client.IPv4, e.Backend.IPv4
	v6.Source, v6.Destination = e.Client.IPv6, e.Backend.IPv6
	mapped := v6
	mapped.Source = netip.AddrFrom16(e.Client.IPv4.As16())
	first, second := v4, v4
	first.Fragment, first.More, first.ID = true, true, 7
	second.Fragment, second.Offset, second.ID = true, 24, 7
	tests := []struct {
		name   string
		frame  Frame
		routed bool // the gateway's stack finds it sound and passes it on
	}{
		{"ipv4", v4, true},
		{"ipv6", v6, true},
		{"v4-mapped", mapped, true},
		{"fragment", first, true},
		{"later fragment", second, true},
		{"vlan 0", func() Frame { f := v4; f.Tags = []Tag{{EtherVLAN, 0}}; return f }(), true},
		{"vlan 7 in vlan 5", func() Frame { f := v4; f.Tags = []Tag{{EtherQinQ, 5}, {EtherVLAN, 7}}; return f }(), false},
	}
	for _, test := range tests {
		mark := []byte("mark of " + test.name + " ..................")[:32]
		test.frame.Payload = mark
		if err := out.Send(test.frame.Bytes()); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Receive(mark, aliveWithin); err != nil {
			t.Errorf("%s: at the gateway: %v", test.name, err)
		}
		if !test.routed {
			continue
		}
		if _, err := behind.Receive(mark, aliveWithin); err != nil {
			t.Errorf("%s: at the backend: %v", test.name, err)
		}
	}
}

func TestCounterCountsEveryFrame(t *testing.T) {
	l := New(t)
	e, err := NewEdge(l)
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := e.UplinkMACs()
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Internet.Wire("uplink0")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := e.Gateway.Wire("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	one, other := []byte("frame of the one kind"), []byte("frame of the other kind")
	c := in.Count(one, other)
	f := Frame{From: from, To: to, Source: e.Client.IPv4, Destination: e.Backend.IPv4, Port: 9}
	for i := range 20_000 {
		f.Payload = one
		if i%4 == 0 {
			f.Payload = other
		}
		if err := out.Send(f.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, 10*time.Second, "count all frames", func() error {
		if c.Seen(0)+c.Seen(1) != 20_000 {
			return errors.New("not all there")
		}
		return nil
	})
	if lost := c.Stop(); lost != 0 || c.Seen(0) != 15_000 || c.Seen(1) != 5_000 {
		t.Errorf("seen %d and %d, lost %d; want 15000, 5000, 0", c.Seen(0), c.Seen(1), lost)
	}
}

func TestCloseRemovesEverything(t *testing.T) {
	NeedRoot(t)
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	n, err := l.Namespace("n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.MountBPF(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat", "/dev/zero")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("the process in the namespace ended by itself: %v", cmd.ProcessState)
	}
	assertGone(t, l.Dir)
	if err := l.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

// TestLabsOfKilledProcesses runs a test in a process of its own and ends it in the middle: by SIGINT, after which the
// process itself cleans up, and by SIGKILL, after which the next lab or sweep does.
func TestLabsOfKilledProcesses(t *testing.T) {
	NeedRoot(t)
	if os.Getenv("TESTENV_CHILD") != "" {
		childWithLab(t)
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLabsOfKilledProcesses$")
		cmd.Env = append(os.Environ(), "TESTENV_CHILD=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		dir, found := strings.CutPrefix(strings.TrimSpace(line), "LAB ")
		if err != nil || !found {
			t.Fatalf("the child said %q (%v)", line, err)
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s {
			t.Errorf("%v: the child ended with %v", s, cmd.ProcessState)
		}
		if s == syscall.SIGKILL {
			if err := Sweep(); err != nil {
				t.Fatal(err)
			}
		}
		assertGone(t, dir)
	}
}

// childWithLab says where its lab is and waits to be killed.
func childWithLab(t *testing.T) {
	l := New(t)
	n, err := l.Namespace("n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.MountBPF(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(exec.Command("sleep", "600")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("LAB " + l.Dir + "\n"); err != nil {
		t.Fatal(err)
	}
	select {}
}

func assertGone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts below %s are still there", dir)
	}
}
