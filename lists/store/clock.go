package store

import "time"

// ClockSource is where a [Clock] reads from; the zero value reads the machine. Tests replace the fields.
type ClockSource struct {
	Wall   func() time.Time     // CLOCK_REALTIME
	Boot   func() time.Duration // CLOCK_BOOTTIME
	BootID func() string        // /proc/sys/kernel/random/boot_id
}

// Clock is wall time that does not jump: it is anchored once a boot to the wall clock, kept in the database with
// the boot id, and then follows CLOCK_BOOTTIME, across restarts of the daemon and steps of the wall clock.
// After a reboot it is anchored anew, and no entry may live longer from then on than its first time to live.
// The kernel's deadlines (bpf_ktime_get_boot_ns) come from the same clock. Safe for concurrent use.
type Clock struct{}

// Now returns the present time in UTC.
func (c *Clock) Now() time.Time { panic("contract") }

// Boot converts a time on this clock to CLOCK_BOOTTIME; times before boot become 1ns.
func (c *Clock) Boot(t time.Time) time.Duration { panic("contract") }
