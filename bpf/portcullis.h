/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the kernel program and user space share: map layouts, enums, constants. The source of the Go types. */
#ifndef PORTCULLIS_H
#define PORTCULLIS_H

/* Raised whenever a map's layout or meaning changes; a loader refuses pinned maps of another. */
enum layout {
	LAYOUT_VERSION = 6,
};

/* How the source is looked up. The program of an unknown mode does not load: the verifier refuses it. */
enum lookup_mode {
	MODE_LPM,     /* the LPM tries alone */
	MODE_INDEXED, /* by the indexes, which send to the tries what they cannot answer */
};

/* What is counted for each entry. The program of an unknown accounting does not load. */
enum accounting_mode {
	ACCOUNTING_SAMPLED, /* nothing: samples tell */
	ACCOUNTING_EXACT,   /* every drop, for the cell that it is due to: so the index may not drop */
};

/* Every way out of the program: one counter each, per CPU, per family. */
enum reason {
	REASON_PASS_UNLISTED,	  /* nothing covers the source */
	REASON_PASS_EXPIRED,	  /* something covered it, its end has come */
	REASON_PASS_WHITELISTED,  /* an unexpired whitelist entry covers it */
	REASON_PASS_PROTECTED,	  /* an address that is never dropped */
	REASON_PASS_NON_IP,	  /* ARP, LLDP, MPLS, ...: not ours to judge */
	REASON_PASS_UNSPECIFIED,  /* source 0.0.0.0 or :: (DHCP, DAD) */
	REASON_PASS_LINK_LOCAL,	  /* source fe80::/10 */
	REASON_PASS_NEIGHBOUR,	  /* ICMPv6 133-137, hop limit 255 */
	REASON_PASS_BYPASS,	  /* portcullis bypass on */
	REASON_PASS_FIREWALL_OFF, /* disable_firewall */
	REASON_PASS_INDEX,	  /* the index drops nothing there: unlisted, expired, whitelisted or protected */
	REASON_DROP_BLACKLISTED,  /* an unexpired blacklist entry covers it, no whitelist entry does */
	REASON_DROP_SHORT,	  /* ends before the fixed header that its type promises */
	REASON_DROP_VLAN_DEPTH,	  /* more tags than the parser follows */
	REASON_DROP_VERSION,	  /* IP version nibble contradicts the ethertype */
	REASONS,
};

enum family {
	FAMILY_OTHER,
	FAMILY_IPV4,
	FAMILY_IPV6, /* also an IPv4-mapped source, judged by the IPv4 lists */
	FAMILIES,
};

/* counters: PERCPU_ARRAY of struct count, index = family * REASONS + reason; one map an interface. */
struct count {
	unsigned long long packets;
	unsigned long long bytes;
	unsigned long long sampled; /* see events.h, as */
	unsigned long long calm;
};

struct hits {
	unsigned long long packets;
	unsigned long long bytes;
};

struct lpm_key_v4 {
	unsigned int prefixlen;
	unsigned char addr[4];
};

struct lpm_key_v6 {
	unsigned int prefixlen;
	unsigned char addr[16];
};

#define NEVER 0xffffffffffffffffULL /* a deadline that does not come */

enum cell_flag {
	CELL_PROTECTED = 1, /* pass_until comes from a protected address */
};

/* Verdict of a prefix. Deadlines are ns of CLOCK_BOOTTIME, 0 = no entry. */
struct cell {
	unsigned long long pass_until;
	unsigned long long drop_until;
	unsigned char source; /* of the blacklist entry that holds drop_until, as lists.Source */
	unsigned char flags;  /* enum cell_flag */
	unsigned char length; /* of the prefix */
	unsigned char pad[5];
};

/*
 * prefixes: HASH of struct hits by prefix, IPv4 as ::ffff:a.b.c.d, what was dropped on account of its cell, if
 * accounting is exact. Not in the cell: the kernel aligns a trie's values to 4 bytes, and an atomic addition across two
 * cache lines is an error to some machines; and counts outlive a change of the cell.
 *
 * sources: PERCPU_ARRAY of struct hits, the same by source of the entry.
 */
