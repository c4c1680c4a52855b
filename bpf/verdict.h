/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The verdict on one source address. The whitelist is asked first, always. */
#ifndef VERDICT_H
#define VERDICT_H

#include <bpf/bpf_endian.h>

#include "counters.h"
#include "index.h"
#include "index6.h"

/* Whether a deadline depends on the clock. */
static __always_inline bool ends(__u64 deadline)
{
	return deadline != 0 && deadline != NEVER;
}

/* The clock is read here only, at most once, and only when the verdict depends on it: most packets never need it. */
static __always_inline enum reason judge_cell(const struct cell *cell)
{
	__u64 pass_until, drop_until, now = 0;

	if (!cell)
		return REASON_PASS_UNLISTED;
	pass_until = cell->pass_until;
	drop_until = cell->drop_until;
	if (!pass_until && !drop_until)
		return REASON_PASS_UNLISTED;

	if (ends(pass_until) || (pass_until != NEVER && ends(drop_until)))
		now = bpf_ktime_get_boot_ns();
	if (pass_until == NEVER || now < pass_until)
		return cell->flags & CELL_PROTECTED ? REASON_PASS_PROTECTED : REASON_PASS_WHITELISTED;
	if (drop_until == NEVER || now < drop_until)
		return REASON_DROP_BLACKLISTED;
	return REASON_PASS_EXPIRED;
}

/* source is in network order, as the packet has it. */
static __always_inline struct cell *find_v4(__u32 active, __be32 source)
{
	struct lpm_key_v4 key = {.prefixlen = 32};

	__builtin_memcpy(key.addr, &source, sizeof(key.addr));
	if (active)
		return bpf_map_lookup_elem(&lpm_v4_b, &key);
	return bpf_map_lookup_elem(&lpm_v4_a, &key);
}

static __always_inline struct cell *find_v6(__u32 active, const struct in6_addr *source)
{
	struct lpm_key_v6 key = {.prefixlen = 128};

	__builtin_memcpy(key.addr, source, sizeof(key.addr));
	if (active)
		return bpf_map_lookup_elem(&lpm_v6_b, &key);
	return bpf_map_lookup_elem(&lpm_v6_a, &key);
}

/* Whether an index's answer decides about the packet. */
static __always_inline bool decide(struct way *way, const struct control_words *words, enum answer answer)
{
	way->indexed = true;
	switch (answer) {
	case ANSWER_PASS:
		way->reason = REASON_PASS_INDEX;
		return true;
	case ANSWER_DROP:
		/* Nobody takes off the index what has ended once its writer is dead: the tries know the ends. */
		way->reason = REASON_DROP_BLACKLISTED;
		if (accounting == ACCOUNTING_EXACT)
			break; /* nor does the index know which entry to count for */
		way->now = bpf_ktime_get_coarse_ns();
		if (way->now < words->lease)
			return true;
		break;
	default:
		break;
	}
	way->indexed = false;
	return false;
}

/* family is that of the packet: an IPv4-mapped source comes here too. */
static __always_inline struct way judge_v4(const struct control_words *words, enum family family, __be32 source)
{
	struct way way = {.family = family, .source = source};

	if (mode == MODE_INDEXED) {
		way.changes = *(const volatile __u32 *)&words->changes;
		if (decide(&way, words, ask_index(words, bpf_ntohl(source))))
			return way;
	}
	way.cell = find_v4(words->active, source);
	way.reason = judge_cell(way.cell);
	return way;
}

static __always_inline struct way judge_v6(const struct control_words *words, const struct in6_addr *source)
{
	struct way way = {.family = FAMILY_IPV6, .six = true, .source6 = *source};

	if (mode == MODE_INDEXED) {
		way.changes = *(const volatile __u32 *)&words->changes;
		if (decide(&way, words, ask_index6(words, source)))
			return way;
	}
	way.cell = find_v6(words->active, source);
	way.reason = judge_cell(way.cell);
	return way;
}

#endif
