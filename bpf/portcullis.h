/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the kernel program and user space share: map layouts, enums, constants. The source of the Go types. */
#ifndef PORTCULLIS_H
#define PORTCULLIS_H

/* Raised whenever a map's layout or meaning changes; a loader refuses pinned maps of another. */
enum layout {
	LAYOUT_VERSION = 1,
};

/* How the source is looked up. The program of an unknown mode does not load: the verifier refuses it. */
enum lookup_mode {
	MODE_LPM, /* the LPM tries alone */
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
	unsigned char pad[6];
};

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
};

#endif
