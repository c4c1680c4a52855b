/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The verdict on an IPv4 source without a walk: a bucket, or a cell and where the /24 is dense a leaf. The gate, which
 * fits a CPU's own cache, says which; no address depends on what it says, so that the CPU reads on meanwhile. No loop
 * and no helper: lookups in arrays, also in arrays of maps, are compiled into the program.
 */
#ifndef INDEX_H
#define INDEX_H

#include "maps.h"

enum answer {
	ANSWER_PASS,
	ANSWER_DROP,
	ANSWER_ASK,
};

static __always_inline const struct line *index_line(__u32 slot, __u32 line)
{
	void *segment = bpf_map_lookup_elem(&index_v4, &slot);

	return segment ? bpf_map_lookup_elem(segment, &line) : NULL;
}

/* A bijection of the 32-bit numbers, so that bucket and tag together are the address. */
static __always_inline __u32 mix(const struct index_side *side, __u32 source)
{
	source *= side->multiply[0];
	source ^= source >> 15;
	source *= side->multiply[1];
	return source ^ source >> 13;
}

/* Whether one of four 16-bit lanes is zero: exact, though not about which. */
static __always_inline __u64 zero_lane(__u64 lanes)
{
	return (lanes - 0x0001000100010001ULL) & ~lanes & 0x8000800080008000ULL;
}

static __always_inline bool in_bucket(const struct line *bucket, __u32 mixed)
{
	__u64 tag = (mixed & 0xffff) * 0x0001000100010001ULL;
	const __u64 *words = bucket->words;

	if (!tag)
		return false; /* it would find every free place */
	return (zero_lane(words[0] ^ tag) | zero_lane(words[1] ^ tag) | zero_lane(words[2] ^ tag) |
		zero_lane(words[3] ^ tag) | zero_lane(words[4] ^ tag) | zero_lane(words[5] ^ tag) |
		zero_lane(words[6] ^ tag) | zero_lane(words[7] ^ tag)) != 0;
}

/* How many of the codes below a /24 (at bits 0, 2, 4, ... of codes) have a leaf. */
static __always_inline __u32 leaves_below(__u32 codes, __u32 at)
{
	__u32 n = codes & codes >> 1 & 0x55555555 & ((1u << at) - 1);

	n = (n & 0x33333333) + (n >> 2 & 0x33333333);
	n = (n + (n >> 4)) & 0x0f0f0f0f;
	return n * 0x01010101 >> 24;
}

static __always_inline enum answer in_leaf(__u32 first, __u32 leaf, __u32 source)
{
	const struct line *line =
		index_line(first + SLOT_LEAVES + (leaf >> 16 & 0xff), leaf >> 1 & (SEGMENT_LINES - 1));
	__u64 word;

	if (!line)
		return ANSWER_ASK;
	word = (leaf & 1) << 2 | (source >> 6 & 3);
	asm volatile("%0 &= 7" : "+r"(word)); /* which Linux 6.1 does not see, and clang would leave out */
	return line->words[word] >> (source & 63) & 1 ? ANSWER_DROP : ANSWER_PASS;
}

/* The cell of a /20 that has one. */
static __always_inline enum answer in_cell(__u32 first, __u32 source, bool *hosts)
{
	const struct line *line = index_line(first + SLOT_CELLS + (source >> 30), source >> 15 & (SEGMENT_LINES - 1));
	__u32 at = source >> 7 & 30;
	__u64 cell;

	if (!line)
		return ANSWER_ASK;
	cell = line->words[source >> 12 & 7];
	switch ((__u32)cell >> at & 3) {
	case CODE_HOSTS:
		*hosts = true;
		return ANSWER_PASS;
	case CODE_DROP:
		return ANSWER_DROP;
	case CODE_LEAF:
		return in_leaf(first, (cell >> 32) + leaves_below(cell, at), source);
	default:
		return ANSWER_ASK;
	}
}

/* source is in host order. */
static __always_inline enum answer ask_index(const struct control_words *words, __u32 source)
{
	__u32 which = words->index & 1, first = which * INDEX_SLOTS, gate_line = which * GATE_LINES + (source >> 21);
	const struct index_side *side = &words->sides[which];
	__u32 mixed = mix(side, source), bucket = (mixed >> (side->shift & 31)) & 0x3fffff;
	const struct line *line = bpf_map_lookup_elem(&gate_v4, &gate_line);
	bool hosts = true;

	if (line && line->words[source >> 18 & 7] >> (source >> 12 & 63) & 1) {
		enum answer answer;

		hosts = false;
		answer = in_cell(first, source, &hosts);
		if (!hosts)
			return answer;
	}
	line = index_line(first + SLOT_BUCKETS + (bucket >> 15), bucket & (SEGMENT_LINES - 1));
	if (!line)
		return ANSWER_ASK;
	return in_bucket(line, mixed) ? ANSWER_DROP : ANSWER_PASS;
}

#endif
