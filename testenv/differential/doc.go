// Package differential compares verdicts by the hundred million: those of the index, of the LPM tries, of the reference
// matcher and of an implementation from outside (gaissmai/bart), while the lists change. It is nothing but tests, and the
// program that they run in the kernel.
package differential

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package differential -output-stem differential differential differential.c -- -O2 -Wall -Wextra -Werror -I../../bpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
