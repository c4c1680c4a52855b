/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Leaving the program: every packet leaves by one counted way. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include "maps.h"

/* A way out: what was decided about a packet, and of which family that is. */
struct way {
	enum family family;
	enum reason reason;
	bool indexed; /* the index decided; it may be checked by: */
	__be32 source;
	__u32 changes; /* as it was before the index was read */
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

/*
 * Counts the way and turns it into an XDP action. Counters are per CPU, and XDP does not interrupt itself on one, so
 * plain additions lose nothing.
 */
static __always_inline int leave(struct xdp_md *ctx, struct way way, struct count *count, bool frags)
{
	if (count) {
		count->packets++;
		count->bytes += packet_bytes(ctx, frags);
	}
	return way.reason >= REASON_DROP_BLACKLISTED ? XDP_DROP : XDP_PASS;
}

#endif