#define ENTRY_SOURCES 16

/*
 * control: ARRAY of one, mmapable. `active` chooses which of the two tries of each family is read (lpm_v4_a or
 * lpm_v4_b, lpm_v6_a or lpm_v6_b), so that a whole list is replaced by one aligned store: fill the idle tries,
 * flip, wait for a grace period, empty the old ones in paced batches.
 */
struct control_words {
	unsigned int layout;	       /* LAYOUT_VERSION */
	unsigned int active;	       /* 0 = a, 1 = b */
	unsigned int bypass;	       /* 1: everything passes */
	unsigned int firewall_off;     /* 1: everything passes */
	unsigned long long generation; /* of the lists that the active tries hold */
	unsigned long long lease;      /* until when the index may drop, ns of CLOCK_MONOTONIC_COARSE */
	unsigned long long watch;      /* until when drops are sampled, the same clock; 0: nobody watches */
	unsigned int index;	       /* 0 = a, 1 = b: the side of the index that is read */
	unsigned int changes;	       /* odd while tries or index are being changed: no self-check then */
	struct index_side {
		unsigned int multiply[2]; /* the mixer's two odd factors, drawn anew for each filling */
		unsigned int shift;	  /* 32 - log2(halves of buckets) */
		unsigned int pad;
	} sides[2];
	unsigned int index6;   /* 0 = a, 1 = b: the side of the IPv6 index that is read */
	unsigned int changes6; /* odd while that side is being written: nobody else reads it then */
	struct index6_side {
		unsigned long long multiply[2]; /* the mixer's two odd factors, drawn anew for each filling */
		unsigned long long step;	/* odd: keeps equal bits of different lengths apart */
		unsigned int on;		/* 0: there is no index */
		unsigned int gate_shift;	/* 64 - log2(gates); 0: nothing but the root is there */
		unsigned int nets;		/* lines for prefixes */
		unsigned int hosts;		/* lines for single addresses */
	} sides6[2];
};

/*
 * index_v4: ARRAY_OF_MAPS of segments, each a mmapable array of 2 MiB; INDEX_SLOTS of them for either side:
 *
 *   cells    one u64 for each /20: sixteen 2-bit codes, one a /24, in the low half; above them the number of the
 *            leaf that belongs to the first /24 of CODE_LEAF, those of the others follow it.
 *   buckets  a quotient table of single addresses: mix(address) is half a bucket (the high bits) and a tag (the low
 *            15), which together are the address again. Consulted for /24s of CODE_HOSTS only. Tag 0 is a free place. A
 *            tag leaves the top bit of its 16 0, which makes it cheap to look for.
 *   leaves   256 bits for the addresses of a /24, 1 = drop.
 *
 * A segment that is not there sends the packet to the tries.
 *
 * gate_v4: mmapable array of GATE_LINES lines for either side: two bits for each /20. It is small enough to stay in a
 * CPU's own cache, so that most sources cost one more memory access, or none where nothing is listed around them.
 */
struct line {
	unsigned long long words[8];
};

enum index_layout {
	SEGMENT_LINES = 32768,
	SLOT_CELLS = 0,
	SLOT_BUCKETS = 4,  /* up to 2^22 of them */
	SLOT_LEAVES = 132, /* up to 2^24 of them, two a line */
	INDEX_SLOTS = 388, /* of one side */
	GATE_LINES = 4096,
};

/* The two bits of a /20 in the gate. */
enum gate_bits {
	GATE_CELL = 1,	/* its cell is not 0 */
	GATE_EMPTY = 2, /* it has no addresses in the buckets. 0, as where there is no index: look for them */
};

enum index_code {
	CODE_HOSTS, /* dropped are the addresses in the buckets, none if there are none */
	CODE_DROP,  /* all dropped */
	CODE_ASK,   /* the tries know */
	CODE_LEAF,
};

