package generator

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package generator -output-stem generator generator generator.c -- -O2 -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
