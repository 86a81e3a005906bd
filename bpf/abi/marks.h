/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 3: rules that give packets firewall marks.
 */
#pragma once
#include "abi/base.h"

/* Marks of health checks through a virtual address. They count only on packets of the director's own sockets. The
 * service of such a mark has one real server, and takes precedence over all rules. */
enum probe_marks {
	PROBE_MARKS = 0x50560000,
	PROBE_MARKS_SHIFT = 16, /* the bits below distinguish the checks */
};

/* Conditions of a rule; MARK_NOT_ flags negate them. */
enum mark_flag {
	MARK_NOT_SADDR = 1 << 0,
	MARK_NOT_DADDR = 1 << 1,
	MARK_NOT_SPORTS = 1 << 2,
	MARK_NOT_DPORTS = 1 << 3,
	MARK_NOT_PROTOCOL = 1 << 4,
	MARK_NOT_DEVICE = 1 << 5,
	MARK_NOT_LINK = 1 << 6,
	MARK_NOT_TCP_FLAGS = 1 << 7,
	MARK_NOT_TOS = 1 << 8,
	MARK_NOT_MARK = 1 << 9,
	MARK_BY_LINK = 1 << 16,
	MARK_BY_TCP_FLAGS = 1 << 17,
	MARK_BY_TOS = 1 << 18,
	MARK_BY_MARK = 1 << 19,
};

struct port_range { /* host order, inclusive */
	u16 first;
	u16 last;
};

struct mark_rule { /* an edit replaces whole lists */
	struct address saddr; /* already masked */
	struct address saddr_mask;
	struct address daddr;
	struct address daddr_mask;
	u32 flags;
	u32 mask; /* of a matching packet: mark = (mark & ~mask) ^ value */
	u32 value;
	u32 then_skip; /* rules to skip after a match */
	u32 else_skip; /* rules to skip otherwise */
	u32 device; /* ingress ifindex; 0: any; NOTHING: a device that does not exist */
	u32 asked_mark;
	u32 asked_mark_mask;
	u8 family; /* 4, 6, or 0 for both */
	u8 protocol; /* 0: any */
	u8 tos;
	u8 tos_mask;
	u8 tcp_flags;
	u8 tcp_flags_mask;
	u8 link[6]; /* MAC address of the sender */
	u16 sport_ranges; /* number of ranges; 0: any port */
	u16 dport_ranges;
	struct port_range sports[PORT_RANGES];
	struct port_range dports[PORT_RANGES];
	char device_name[16]; /* Python's: finds the device again by name */
};

struct routed_mark { /* a mark whose packets policy routing delivers locally */
	u32 mark;
	u32 family; /* 4 or 6 */
};

ARRAY_MAP(mark_rules, struct mark_rule, 2 * MARK_RULES, BPF_F_MMAPABLE);

HASH_MAP(routed_marks, struct routed_mark, u8, 4096, BPF_F_NO_PREALLOC);