/*
 * The IPv6 index: which prefixes there are, so that the longest one that contains a source decides. Lengths are
 * multiples of 4 from 20 to 64 (level 1 to 12, others are written out as up to eight of the next), and 128 (level 13).
 *
 * root_v6: mmapable array of ROOT6_LINES lines for either side, 16 bits for each /16: the answer for what no longer
 *          prefix contains, and which of levels 1 to 3 occur below.
 * index_v6: ARRAY_OF_MAPS of segments like those of index_v4, INDEX6_SLOTS of them for either side:
 *
 *   gates    16 bits for a hash of the first 32 bits (levels 4 to 7) or 48 bits (8 to 13): which levels occur there.
 *   nets     a word for each prefix of levels 1 to 12. mix(its bits + step * level) has 64 bits: the high 32, scaled
 *            to the number of lines, are its line; the low 56 stand in the word, above level and answer. Both
 *            together are the prefix again, so that a match is exact.
 *   hosts    two words for each address: one made from mix(mix(high half + step * 13) + low half) in the same way,
 *            among the first four of a line, and the high half four words further on.
 *
 * A prefix whose line is full goes to the line of the same 64 bits rotated by 32, and SPILLED6 in the first word of its
 * own line says so. What finds no place there either sets ASK6 in its gate or its root. A segment that is not there
 * sends the packet to the tries.
 */
enum index6_layout {
	SLOT6_GATES = 0,    /* up to 2^24 of them, 2^20 a segment */
	SLOT6_NETS = 16,    /* up to 2^25 places */
	SLOT6_HOSTS = 144,  /* up to 2^25 places */
	INDEX6_SLOTS = 400, /* of one side */
	ROOT6_LINES = 2048,

	LEVEL6_HOSTS = 13,
};

/* Of a word of nets or hosts: the low 8 bits. Level 0 is a free place. */
enum word6 {
	ANSWER6 = 3, /* enum answer6 */
	LEVEL6_SHIFT = 2,
	LEVEL6 = 15 << LEVEL6_SHIFT,
	SECOND6 = 1 << 6,  /* in its second line */
	SPILLED6 = 1 << 7, /* in the first word: something of this line is in its second one */
};

/* Of the 16 bits of a root or a gate: bit level - 1 for each level, and these. */
enum bits6 {
	ROOT6_SHIFT = 13, /* of a root's two bits of answer */
	ASK6 = 1 << 15,
};

enum answer6 {
	ANSWER6_PASS,
	ANSWER6_DROP,
	ANSWER6_ASK,	/* the tries know */
	ANSWER6_ALWAYS, /* the same, for good: there is something of a length that has no level below */
};

#define CHECK_EVERY 1024 /* packets of a counter: one of so many is judged by index and tries both */

/* checks: PERCPU_ARRAY of one. Where the two disagree the tries' verdict is the packet's. */
struct check {
	unsigned long long packets;
	unsigned long long mismatches;
};

/* Samples of what is dropped, written only while somebody watches: see events.h. */
enum sampling {
	SAMPLE_RING = 1 << 20,		 /* bytes; a power of two pages, of any page size */
	SAMPLE_PACKET = 256,		 /* bytes of a packet that are kept */
	SAMPLE_INTERVAL = 1000000,	 /* ns: one sample in so long, for each counter of each CPU */
	SAMPLE_TOLERANCE = 63 * 1000000, /* ns: but 64 of them in a burst */
};

struct sample {
	unsigned long long time;    /* ns of CLOCK_BOOTTIME */
	unsigned long long packets; /* of this CPU's counter, with this packet: what was dropped in between is known */
	unsigned int interface;	    /* index */
	unsigned int cpu;
	unsigned int length;	 /* of the packet */
	unsigned short captured; /* bytes of it that are here */
	unsigned char family;	 /* enum family */
	unsigned char reason;	 /* enum reason */
	unsigned int layer3;	 /* 1: the packet begins with its IP header */
	unsigned int pad;
	unsigned char packet[SAMPLE_PACKET];
};

/* sampled: PERCPU_ARRAY of one. */
struct sample_count {
	unsigned long long written;
	unsigned long long lost;      /* nobody made room in the ring */
	unsigned long long uncounted; /* drops for whose prefix there is no room */
};

#endif
