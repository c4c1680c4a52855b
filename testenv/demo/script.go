package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// script is a running demo.
type script struct {
	edge   *testenv.Edge
	daemon *testenv.Daemon
	out    io.Writer
	err    error // the first thing that went wrong; nothing happens after it
}

// Ways in, as testenv.Edge names them.
var (
	ipv4 = []string{"ping", "tcp"}
	ipv6 = []string{"ping6", "tcp6"}
	both = []string{"ping", "tcp", "ping6", "tcp6"}
)

func (s *script) play() error {
	client, another := s.edge.Client, s.edge.Another
	ip, ip6, neighbour := client.IPv4.String(), client.IPv6.String(), another.IPv4.String()

	s.say("client and another client reach the backend through the gateway:\n")
	s.say("  client  %s, %s ──┐", ip, ip6)
	s.say("                                          ├── internet ── eth0 gateway eth1 ── backend %s", s.edge.Backend.IPv4)
	s.say("  another %s, %s ───┘\n", neighbour, another.IPv6)
	s.lives(client, both)
	s.lives(another, both)

	s.start("The daemon starts on the gateway's eth0:")
	s.lives(client, both)

	s.say("\nA listed client is cut off, another client is not.")
	s.command("", "add_blacklist", "ip", ip)
	s.dies(client, ipv4)
	s.lives(client, ipv6)
	s.lives(another, both)
	s.command("", "delete_blacklist", "ip", ip)
	s.lives(client, both)

	s.say("\nA listed /24 cuts off its members; the whitelist always wins.")
	s.command("", "add_blacklist", "ip", "198.51.100.0/24")
	s.dies(client, ipv4)
	s.dies(another, ipv4)
	s.command("", "add_whitelist", "ip", neighbour)
	s.dies(client, ipv4)
	s.lives(another, both)

	s.say("\nIPv6 is no way around.")
	s.command("", "add_blacklist", "ip", ip6)
	s.dies(client, both)
	s.lives(another, both)
	s.command("", "view_blacklist", "all")
	s.command("", "view_whitelist")

	s.say("\nThe daemon is killed: the kernel goes on.")
	s.kill()
	s.dies(client, both)
	s.lives(another, both)
	s.start("It starts again, and nothing is different:")
	s.dies(client, both)
	s.lives(another, both)

	s.say("\nClearing brings traffic back.")
	s.command("y\n", "clear_blacklist")
	s.lives(client, both)
	s.lives(another, both)
	s.command("", "view_blacklist", "all")

	s.say("\nWhat the kernel counted on eth0:")
	s.counters()
	s.stop()
	return s.err
}

// say prints a line.
func (s *script) say(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.out, format+"\n", args...)
	}
}

// command types one of the seed's commands and prints what it answers.
func (s *script) command(stdin string, args ...string) {
	args = append([]string{"-u", "admin", "-p", "admin"}, args...)
	s.say("\n$ bin/cli.sh %s", strings.Join(args, " "))
	if s.err != nil {
		return
	}
	out, err := s.daemon.Ask(stdin, args...)
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", strings.Join(args, " "), out.Code, out.Stderr)
	}
	if err != nil {
		s.err = err
		return
	}
	if prompt, rest, asked := strings.Cut(out.Stdout, ":"); asked && stdin != "" {
		out.Stdout = prompt + ":" + stdin + strings.TrimLeft(rest, "\n") // as a terminal would show what was typed
	}
	s.say("%s", strings.TrimSuffix(out.Stdout, "\n"))
}

// lives checks and shows that the client gets through.
func (s *script) lives(h *testenv.Host, ways []string) { s.look(h, ways, "ok", s.edge.Reach) }

// dies checks and shows that nothing of the client gets through.
func (s *script) dies(h *testenv.Host, ways []string) { s.look(h, ways, "dropped", s.edge.Blocked) }

func (s *script) look(h *testenv.Host, ways []string, verdict string, try func(*testenv.Host, ...string) error) {
	if s.err != nil {
		return
	}
	if err := try(h, ways...); err != nil {
		s.err = fmt.Errorf("expected %s of %s to be %s: %w", strings.Join(ways, ", "), h.Name, verdict, err)
		return
	}
	line := fmt.Sprintf("    %-8s", h.Name)
	for _, w := range ways {
		line += fmt.Sprintf(" %-5s %-8s", w, verdict)
	}
	s.say("%s", strings.TrimRight(line, " "))
}

func (s *script) start(why string) {
	s.say("\n%s\n$ bin/portcullis serve --interface eth0 --mode native &", why)
	if s.err == nil {
		s.err = s.daemon.Start()
	}
}

func (s *script) kill() {
	s.say("$ kill -9 %%1")
	if s.err == nil {
		s.err = s.daemon.Kill()
	}
}

// stop ends the daemon, which does not end enforcement, and then that too, by the command for it.
func (s *script) stop() {
	if s.err == nil {
		s.err = s.daemon.Stop()
	}
	if s.err != nil {
		return
	}
	s.say("\nStopping the daemon is not detaching; this is:\n$ bin/portcullis detach")
	out, err := s.daemon.InNamespace("detach", "--pin-dir", s.daemon.PinDir)
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("detach: exit code %d: %s", out.Code, out.Stderr)
	}
	if err != nil {
		s.err = err
		return
	}
	s.say("%s", strings.TrimSuffix(out.Stdout, "\n"))
}

// counters shows the counters that moved, and that drops show in them.
func (s *script) counters() {
	if s.err != nil {
		return
	}
	var counts map[string]uint64
	// The per-CPU counters of the last probes are there as soon as their answers are.
	s.err = testenv.Poll(time.Second, func() (err error) {
		if counts, err = s.daemon.Packets(); err != nil {
			return err
		}
		if counts["ipv4 drop_blacklisted"] == 0 || counts["ipv6 drop_blacklisted"] == 0 || counts["ipv4 pass_index"] == 0 {
			return errors.New("counters did not move")
		}
		return nil
	})
	for _, name := range []string{
		"ipv4 drop_blacklisted", "ipv6 drop_blacklisted", "ipv4 pass_index", "ipv6 pass_index",
	} {
		s.say("    %-24s %6d packets", name, counts[name])
	}
}
