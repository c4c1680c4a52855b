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

/* Not an action: the packet goes the long way, from the start. */
#define LONG_WAY -1

/*
 * The common packet in as few instructions as it takes, since they are what it costs: IPv4 behind a plain Ethernet
 * header, whole in the first buffer, on which the index has an answer that stands. Nothing is counted of another.
 */
static __always_inline int shortcut(struct xdp_md *ctx, bool layer3, bool frags)
{
	const void *end = (const void *)(long)ctx->data_end;
	const void *start = (const void *)(long)ctx->data;
	const struct iphdr *ip = start + (layer3 ? 0 : sizeof(struct ethhdr));
	struct way way = WAY(FAMILY_IPV4, REASON_PASS_INDEX);
	const struct control_words *words;
	struct count *count;
	enum answer answer;
	__u32 zero = 0;

	words = bpf_map_lookup_elem(&control, &zero);
	if (mode != MODE_INDEXED || !words || words->bypass || words->firewall_off || (const void *)(ip + 1) > end)
		return LONG_WAY;
	/* Not by struct ethhdr, which is packed, so that it is read byte by byte. */
	if (!layer3 && *(const __be16 *)(start + offsetof(struct ethhdr, h_proto)) != bpf_htons(ETH_P_IP))
		return LONG_WAY;
	if (ip->version != 4 || !ip->saddr)
		return LONG_WAY;
	answer = ask_index(words, bpf_ntohl(ip->saddr));
	if (answer == ANSWER_ASK || (answer == ANSWER_DROP && accounting == ACCOUNTING_EXACT))
		return LONG_WAY;
	if (answer == ANSWER_DROP)
		way.reason = REASON_DROP_BLACKLISTED;
	count = counter(way);
	if (!count || count->packets % CHECK_EVERY == 0 || (answer == ANSWER_DROP && !is_calm(words, count)))
		return LONG_WAY;
	count_way(count, packet_bytes(ctx, frags));
	return answer == ANSWER_DROP ? XDP_DROP : XDP_PASS;
}

/* What every packet may take. */
static __always_inline int go(struct xdp_md *ctx, bool layer3, bool frags)
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

/* One for each kind of program. The long way is not static, so that the verifier walks it once. */
#define PROGRAM(section, name, layer3, frags)                                                                          \
	__noinline int name##_long(struct xdp_md *ctx)                                                                 \
	{                                                                                                              \
		return go(ctx, layer3, frags);                                                                         \
	}                                                                                                              \
	SEC(section) int name(struct xdp_md *ctx)                                                                      \
	{                                                                                                              \
		int action = shortcut(ctx, layer3, frags);                                                             \
                                                                                                                       \
		return action == LONG_WAY ? name##_long(ctx) : action;                                                 \
	}

/* Linux 5.15. */
PROGRAM("xdp", xdp_eth, false, false)

/* Packets of several fragments (big MTU, receive offloads): Linux 5.18. */
PROGRAM("xdp.frags", xdp_eth_frags, false, true)

/* tun, ipip, gre, WireGuard, PPP: packets begin with the IP header. */
PROGRAM("xdp", xdp_l3, true, false)
PROGRAM("xdp.frags", xdp_l3_frags, true, true)
