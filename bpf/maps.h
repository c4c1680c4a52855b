/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The maps, and the one constant that user space sets before load. */
#ifndef MAPS_H
#define MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "portcullis.h"

/* Room of a trie unless the loader asks for another; a trie takes memory only for what it holds. */
#define LPM_ENTRIES (16 << 20)

#define COUNTERS (FAMILIES * REASONS)

/* Switches and the choice of the active tries; user space writes it through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control_words);
} control SEC(".maps");

#define LPM_TRIE(name, key_type)                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__uint(max_entries, LPM_ENTRIES);                                                                      \
		__type(key, struct key_type);                                                                          \
		__type(value, struct cell);                                                                            \
	} name SEC(".maps")

/* The lists: the verdict of every prefix that either list holds. */
LPM_TRIE(lpm_v4_a, lpm_key_v4);
LPM_TRIE(lpm_v4_b, lpm_key_v4);
LPM_TRIE(lpm_v6_a, lpm_key_v6);
LPM_TRIE(lpm_v6_b, lpm_key_v6);

/* A segment of the index. */
struct segment {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SEGMENT_LINES);
	__type(key, __u32);
	__type(value, struct line);
};

/* The verdicts on IPv4 sources in a form that takes two memory accesses, see portcullis.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * INDEX_SLOTS);
	__type(key, __u32);
	__array(values, struct segment);
} index_v4 SEC(".maps");

/* Which /20s have a cell that is not 0, and which no addresses in the buckets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * GATE_LINES);
	__type(key, __u32);
	__type(value, struct line);
} gate_v4 SEC(".maps");

/* The verdicts on IPv6 sources, see portcullis.h: the prefixes themselves, and what says which lengths to look for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * INDEX6_SLOTS);
	__type(key, __u32);
	__array(values, struct segment);
} index_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * ROOT6_LINES);
	__type(key, __u32);
	__type(value, struct line);
} root_v6 SEC(".maps");

/* What the self-check has found. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct check);
} checks SEC(".maps");

/* What was dropped by prefix, if accounting is exact: user space then makes it larger. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct lpm_key_v6);
	__type(value, struct hits);
} prefixes SEC(".maps");

/* What was dropped by source of the entry, if accounting is exact. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ENTRY_SOURCES);
	__type(key, __u32);
	__type(value, struct hits);
} sources SEC(".maps");

/* Samples of what is dropped. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SAMPLE_RING);
} samples SEC(".maps");

/* How many samples were written. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sample_count);
} sampled SEC(".maps");

/* One counter for every way out, per family: index family * REASONS + reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, struct count);
} counters SEC(".maps");

/* enum lookup_mode. User space sets it before load, so that the verifier drops the other modes' code. */
const volatile enum lookup_mode mode = MODE_LPM;

/* The same for what is counted. */
const volatile enum accounting_mode accounting = ACCOUNTING_SAMPLED;

/* Keeps the types that only code uses in BTF, which the Go bindings are made from. Not loaded. */
const struct {
	enum layout layout;
	enum family family;
	enum reason reason;
	enum cell_flag cell_flag;
	enum index_layout index_layout;
	enum index_code index_code;
	enum gate_bits gate_bits;
	enum index6_layout index6_layout;
	enum word6 word6;
	enum bits6 bits6;
	enum answer6 answer6;
	struct line line;
	enum sampling sampling;
	struct sample sample;
} enums SEC(".enums");

#endif
