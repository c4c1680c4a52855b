//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Sends frames from many sources, and the two receivers that everything else is compared with. */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define SOURCES 16

struct block {
	__be32 source[SOURCES];
};

/* The sources, taken in turn; a power of two of blocks, which user space writes through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct block);
} ring SEC(".maps");

const volatile __u32 sources = SOURCES; /* in the ring */
const volatile bool spoof;		/* draw from all of 2^32 instead */
const volatile __u32 checksum;		/* of the template's IP header, its source and check being 0; not folded */

/* One test run at a time on one CPU: plain words are enough. */
__u32 position;
__u64 random = 0x9e3779b97f4a7c15;

static __always_inline __be32 next_source(void)
{
	__u32 at = position++ & (sources - 1);
	__u32 index = at / SOURCES;
	struct block *block;

	if (spoof) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		return random >> 32;
	}
	block = bpf_map_lookup_elem(&ring, &index);
	return block ? block->source[at % SOURCES] : 0;
}

/* A frame that lives is sent out of the device that the test run names as its ingress. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + sizeof(struct ethhdr);
	__u32 sum;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	ip->saddr = next_source();
	sum = checksum + (ip->saddr & 0xffff) + (ip->saddr >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	return XDP_TX;
}

SEC("xdp")
int drop_all(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

SEC("xdp")
int pass_all(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}
