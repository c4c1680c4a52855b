package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -output-stem portcullis -type reason -type family -type layout -type cell_flag -type count -type lpm_key_v4 -type lpm_key_v6 -type cell -type control_words -type index_layout -type index_code -type gate_bits -type index6_layout -type word6 -type bits6 -type answer6 -type line -type check -type sampling -type sample -type sample_count -type hits portcullis portcullis.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
