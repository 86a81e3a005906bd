/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPv6 extension headers (RFC 8200 4).
 */
#pragma once
#include "lib/headers.h"

enum { MAX_EXTENSIONS = 8 /* limit of the walk */ };

INLINE bool is_transport6(u8 next)
{
	return has_ports(next) || next == IPPROTO_ICMPV6 || next == IPPROTO_ESP;
}

INLINE bool is_extension(u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_AH;
}

struct extension {
	u8 next;
	u8 length;
	be16 frag_off; /* of a fragment header: offset and flags */
	be32 id;
};

/* Options of a hop-by-hop header, and limits of the kernel (ip6_parse_tlv): of padding together, of other options. */
enum hop_option {
	OPTION_PAD1,
	OPTION_PADN,
	OPTION_ROUTER_ALERT = 5,
	OPTION_ACTION = 0xc0, /* one of these bits: a packet with an unknown option is dropped, or answered */
	MOST_PADDING = 7,
	MOST_HOP_OPTIONS = 8,
	HOP_STEPS = (MOST_PADDING + 1) * (MOST_HOP_OPTIONS + 1),
};

struct hop_options {
	struct __sk_buff *skb;
	u32 at; /* offset of the next option */
	u32 end;
	u32 padding; /* bytes since the last other option */
	u32 others;
	u32 bad;
};

/* Whether these bytes of padding, from one to five, are 0. */
INLINE bool is_zero(struct __sk_buff *skb, u32 at, u32 count)
{
	u64 bytes = 0;
	count = barrier_var(count);
	return IS_LENGTH(count, MOST_PADDING - 2) && !bpf_skb_load_bytes(skb, at, &bytes, count) && !bytes;
}

/* Read an option. */
static int hop_option_step(u32 index, struct hop_options *o)
{
	u8 head[2] = {};
	u32 left = o->end - o->at, size = 1;
	if (o->bad || o->at >= o->end)
		return 1;
	o->bad = 1;
	if (bpf_skb_load_bytes(o->skb, o->at, head, left > 1 ? 2 : 1))
		return 1;
	if (head[0] != OPTION_PAD1)
		size = head[1] + 2;
	if (size > left)
		return 1;
	if (head[0] == OPTION_PAD1 || head[0] == OPTION_PADN) {
		o->padding += size;
		if (o->padding > MOST_PADDING || (size > 2 && !is_zero(o->skb, o->at + 2, size - 2)))
			return 1;
	} else {
		o->padding = 0;
		o->others += 1;
		if (o->others > MOST_HOP_OPTIONS || head[0] & OPTION_ACTION ||
		    (head[0] == OPTION_ROUTER_ALERT && size != 4))
			return 1;
	}
	o->at += size;
	o->bad = 0;
	return 0;
}

/* Whether the kernel passes a packet with this hop-by-hop header to IPVS. It drops others, or answers with an error. */
INLINE bool has_good_hop_options(struct __sk_buff *skb, u32 at, u32 packet_end)
{
	struct extension head;
	struct hop_options o = {.skb = skb, .at = at + 2};
	if (bpf_skb_load_bytes(skb, at, &head, 2))
		return false;
	o.end = at + ((head.length + 1) << 3);
	if (o.end > packet_end)
		return false;
	FORGET_BOUNDS(o, at, bad);
	bpf_loop(HOP_STEPS, hop_option_step, &o, 0);
	return !o.bad && o.at == o.end;
}
