package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// flood sends frames of listed clients, and every sixteenth of one that is not, until it is stopped.
type flood struct {
	stop   chan struct{}
	result chan error
	listed uint64 // valid after end
	free   uint64
}

const (
	listedMark = "frame of a listed client"
	freeMark   = "frame of another client"
)

// flood starts sending over the uplink, IPv4 and IPv6 in turn.
func (r *rig) flood() *flood {
	r.t.Helper()
	out := r.wire(r.Internet.Namespace, "uplink0")
	four := r.frame(r.Client, listedMark)
	six := four
	six.Source, six.Destination = r.Client.IPv6, r.Backend.IPv6
	mapped := six
	mapped.Source = netip.AddrFrom16(r.Client.IPv4.As16())
	tagged := four
	tagged.Tags = []testenv.Tag{{Type: testenv.EtherVLAN}}
	listed := [][]byte{four.Bytes(), six.Bytes(), mapped.Bytes(), tagged.Bytes()}
	free := r.frame(r.Another, freeMark).Bytes()

	f := &flood{stop: make(chan struct{}), result: make(chan error, 1)}
	go func() {
		for i := 0; ; i++ {
			select {
			case <-f.stop:
				f.result <- nil
				return
			default:
			}
			frame := listed[i%len(listed)]
			if i%16 == 15 {
				frame = free
				f.free++
			} else {
				f.listed++
			}
			if err := out.Send(frame); err != nil {
				f.result <- err
				return
			}
		}
	}()
	return f
}

func (f *flood) end() error {
	close(f.stop)
	return <-f.result
}

// TestKillUnderTrafficLeaksNothing kills and restarts the daemon at random moments while listed clients send as fast
// as they can, and counts what arrives behind XDP.
func TestKillUnderTrafficLeaksNothing(t *testing.T) {
	r := start(t)
	rnd := random(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", "2001:db8:1::/64")
	before := r.packets()

	count := r.wire(r.Gateway.Namespace, "eth0").Count([]byte(listedMark), []byte(freeMark))
	traffic := r.flood()
	const kills = 12
	for i := range kills {
		if i%3 == 2 { // in the middle of its start
			r.must(r.daemon.Launch())
			wait(time.Duration(rnd.IntN(150)) * time.Millisecond)
		} else {
			if i > 0 {
				r.must(r.daemon.Start())
			}
			wait(time.Duration(rnd.IntN(50)) * time.Millisecond)
		}
		r.must(r.daemon.Kill())
	}
	r.must(r.daemon.Start())
	r.must(r.daemon.Stop())
	r.must(r.daemon.Start())
	r.must(traffic.end())

	testenv.Eventually(t, 10*time.Second, "count every frame of the client that is on no list", func() error {
		if got := count.Seen(1); got != traffic.free {
			return fmt.Errorf("%d of %d arrived", got, traffic.free)
		}
		return nil
	})
	lost := count.Stop()
	t.Logf("%d kills: of %d frames of listed clients %d leaked; of %d others %d arrived; the counting socket lost %d",
		kills, traffic.listed, count.Seen(0), traffic.free, count.Seen(1), lost)
	if count.Seen(0) != 0 || lost != 0 || traffic.listed < 10_000 {
		t.Errorf("want none leaked, none lost, and at least 10,000 sent")
	}
	// The same from the other side: each listed frame is in a drop counter, across all those restarts.
	after := r.packets()
	dropped := after["ipv4 drop_blacklisted"] + after["ipv6 drop_blacklisted"] - before["ipv4 drop_blacklisted"] - before["ipv6 drop_blacklisted"]
	if dropped != traffic.listed {
		t.Errorf("the kernel counted %d drops of %d frames", dropped, traffic.listed)
	}
}

// wait lets a random while pass: the moment of the kill is what is random.
func wait(d time.Duration) { <-time.After(d) }

// TestKillDuringChange kills the daemon while a command runs. What the lists then hold is the state before the command
// or the one after it; and if the command was answered, the one after.
func TestKillDuringChange(t *testing.T) {
	r := start(t)
	rnd := random(t)
	for i := range 5 {
		r.cli("add_blacklist", "ip", fmt.Sprintf("203.0.113.%d", 100+i))
	}
	r.cli("add_whitelist", "ip", "203.0.113.200")

	answered, kept := 0, 0
	const rounds = 20 // twelve adds, four deletes, four clears, in random order
	order := rnd.Perm(rounds)
	for i := range rounds {
		before := r.lists()
		change := r.change(order[i]%5, i)
		type result struct {
			out testenv.Output
			err error
		}
		done := make(chan result)
		go func() {
			out, err := r.daemon.Ask(change.stdin, change.args...)
			done <- result{out, err}
		}()
		wait(time.Duration(rnd.IntN(60_000)) * time.Microsecond)
		r.must(r.daemon.Kill())
		command := <-done
		r.must(command.err)
		r.must(r.daemon.Start())

		now, after := r.lists(), change.after(before)
		switch {
		case command.out.Code == 0:
			answered++
			if !slices.Equal(now, after) {
				t.Fatalf("round %d: %q was answered, but the lists are %q, want %q", i, change.args, now, after)
			}
		case !slices.Equal(now, before) && !slices.Equal(now, after):
			t.Fatalf("round %d: %q: the lists are %q, want %q or %q", i, change.args, now, before, after)
		}
		if slices.Equal(now, before) {
			kept++
		}
		s, err := r.daemon.Status()
		r.must(err)
		if s.Generation.Kernel != s.Generation.Store || len(s.Degraded) != 0 {
			t.Fatalf("round %d: kernel generation %d, store %d, degraded %q", i, s.Generation.Kernel, s.Generation.Store, s.Degraded)
		}
	}
	t.Logf("%d rounds: %d answered, %d without effect", rounds, answered, kept)
}

// change is one command and what it makes of the lists.
type change struct {
	args  []string
	stdin string
	after func(before []string) []string
}

// change makes an add (kinds 0 to 2), a delete (3) or a clear (4).
func (r *rig) change(kind, round int) change {
	switch kind {
	case 0, 1, 2:
		ip := fmt.Sprintf("198.51.100.%d", 100+round)
		return change{args: []string{"add_blacklist", "ip", ip}, after: func(b []string) []string {
			return sorted(append(slices.Clone(b), "blacklist "+ip))
		}}
	case 3:
		list := r.lists()
		victim := strings.TrimPrefix(list[0], "blacklist ")
		if victim == list[0] {
			victim = "203.0.113.99" // nothing left on the blacklist: the command fails, and nothing changes
		}
		return change{args: []string{"delete_blacklist", "ip", victim}, after: func(b []string) []string {
			return slices.DeleteFunc(slices.Clone(b), func(e string) bool { return e == "blacklist "+victim })
		}}
	default:
		return change{args: []string{"clear_blacklist"}, stdin: "y\n", after: func(b []string) []string {
			return slices.DeleteFunc(slices.Clone(b), func(e string) bool { return strings.HasPrefix(e, "blacklist ") })
		}}
	}
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// lists reads both lists as "blacklist 1.1.1.1", sorted.
func (r *rig) lists() []string {
	r.t.Helper()
	var all []string
	for _, list := range []string{"blacklist", "whitelist"} {
		for line := range strings.Lines(r.cli("view_" + list)) {
			if _, value, ok := strings.Cut(strings.TrimSpace(line), "type : ip, value : "); ok {
				all = append(all, list+" "+value)
			}
		}
	}
	return sorted(all)
}
