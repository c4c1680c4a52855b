/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The verdict on an IPv6 source without a walk: root and gates say which lengths occur around it, and for each of those
 * one line is read (seldom two) that either holds the source's prefix of that length or does not. No address of a line
 * depends on what another one held, so that the CPU reads on meanwhile.
 */
#ifndef INDEX6_H
#define INDEX6_H

#include <linux/in6.h>

#include <bpf/bpf_endian.h>

#include "index.h"

/* Levels by where a bit for them is: in the root, in the gate of the first 32 bits, in that of the first 48. */
#define LEVELS6_32 0x0078
#define LEVELS6_48 0x1f80
#define HOSTS6	   (1 << (LEVEL6_HOSTS - 1))
#define SIDE6	   (1 << 16) /* of a mask: which side is read */

static __always_inline const struct line *index6_line(__u32 slot, __u32 line)
{
	void *segment = bpf_map_lookup_elem(&index_v6, &slot);

	line &= SEGMENT_LINES - 1;
	return segment ? bpf_map_lookup_elem(segment, &line) : NULL;
}

/* One of a word's four numbers of 16 bits. */
static __always_inline __u32 bits6(const struct line *line, __u32 at)
{
	__u64 word = at >> 2 & 7;

	asm volatile("%0 &= 7" : "+r"(word)); /* which Linux 6.1 does not see, and clang would leave out */
	return line->words[word] >> (at & 3) * 16 & 0xffff;
}

static __always_inline __u32 gate6(const struct index6_side *side, __u32 first, __u64 key)
{
	__u32 at = key * side->multiply[0] >> (side->gate_shift & 63);
	const struct line *line = index6_line(first + SLOT6_GATES + (at >> 20), at >> 5);

	return line ? bits6(line, at) : ASK6;
}

/* A bijection of the 64-bit numbers. */
static __always_inline __u64 mix6(const struct index6_side *side, __u64 v)
{
	v *= side->multiply[0];
	v ^= v >> 32;
	v *= side->multiply[1];
	return v ^ v >> 29;
}

/* A table to look into: nets or hosts of one side. */
struct table6 {
	__u32 slot, lines;
};

/* The answer of the word in a line that is this one, but for its answer and for SPILLED6; -1 if there is none. */
static __always_inline int in_line6(const struct line *line, __u64 word, __u64 high, bool host)
{
#pragma unroll
	for (int i = 0; i < (host ? 4 : 8); i++) {
		__u64 w = line->words[i];

		if (!((w ^ word) & ~(__u64)(ANSWER6 | SPILLED6)) && (!host || line->words[i + 4] == high))
			return w & ANSWER6;
	}
	return -1;
}

/* The answer that a table has for what is mixed, -1 if it is not there. */
static __always_inline int in_table6(struct table6 t, __u64 mixed, __u32 level, __u64 high, bool host)
{
	__u32 number = (mixed >> 32) * t.lines >> 32;
	const struct line *line = index6_line(t.slot + (number >> 15), number);
	int answer;

	if (!line)
		return ANSWER6_ASK;
	level <<= LEVEL6_SHIFT;
	answer = in_line6(line, mixed << 8 | level, high, host);
	if (answer >= 0 || !(line->words[0] & SPILLED6))
		return answer;
	mixed = mixed >> 32 | mixed << 32;
	number = (mixed >> 32) * t.lines >> 32;
	line = index6_line(t.slot + (number >> 15), number);
	if (!line)
		return ANSWER6_ASK;
	return in_line6(line, mixed << 8 | SECOND6 | level, high, host);
}

/*
 * The answer of the longest prefix of a source, in host order, that is there; mask: the levels to look for, the root's
 * answer, and the side. Not static, so that the verifier walks it once.
 */
__noinline int find6(__u64 high, __u64 low, __u32 mask)
{
	const struct control_words *words;
	const struct index6_side *side;
	struct table6 t;
	__u32 zero = 0, first;

	words = bpf_map_lookup_elem(&control, &zero);
	if (!words || mask & ASK6)
		return ANSWER6_ASK;
	side = mask & SIDE6 ? &words->sides6[1] : &words->sides6[0];
	first = mask & SIDE6 ? INDEX6_SLOTS : 0;
	if (mask & HOSTS6) {
		__u64 mixed = mix6(side, mix6(side, high + side->step * LEVEL6_HOSTS) + low);
		int answer;

		t.slot = first + SLOT6_HOSTS;
		t.lines = side->hosts;
		answer = in_table6(t, mixed, LEVEL6_HOSTS, high, true);
		if (answer >= 0)
			return answer;
	}
	t.slot = first + SLOT6_NETS;
	t.lines = side->nets;
#pragma nounroll
	for (__u32 level = LEVEL6_HOSTS - 1; level > 0; level--) {
		int answer;

		if (!(mask >> (level - 1) & 1))
			continue;
		answer = in_table6(t, mix6(side, (high & ~0ULL << (48 - 4 * level)) + side->step * level), level, 0,
				   false);
		if (answer >= 0)
			return answer;
	}
	return mask >> ROOT6_SHIFT & 3;
}

static __always_inline enum answer ask_index6(const struct control_words *words, const struct in6_addr *source)
{
	const volatile __u32 *changing = &words->changes6;
	__u32 mask, which, first, root_line, changes = *changing;
	const struct index6_side *side;
	const struct line *line;
	__u64 high, low;
	int answer;

	/* Whoever reads while somebody writes may read half of it: the word must be the same before and after. */
	asm volatile("" ::: "memory");
	which = words->index6 & 1;
	first = which * INDEX6_SLOTS;
	side = &words->sides6[which];
	if (changes & 1 || !side->on)
		return ANSWER_ASK;
	__builtin_memcpy(&high, source, 8);
	__builtin_memcpy(&low, (const char *)source + 8, 8);
	high = bpf_be64_to_cpu(high);
	low = bpf_be64_to_cpu(low);
	root_line = which * ROOT6_LINES + (__u32)(high >> 53);
	line = bpf_map_lookup_elem(&root_v6, &root_line);
	if (!line)
		return ANSWER_ASK; /* cannot happen */
	mask = bits6(line, high >> 48);
	if (side->gate_shift) {
		mask |= gate6(side, first, high & ~0ULL << 32) & (LEVELS6_32 | ASK6);
		mask |= gate6(side, first, high & ~0ULL << 16) & (LEVELS6_48 | ASK6);
	}
	answer = mask >> ROOT6_SHIFT & 3;
	if (mask & ~(3u << ROOT6_SHIFT))
		answer = find6(high, low, mask | which << 16);
	asm volatile("" ::: "memory");
	if (*changing != changes)
		return ANSWER_ASK;
	return answer == ANSWER6_DROP ? ANSWER_DROP : answer == ANSWER6_PASS ? ANSWER_PASS : ANSWER_ASK;
}

#endif
