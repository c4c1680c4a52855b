/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Leaving the program: every packet leaves by one counted way. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <linux/in6.h>

#include <bpf/bpf_endian.h>

#include "maps.h"

/* A way out: what was decided about a packet, and of which family that is. */
struct way {
	enum family family;
	enum reason reason;
	bool indexed; /* the index decided; it may be checked by: */
	bool six;     /* which source it is */
	__be32 source;
	struct in6_addr source6;
	__u32 changes;	   /* as it was before the index was read */
	__u64 now;	   /* of CLOCK_MONOTONIC_COARSE, 0: not read */
	struct cell *cell; /* of the tries, that the verdict comes from */
};

#define WAY(f, r) ((struct way){.family = (f), .reason = (r)})

/* Length of the packet, fragments included. */
static __always_inline __u64 packet_bytes(struct xdp_md *ctx, bool frags)
{
	if (frags)
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

static __always_inline struct count *counter(struct way way)
{
	__u32 index = way.family * REASONS + way.reason;

	return bpf_map_lookup_elem(&counters, &index);
}

/* Counts the way. Counters are per CPU, and XDP does not interrupt itself on one: plain additions lose nothing. */
static __always_inline void count_way(struct count *count, __u64 bytes)
{
	count->packets++;
	count->bytes += bytes;
}

/* The key of prefixes for a cell that covers a packet's source. */
static __always_inline void hits_key(const struct way *way, struct lpm_key_v6 *key)
{
	__u32 length = way->cell->length;
	__u32 words[4] = {0, 0, bpf_htonl(0xffff), way->source};

	if (way->six)
		__builtin_memcpy(words, &way->source6, sizeof(words));
	else
		length += 96;
#pragma unroll
	for (__u32 i = 0; i < 4; i++) {
		__u32 left = length > 32 * i ? length - 32 * i : 0;

		if (left < 32)
			words[i] &= left ? bpf_htonl(~0u << (32 - left)) : 0;
	}
	key->prefixlen = length;
	__builtin_memcpy(key->addr, words, sizeof(key->addr));
}

/* Counts for the entry, where accounting is exact. All CPUs count for a prefix in one place. */
static __always_inline void count_entry(const struct way *way, __u64 bytes)
{
	__u32 source = way->cell->source & (ENTRY_SOURCES - 1), zero = 0;
	struct hits *sum = bpf_map_lookup_elem(&sources, &source), *hit;
	struct lpm_key_v6 key;

	if (sum) {
		sum->packets++;
		sum->bytes += bytes;
	}
	hits_key(way, &key);
	hit = bpf_map_lookup_elem(&prefixes, &key);
	if (!hit) {
		struct hits none = {};

		bpf_map_update_elem(&prefixes, &key, &none, BPF_NOEXIST); /* another CPU may be first */
		hit = bpf_map_lookup_elem(&prefixes, &key);
	}
	if (hit) {
		__sync_fetch_and_add(&hit->packets, 1);
		__sync_fetch_and_add(&hit->bytes, bytes);
	} else {
		struct sample_count *n = bpf_map_lookup_elem(&sampled, &zero);

		if (n)
			n->uncounted++;
	}
}

#endif
