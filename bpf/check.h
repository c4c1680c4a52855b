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
static __noinline int check_index(__be32 source, enum reason reason, __u32 changes)
{
	const struct control_words *words;
	enum reason tries;
	struct check *check;
	__u32 zero = 0;

	words = bpf_map_lookup_elem(&control, &zero);
	check = bpf_map_lookup_elem(&checks, &zero);
	if (!words || !check)
		return reason; /* cannot happen */
	check->packets++;
	tries = judge_cell(find_v4(words->active, source));
	if ((tries >= REASON_DROP_BLACKLISTED) == (reason >= REASON_DROP_BLACKLISTED))
		return reason;
	if (!(changes & 1) && *(const volatile __u32 *)&words->changes == changes)
		check->mismatches++;
	return tries;
}

#endif
