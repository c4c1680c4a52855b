/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Leaving the program: every packet leaves by one counted way. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include "maps.h"

/* A way out: what was decided about a packet of which family. Also the index of its counter. */
#define WAY(family, reason) ((__u32)((family) * REASONS + (reason)))

/* Length of the packet, fragments included. */
static __always_inline __u64 packet_bytes(struct xdp_md *ctx, bool frags)
{
	if (frags)
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

/*
 * Counts the way and turns it into an XDP action. Counters are per CPU, and XDP does not interrupt itself on one, so
 * plain additions lose nothing.
 */
static __always_inline int leave(struct xdp_md *ctx, __u32 way, bool frags)
{
	struct count *count = bpf_map_lookup_elem(&counters, &way);

	if (count) {
		count->packets++;
		count->bytes += packet_bytes(ctx, frags);
	}
	return way % REASONS >= REASON_DROP_BLACKLISTED ? XDP_DROP : XDP_PASS;
}

#endif
