// go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The entry programs: one body, for devices with and without an Ethernet header, with and without fragments. */
#include <stdbool.h>
#include <stddef.h>

#include "parse.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline int enter(struct xdp_md *ctx, bool layer3, bool frags)
{
	const volatile struct control_words *words;
	__u32 active, way, zero = 0;

	/* The index of a later version has its place here; until then nothing but MODE_LPM may load. */
	if (mode != MODE_LPM)
		*(volatile __u32 *)0 = mode;

	words = bpf_map_lookup_elem(&control, &zero);
	if (!words)
		return XDP_PASS; /* cannot happen: an array's element is never absent */
	if (words->bypass)
		return leave(ctx, WAY(FAMILY_OTHER, REASON_PASS_BYPASS), frags);
	if (words->firewall_off)
		return leave(ctx, WAY(FAMILY_OTHER, REASON_PASS_FIREWALL_OFF), frags);
	active = words->active;
	way = layer3 ? parse_layer3(ctx, active, frags) : parse_ethernet(ctx, active, frags);
	return leave(ctx, way, frags);
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
