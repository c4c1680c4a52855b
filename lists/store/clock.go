package store

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ClockSource is where a [Clock] reads from; the zero value reads the machine. Tests replace the fields.
// The functions must be safe for concurrent use.
type ClockSource struct {
	Wall   func() time.Time     // CLOCK_REALTIME
	Boot   func() time.Duration // CLOCK_BOOTTIME
	BootID func() string        // /proc/sys/kernel/random/boot_id
}

// withDefaults fills in the machine's own clocks.
func (c ClockSource) withDefaults() (ClockSource, error) {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Boot == nil {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			return c, fmt.Errorf("read boot clock: %w", err)
		}
		c.Boot = func() time.Duration {
			var ts unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it worked above
			return time.Duration(ts.Nano())
		}
	}
	if c.BootID == nil {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return c, fmt.Errorf("read boot id: %w", err)
		}
		c.BootID = func() string { return strings.TrimSpace(string(id)) }
	}
	return c, nil
}

// Clock is wall time that does not jump: it is anchored once a boot to the wall clock, kept in the database with
// the boot id, and then follows CLOCK_BOOTTIME, across restarts of the daemon and steps of the wall clock.
// After a reboot it is anchored anew, never before the last time the database has seen, and no entry may live
// longer from then on than its first time to live.
// The kernel's deadlines (bpf_ktime_get_boot_ns) come from the same clock. Safe for concurrent use.
type Clock struct {
	source ClockSource
	anchor anchor
}

// anchor ties the boot clock of one boot to the wall clock.
type anchor struct {
	bootID string
	wall   time.Time
	boot   time.Duration
}

// newClock takes over the anchor that the database holds (zero: none) if it is of this boot, and makes one
// otherwise. seen is the last time that the database was written, on its clock.
func newClock(source ClockSource, kept anchor, seen time.Time) *Clock {
	id := source.BootID()
	if kept.bootID == id {
		return &Clock{source: source, anchor: kept}
	}
	boot, wall := source.Boot(), source.Wall().UTC().Round(0)
	if wall.Before(seen) { // a machine whose wall clock starts at 1970, say
		wall = seen.UTC()
	}
	return &Clock{source: source, anchor: anchor{bootID: id, wall: wall, boot: boot}}
}

// Now returns the present time in UTC.
func (c *Clock) Now() time.Time { return c.anchor.wall.Add(c.source.Boot() - c.anchor.boot) }

// Boot converts a time on this clock to CLOCK_BOOTTIME; times before boot become 1ns.
func (c *Clock) Boot(t time.Time) time.Duration {
	return max(1, c.anchor.boot+t.Sub(c.anchor.wall))
}

// Skew is how far the machine's wall clock is ahead of this one: what it was stepped by since boot. Ends of
// entries do not follow such steps; ends given as a point in time are off by that much until the next boot.
func (c *Clock) Skew() time.Duration { return c.source.Wall().Sub(c.Now()) }
