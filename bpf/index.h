/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The verdict on an IPv4 source without a walk: a bucket, or a cell and where the /24 is dense a leaf, or neither. The
 * gate, which fits a CPU's own cache, says which; no address depends on what it says, so that the CPU reads on
 * meanwhile. No loop and no helper: lookups in arrays, also in arrays of maps, are compiled into the program.
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

#define LANES	  0x0001000100010001ULL
#define LANE_TOPS 0x8000800080008000ULL

/* Leaves the top bits of those of four lanes of 16 bits that are not the tag's. */
static __always_inline __u64 others(__u64 lanes, __u64 tag)
{
	return (lanes ^ tag) -
	       LANES; /* which takes nothing from the next lane: the tag's top bits are 1, those of lanes 0 */
}

static __always_inline bool in_half(const __u64 *half, __u32 mixed)
{
	__u64 tag = (mixed & 0x7fff) * LANES;

	if (!tag)
		return false; /* it would find every free place */
	tag |= LANE_TOPS;
	return (others(half[0], tag) & others(half[1], tag) & others(half[2], tag) & others(half[3], tag) &
		LANE_TOPS) != LANE_TOPS;
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
	__u32 which = words->index & 1, first = which * INDEX_SLOTS, gate_line = which * GATE_LINES + (source >> 20);
	const struct index_side *side = &words->sides[which];
	__u32 mixed = mix(side, source), half = mixed >> (side->shift & 31) & 0x7fffff;
	const struct line *line = bpf_map_lookup_elem(&gate_v4, &gate_line);
	__u64 gate;

	if (!line)
		return ANSWER_ASK; /* cannot happen */
	gate = line->words[source >> 17 & 7] >> (source >> 11 & 62);
	if (gate & GATE_CELL) {
		bool hosts = false;
		enum answer answer = in_cell(first, source, &hosts);

		if (!hosts)
			return answer;
	}
	if (gate & GATE_EMPTY)
		return ANSWER_PASS;
	line = index_line(first + SLOT_BUCKETS + (half >> 16), half >> 1 & (SEGMENT_LINES - 1));
	if (!line)
		return ANSWER_ASK;
	return in_half(line->words + (half & 1) * 4, mixed) ? ANSWER_DROP : ANSWER_PASS;
}

#endif
