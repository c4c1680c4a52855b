/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Leaving the program: every packet leaves by one counted way. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <linux/in6.h>

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

/* Counts for the entry, where accounting is exact. Cells are shared by all CPUs. */
static __always_inline void count_entry(struct cell *cell, __u64 bytes)
{
	__u32 source = cell->source & (ENTRY_SOURCES - 1);
	struct hits *hits = bpf_map_lookup_elem(&sources, &source);

	__sync_fetch_and_add(&cell->hits.packets, 1);
	__sync_fetch_and_add(&cell->hits.bytes, bytes);
	if (hits) {
		hits->packets++;
		hits->bytes += bytes;
	}
}

#endif
