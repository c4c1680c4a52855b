/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Samples of what is dropped, for whoever watches. While nobody does, control.watch is 0 and a drop costs one test of a
 * word that is in the cache already. While somebody does, what limits them is in the counter that was just moved: of a
 * flood all packets but one in a millisecond cost one more comparison.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include "counters.h"

/*
 * Whether a packet is sampled. count->sampled is when the next one is due; it runs ahead of the clock by as much as was
 * spent of the burst. The clock is coarse: it ticks every few milliseconds, and the burst covers that.
 */
static __always_inline bool is_due(struct count *count, __u64 now)
{
	__u64 due = count->sampled;

	if (due > now + SAMPLE_TOLERANCE)
		return false;
	count->sampled = (due > now ? due : now) + SAMPLE_INTERVAL;
	return true;
}

/*
 * Whether drops of a counter need no look at the clock until it ticks again: the lease holds, and no sample is due.
 * What tells is the tick of the clock itself, which the verifier compiles into a load, in one word with what else it
 * depends on. The lease only grows, and both words stay as they are once their writer is dead: so the word comes back
 * only within a tick, as long as which a drop may come late.
 */
static __always_inline bool is_calm(const struct control_words *words, struct count *count)
{
	__u64 lease = *(const volatile __u64 *)&words->lease, until = *(const volatile __u64 *)&words->watch, now;
	__u64 calm = bpf_jiffies64() + lease + until;

	if (count->calm == calm)
		return true;
	now = bpf_ktime_get_coarse_ns();
	if (now >= lease || (now < until && count->sampled <= now + SAMPLE_TOLERANCE))
		return false;
	count->calm = calm;
	return true;
}

/* The head of the packet; where it lies in several buffers, all that is wanted of it. */
static __always_inline __u32 capture(struct xdp_md *ctx, unsigned char *to, __u32 length, bool frags)
{
	const unsigned char *data = (const unsigned char *)(long)ctx->data;
	const unsigned char *end = (const unsigned char *)(long)ctx->data_end;
	__u32 n = 0;

	if (frags) {
		n = length < SAMPLE_PACKET ? length : SAMPLE_PACKET;
		n--; /* Linux 6.1 must see that 1 to SAMPLE_PACKET remain; of nothing so many cannot be loaded */
		asm volatile("%0 &= %1" : "+r"(n) : "i"(SAMPLE_PACKET - 1));
		n++;
		if (bpf_xdp_load_bytes(ctx, 0, to, n))
			return 0;
		return n;
	}
	for (; n < SAMPLE_PACKET && data + n + 1 <= end; n++)
		to[n] = data[n];
	return n;
}

/* One for each kind of program, and not inline: few packets come here. */
#define WRITE_SAMPLE(name, on_layer3, frags)                                                                           \
	static __noinline void name(struct xdp_md *ctx, __u64 packets, __u32 length, __u32 family, __u32 reason)       \
	{                                                                                                              \
		struct sample *s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);                                       \
		__u32 zero = 0;                                                                                        \
		struct sample_count *n = bpf_map_lookup_elem(&sampled, &zero);                                         \
                                                                                                                       \
		if (!s) {                                                                                              \
			if (n)                                                                                         \
				n->lost++;                                                                             \
			return;                                                                                        \
		}                                                                                                      \
		if (n)                                                                                                 \
			n->written++;                                                                                  \
		s->time = bpf_ktime_get_boot_ns();                                                                     \
		s->packets = packets;                                                                                  \
		s->interface = ctx->ingress_ifindex;                                                                   \
		s->cpu = bpf_get_smp_processor_id();                                                                   \
		s->length = length;                                                                                    \
		s->family = family;                                                                                    \
		s->reason = reason;                                                                                    \
		s->layer3 = on_layer3;                                                                                 \
		s->pad = 0;                                                                                            \
		s->captured = capture(ctx, s->packet, length, frags);                                                  \
		bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP); /* the reader looks by itself */                              \
	}

WRITE_SAMPLE(write_eth, false, false)
WRITE_SAMPLE(write_eth_frags, false, true)
WRITE_SAMPLE(write_l3, true, false)
WRITE_SAMPLE(write_l3_frags, true, true)

/* Samples a packet that is dropped and counted, if it is due. */
static __always_inline void watch(struct xdp_md *ctx, const struct control_words *words, struct way way,
				  struct count *count, __u32 length, bool layer3, bool frags)
{
	__u64 now;

	if (!words->watch)
		return;
	now = way.now ? way.now : bpf_ktime_get_coarse_ns();
	if (now >= words->watch || !is_due(count, now))
		return;
	if (layer3 && frags)
		write_l3_frags(ctx, count->packets, length, way.family, way.reason);
	else if (layer3)
		write_l3(ctx, count->packets, length, way.family, way.reason);
	else if (frags)
		write_eth_frags(ctx, count->packets, length, way.family, way.reason);
	else
		write_eth(ctx, count->packets, length, way.family, way.reason);
}

#endif
