// Package loader owns the XDP program, its links and its maps on the chosen interfaces.
//
// It has two halves. [Maps] only writes pinned maps (apply, switches, counters) and works without capabilities on
// pins its process may open. [Loader] needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: it makes the pins, attaches,
// upgrades without a gap and reconciles interfaces that were made again. Everything is pinned, so a block holds
// after Close, exit and kill -9 of this process; only [Detach] and a reboot end it.
//
// Under the pin directory: control, lpm_v4_a, lpm_v4_b, lpm_v6_a, lpm_v6_b, and for each interface link_<interface>, prog_<interface>,
// counters_<interface>.
package loader
