// Package bpf decides about one packet, in the kernel: the C programs, their Go bindings, and the tests that hold
// every rule of docs/DATAPATH.md against the kernel's verdict.
//
// There are four entry programs around one body. [ProgEth] and [ProgEthFrags] are for devices with an Ethernet
// header, [ProgL3] and [ProgL3Frags] for those whose packets begin with the IP header (tun, ipip, gre, WireGuard,
// PPP). The Frags pair also takes packets of several fragments and needs Linux 5.18; the other pair needs 5.15.
//
// The C header portcullis.h is the source of every enum and struct here; a test holds the names together. C and
// generated files are little endian. To change the program: edit the C, run go generate (clang-19), commit both.
package bpf
