// Package loader owns the XDP program, its links and its maps on the chosen interfaces.
//
// It has two halves. [Maps] only writes pinned maps (lists, switches, counters) and works without capabilities on
// pins its process owns (Linux 6.0 and newer), but for the index: filling it, and giving it more memory, needs
// CAP_BPF, and without that packets are looked up in the slower way. [Loader] needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: it makes the
// pins, attaches, upgrades without a gap and reconciles interfaces that were made again. Linux 5.15 or newer.
//
// Everything is pinned, so a block holds after Close, exit and kill -9 of this process, at whatever step, and ends
// on time; only [Detach] and a reboot end enforcement.
//
// Under the pin directory, which has mode 0750 and a flock held by the one Loader that has it open:
//
//	control, lpm_v4_a, lpm_v4_b, lpm_v6_a, lpm_v6_b,
//	index_v4, gate_v4, index_v6, root_v6,
//	checks, sources, samples, sampled                       the maps; without control the others do not count
//	link_IF, prog_IF, counters_IF                           of each interface; no link_IF: not attached, or detached
//	detached_IF/                                            Detach took IF off; the next Attach removes the mark
//	lock/                                                   flocked while links and pins change
//	staging_maps/, staging_interface/                       what is being made, until it is renamed; not after a crash
//
// IF is the interface name, percent-encoded where a bpf filesystem would refuse it: eth0.100 is eth0%2E100.
package loader
