//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Judges many sources in a loop inside the kernel, by the functions and maps of the real program, so that a test run's
 * own cost is nothing beside it.
 */
#include <stdbool.h>
#include <stddef.h>

#include "verdict.h"

char LICENSE[] SEC("license") = "GPL";

/* Sources of 4 bytes in a block of the ring; of 16 bytes there are 4. */
#define SOURCES_V4 16
#define SOURCES_V6 4

union block {
	__be32 v4[SOURCES_V4];
	struct in6_addr v6[SOURCES_V6];
};

/* The sources, taken in turn; a power of two of blocks, which user space writes through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, union block);
} ring SEC(".maps");

/* Set before each run. */
__u32 first;  /* block to begin with */
__u32 count;  /* blocks to judge */
__u32 spread; /* blocks in the ring - 1 */
__u64 nothing;

/* What the run found: how many were dropped, and a sum that orders loads. */
__u64 dropped;
__u64 order;

/* What is measured: the loop alone, verdicts that the CPU may overlap, or each only after the one before. */
enum kind { LOOP, OVERLAPPED, DEPENDENT };

struct run {
	__u64 drops;
};

/*
 * 0, known only when the verdict is: a locked addition waits for all that came before, and what it wrote is read again.
 * The verdict alone would not do, since the CPU guesses it where it branches.
 */
static __always_inline __u32 after(enum reason reason)
{
	__sync_fetch_and_add(&order, reason);
	return *(volatile __u64 *)&order & nothing;
}

static __always_inline enum reason judge_one(const struct control_words *words, const union block *block, int i,
					     __u32 wait, enum kind kind, bool v6)
{
	struct in6_addr source;

	if (kind == LOOP)
		return v6 ? block->v6[i].in6_u.u6_addr32[3] : block->v4[i];
	if (!v6)
		return judge_v4(words, FAMILY_IPV4, block->v4[i] ^ wait).reason;
	source = block->v6[i];
	source.in6_u.u6_addr32[0] ^= wait;
	return judge_v6(words, &source).reason;
}

static __always_inline long judge_block(__u32 number, struct run *run, enum kind kind, bool v6)
{
	__u32 index = (first + number) & spread, zero = 0, wait = 0;
	const struct control_words *words = bpf_map_lookup_elem(&control, &zero);
	union block *block = bpf_map_lookup_elem(&ring, &index);

	if (!words || !block)
		return 1;
#pragma nounroll
	for (int i = 0; i < (v6 ? SOURCES_V6 : SOURCES_V4); i++) {
		enum reason reason = judge_one(words, block, i, wait, kind, v6);

		if (kind == DEPENDENT)
			wait = after(reason);
		run->drops += reason >= REASON_DROP_BLACKLISTED;
	}
	return 0;
}

/* The programs: one for each kind and family. */
#define LOOKUP(name, kind, v6)                                                                                         \
	static long name##_block(__u32 number, void *run)                                                              \
	{                                                                                                              \
		return judge_block(number, run, kind, v6);                                                             \
	}                                                                                                              \
	SEC("xdp") int name(struct xdp_md *ctx)                                                                        \
	{                                                                                                              \
		struct run run = {};                                                                                   \
                                                                                                                       \
		(void)ctx;                                                                                             \
		if (bpf_loop(count, name##_block, &run, 0) != count)                                                   \
			return XDP_ABORTED;                                                                            \
		dropped = run.drops;                                                                                   \
		return XDP_PASS;                                                                                       \
	}

LOOKUP(v4_loop, LOOP, false)
LOOKUP(v4_overlapped, OVERLAPPED, false)
LOOKUP(v4_dependent, DEPENDENT, false)
LOOKUP(v6_loop, LOOP, true)
LOOKUP(v6_overlapped, OVERLAPPED, true)
LOOKUP(v6_dependent, DEPENDENT, true)
