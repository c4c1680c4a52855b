/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The index and the tries held against each other, for one packet in many. */
#ifndef CHECK_H
#define CHECK_H

#include "verdict.h"

/*
 * Asks the tries about what the index has decided, and returns what the packet leaves by: the index's reason, or
 * that of the tries where they say the opposite. That is a mismatch unless somebody has written meanwhile. Not
 * inline: one packet in many comes here.
 */
static __noinline int check_index(const struct way *way)
{
	const struct control_words *words;
	enum reason tries;
	struct check *check;
	__u32 zero = 0;

	words = bpf_map_lookup_elem(&control, &zero);
	check = bpf_map_lookup_elem(&checks, &zero);
	if (!words || !check)
		return way->reason; /* cannot happen */
	check->packets++;
	tries = judge_cell(way->six ? find_v6(words->active, &way->source6) : find_v4(words->active, way->source));
	if ((tries >= REASON_DROP_BLACKLISTED) == (way->reason >= REASON_DROP_BLACKLISTED))
		return way->reason;
	if (!(way->changes & 1) && *(const volatile __u32 *)&words->changes == way->changes)
		check->mismatches++;
	return tries;
}

#endif
