package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestGaplessKills kills and restarts the daemon at random moments while listed clients send as fast
// as they can, and counts what arrives behind XDP.
func TestGaplessKills(t *testing.T) {
	r := start(t)
	rnd := random(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", "2001:db8:1::/64")
	before := r.packets()

	count := r.count()
	traffic := r.flood(0)
	kills := times(12, 100)
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
	r.expectExact(traffic, count, fmt.Sprintf("%d kills", kills))
	// The same from the other side: each listed frame is in a drop counter, across all those restarts.
	r.expectDropped(before, traffic)
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
