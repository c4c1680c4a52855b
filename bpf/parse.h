/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * From the first byte to the source address, and no further: no L4, no extension headers, no options. Whoever reads
 * further leaks (an unknown header ends the search) or kills innocent fragments.
 */
#ifndef PARSE_H
#define PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "verdict.h"

/* Tags that are followed; a packet with more is dropped, since Linux strips any number of VID-0 tags. */
#define VLAN_DEPTH 8

#define PPP_IPV4 0x0021
#define PPP_IPV6 0x0057

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct pppoe_header {
	__u8 version_type;
	__u8 code;
	__be16 session;
	__be16 length;
};

/*
 * Points at len bytes of the packet at offset; NULL if the packet ends before. In a packet of several fragments only
 * the first is directly readable (and it may be empty): what lies beyond is copied to copy.
 */
static __always_inline const void *header(struct xdp_md *ctx, __u32 offset, __u32 len, void *copy, bool frags)
{
	const void *end = (const void *)(long)ctx->data_end;
	const void *start = (const void *)(long)ctx->data + offset;

	if (start + len <= end)
		return start;
	if (frags && !bpf_xdp_load_bytes(ctx, offset, copy, len))
		return copy;
	return NULL;
}

static __always_inline struct way parse_ipv4(struct xdp_md *ctx, __u32 offset, const struct control_words *words,
					     bool frags)
{
	struct iphdr copy;
	const struct iphdr *ip = header(ctx, offset, sizeof(*ip), &copy, frags);

	if (!ip)
		return WAY(FAMILY_IPV4, REASON_DROP_SHORT);
	if (ip->version != 4)
		return WAY(FAMILY_IPV4, REASON_DROP_VERSION);
	if (!ip->saddr)
		return WAY(FAMILY_IPV4, REASON_PASS_UNSPECIFIED);
	return judge_v4(words, FAMILY_IPV4, ip->saddr);
}

/*
 * Neighbour discovery must live whatever is listed, or the host falls off its link. Hop limit 255 proves that no
 * router has forwarded it, and only the fixed header's own next header counts.
 */
static __always_inline bool is_neighbour(struct xdp_md *ctx, const struct ipv6hdr *ip, __u32 offset, bool frags)
{
	const __u8 *type;
	__u8 copy;

	if (ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != 255)
		return false;
	type = header(ctx, offset + sizeof(*ip), sizeof(*type), &copy, frags);
	return type && *type >= 133 && *type <= 137;
}

static __always_inline struct way parse_ipv6(struct xdp_md *ctx, __u32 offset, const struct control_words *words,
					     bool frags)
{
	struct ipv6hdr copy;
	const struct ipv6hdr *ip = header(ctx, offset, sizeof(*ip), &copy, frags);
	const __be32 *source;

	if (!ip)
		return WAY(FAMILY_IPV6, REASON_DROP_SHORT);
	if (ip->version != 6)
		return WAY(FAMILY_IPV6, REASON_DROP_VERSION);
	source = ip->saddr.in6_u.u6_addr32;
	if (!(source[0] | source[1] | source[2] | source[3]))
		return WAY(FAMILY_IPV6, REASON_PASS_UNSPECIFIED);
	if ((source[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return WAY(FAMILY_IPV6, REASON_PASS_LINK_LOCAL);
	if (is_neighbour(ctx, ip, offset, frags))
		return WAY(FAMILY_IPV6, REASON_PASS_NEIGHBOUR);
	/* ::ffff:a.b.c.d reaches sockets as the IPv4 peer a.b.c.d, so the IPv4 lists hold for it. */
	if (!(source[0] | source[1]) && source[2] == bpf_htonl(0xffff))
		return judge_v4(words, FAMILY_IPV6, source[3]);
	return judge_v6(words, &ip->saddr);
}

/* What Linux calls a VLAN tag, and 0x9100, which it may bridge to somebody who does. */
static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD) || proto == bpf_htons(ETH_P_QINQ1);
}

/* Where the network header begins and which it is; or, when it was not found, why. */
struct network {
	__u32 offset;
	__be16 proto;
	enum reason refused;
};

static __always_inline bool refuse(struct network *net, enum reason reason)
{
	net->refused = reason;
	return false;
}

/*
 * A PPPoE session packet. Linux takes the PPP protocol in two bytes or, when the first is odd, in that one alone
 * (RFC 1661, protocol field compression), whether negotiated or not: so must we.
 */
static __always_inline bool find_pppoe(struct xdp_md *ctx, struct network *net, bool frags)
{
	const __u8 *byte;
	__u16 proto;
	__u8 copy;

	net->offset += sizeof(struct pppoe_header);
	byte = header(ctx, net->offset++, sizeof(*byte), &copy, frags);
	if (!byte)
		return refuse(net, REASON_DROP_SHORT);
	proto = *byte;
	if (!(proto & 1)) {
		byte = header(ctx, net->offset++, sizeof(*byte), &copy, frags);
		if (!byte)
			return refuse(net, REASON_DROP_SHORT);
		proto = proto << 8 | *byte;
	}
	if (proto == PPP_IPV4)
		net->proto = bpf_htons(ETH_P_IP);
	else if (proto == PPP_IPV6)
		net->proto = bpf_htons(ETH_P_IPV6);
	return true;
}

static __always_inline bool find_ethernet(struct xdp_md *ctx, struct network *net, bool frags)
{
	struct ethhdr eth_copy;
	const struct ethhdr *eth = header(ctx, 0, sizeof(*eth), &eth_copy, frags);

	if (!eth)
		return refuse(net, REASON_DROP_SHORT);
	net->proto = eth->h_proto;
	net->offset = sizeof(*eth);
#pragma unroll
	for (int i = 0; i < VLAN_DEPTH && is_vlan(net->proto); i++) {
		struct vlan_tag tag_copy;
		const struct vlan_tag *tag = header(ctx, net->offset, sizeof(*tag), &tag_copy, frags);

		if (!tag)
			return refuse(net, REASON_DROP_SHORT);
		net->proto = tag->proto;
		net->offset += sizeof(*tag);
	}
	if (is_vlan(net->proto))
		return refuse(net, REASON_DROP_VLAN_DEPTH);
	if (net->proto == bpf_htons(ETH_P_PPP_SES))
		return find_pppoe(ctx, net, frags);
	return true;
}

/* A packet that begins with its IP header: only the version nibble tells the family. */
static __always_inline bool find_layer3(struct xdp_md *ctx, struct network *net, bool frags)
{
	const __u8 *first;
	__u8 copy;

	first = header(ctx, 0, sizeof(*first), &copy, frags);
	if (!first)
		return refuse(net, REASON_DROP_SHORT);
	if (*first >> 4 == 4)
		net->proto = bpf_htons(ETH_P_IP);
	else if (*first >> 4 == 6)
		net->proto = bpf_htons(ETH_P_IPV6);
	return true;
}

#endif
