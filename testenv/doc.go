// Package testenv makes throw-away networks for tests and the demo: namespaces, veth pairs, addresses, traffic,
// a bpf filesystem, and the daemon itself.
//
// Everything a [Lab] makes hangs below one directory: namespaces are files there (enter one from a shell with
// nsenter --net=FILE), the bpf filesystem is mounted there, state and socket live there. Closing the lab ends the
// processes in its namespaces, unmounts, and removes the directory; nothing else on the host is touched. A test that
// fails, panics or is interrupted closes its lab too, and what a killed one leaves behind the next lab removes.
//
// Needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW). Only tests, the demo and the benchmark may import it, and it imports
// nothing of ours, so that every package's tests can.
package testenv
