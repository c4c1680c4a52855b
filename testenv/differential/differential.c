//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Compares many verdicts with what they should be, in a loop inside the kernel, by the functions and maps of the real
 * program. Loaded once for each way to look sources up.
 */
#include <stdbool.h>
#include <stddef.h>

#include "verdict.h"

char LICENSE[] SEC("license") = "GPL";

struct question {
	struct in6_addr source; /* an IPv4 one in the last word */
	__u32 drop;		/* what the verdict should be */
	__u32 pad[3];
};

/* Written by user space through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

/* Set before each run: the questions from first on, so many. */
__u32 first;
__u32 count;

/* What the run found. */
__u64 dropped;
__u64 indexed; /* answered by the index */
__u64 wrong;
__u32 where; /* the last that was wrong */

static __always_inline long answer(__u32 number, bool v6)
{
	__u32 index = first + number, zero = 0;
	const struct control_words *words = bpf_map_lookup_elem(&control, &zero);
	const struct question *q = bpf_map_lookup_elem(&questions, &index);
	struct in6_addr source;
	struct way way;
	bool drop;

	if (!words || !q)
		return 1;
	source = q->source;
	if (v6)
		way = judge_v6(words, &source);
	else
		way = judge_v4(words, FAMILY_IPV4, source.in6_u.u6_addr32[3]);
	drop = way.reason >= REASON_DROP_BLACKLISTED;
	dropped += drop;
	indexed += way.indexed;
	if (drop != q->drop) {
		wrong++;
		where = index;
	}
	return 0;
}

#define COMPARE(name, v6)                                                                                              \
	static long name##_one(__u32 number, void *unused)                                                             \
	{                                                                                                              \
		(void)unused;                                                                                          \
		return answer(number, v6);                                                                             \
	}                                                                                                              \
	SEC("xdp") int name(struct xdp_md *ctx)                                                                        \
	{                                                                                                              \
		(void)ctx;                                                                                             \
		if (bpf_loop(count, name##_one, NULL, 0) != count)                                                     \
			return XDP_ABORTED;                                                                            \
		return XDP_PASS;                                                                                       \
	}

COMPARE(compare_v4, false)
COMPARE(compare_v6, true)
