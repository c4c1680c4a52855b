//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The entry programs: one body, for devices with and without an Ethernet header, with and without fragments. */
#include <stdbool.h>
#include <stddef.h>

#include "check.h"
#include "events.h"
#include "parse.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline struct way judge(struct xdp_md *ctx, const struct control_words *words, bool layer3, bool frags)
{
	struct network net = {};
	bool found;

	if (words->bypass)
		return WAY(FAMILY_OTHER, REASON_PASS_BYPASS);
	if (words->firewall_off)
		return WAY(FAMILY_OTHER, REASON_PASS_FIREWALL_OFF);
	found = layer3 ? find_layer3(ctx, &net, frags) : find_ethernet(ctx, &net, frags);
	if (!found)
		return WAY(FAMILY_OTHER, net.refused);
	if (net.proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(ctx, net.offset, words, frags);
	if (net.proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(ctx, net.offset, words, frags);
	return WAY(FAMILY_OTHER, REASON_PASS_NON_IP);
}

/* Every packet leaves here. */
static __always_inline int leave(struct xdp_md *ctx, const struct control_words *words, struct way way,
				 struct count *count, bool layer3, bool frags)
{
	__u64 bytes = packet_bytes(ctx, frags);

	if (count)
		count_way(count, bytes);
	if (way.reason < REASON_DROP_BLACKLISTED)
		return XDP_PASS;
	if (accounting == ACCOUNTING_EXACT && way.cell)
		count_entry(&way, bytes);
	if (count)
		watch(ctx, words, way, count, bytes, layer3, frags);
	return XDP_DROP;
}

static __always_inline int enter(struct xdp_md *ctx, bool layer3, bool frags)
{
	const struct control_words *words;
	struct count *count;
	struct way way;
	__u32 zero = 0;

	/* No verifier lets an unknown mode load. */
	if ((mode != MODE_LPM && mode != MODE_INDEXED) ||
	    (accounting != ACCOUNTING_SAMPLED && accounting != ACCOUNTING_EXACT))
		*(volatile __u32 *)0 = mode;

	words = bpf_map_lookup_elem(&control, &zero);
	if (!words)
		return XDP_PASS; /* cannot happen: an array's element is never absent */
	way = judge(ctx, words, layer3, frags);
	count = counter(way);
	if (mode == MODE_INDEXED && way.indexed && count && count->packets % CHECK_EVERY == 0) {
		way.reason = check_index(&way);
		count = counter(way);
	}
	return leave(ctx, words, way, count, layer3, frags);
}

/* Linux 5.15. */
SEC("xdp")
int xdp_eth(struct xdp_md *ctx)
{
	return enter(ctx, false, false);
}

/* Packets of several fragments (big MTU, receive offloads): Linux 5.18. */
SEC("xdp.frags")
int xdp_eth_frags(struct xdp_md *ctx)
{
	return enter(ctx, false, true);
}

/* tun, ipip, gre, WireGuard, PPP: packets begin with the IP header. */
SEC("xdp")
int xdp_l3(struct xdp_md *ctx)
{
	return enter(ctx, true, false);
}

SEC("xdp.frags")
int xdp_l3_frags(struct xdp_md *ctx)
{
	return enter(ctx, true, true);
}
