package main

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package main -output-stem lookup lookup lookup.c -- -O2 -Wall -Wextra -Werror -I../../bpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
