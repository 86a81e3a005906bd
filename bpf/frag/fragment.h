/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Fragments (RFC 791; RFC 8200 4.5): a finished packet that is longer than it may leave goes in pieces. Redirecting
 * never fragments, so this host does it: the payload is copied aside and each piece is sent as a clone.
 *
 * A packet that came in fragments leaves as the kernel would cut it: as it came where that is possible, else in pieces
 * as long as its longest fragment.
 */
#pragma once
#include "frag/map.h"
#include "fwd/send.h"
#include "parse/exthdr6.h"
#include "parse/options4.h"

enum { CUT_PAYLOAD = 16384, CUT_PIECE = 8184, CUT_MASK = 16383, FRAGMENT_BYTES = 8, OPTION_COPIED = 0x80,
       ETHER_LEAST = 60 };

struct cutting {
	struct __sk_buff *skb;
	struct copy *copy;
	struct work *w;
	u32 head; /* bytes before each piece, an IPv6 fragment header among them */
	u32 six;
	u32 ifindex;
	u32 step; /* the longest piece */
	u32 payload;
	u32 offset;
	s32 listed; /* pieces are those that came */
	s32 growth; /* of the payload, by a tunnel's headers, which the first piece has */
	u32 df;
	u32 failed;
};

INLINE bool write_head4(struct cutting *c, u32 size, bool more)
{
	struct ipv4 *ip = (void *)c->w->head;
	u32 head = OPAQUE(c->head);
	ip->length = to_be16(c->head + size);
	ip->fragment = to_be16((c->offset >> 3) | (more ? IPV4_MF : 0) | (c->df ? IPV4_DF : 0));
	ip->check = 0;
	ip->check = ~folded(bpf_csum_diff(NULL, 0, (be32 *)c->w->head, HEADER_BUFFER, 0));
	return IS_LENGTH(head, HEADER_BUFFER) && !bpf_skb_store_bytes(c->skb, ETHER, c->w->head, head, 0);
}

INLINE bool write_head6(struct cutting *c, u32 size, bool more)
{
	struct ipv6 *ip = (void *)c->w->head;
	u32 head = OPAQUE(c->head), at = OPAQUE(c->head - FRAGMENT_BYTES);
	if (!IS_LENGTH(head, CUT_HEAD + FRAGMENT_BYTES) || at > CUT_HEAD)
		return false;
	ip->length = to_be16(c->head - IPV6_BYTES + size);
	*(be16 *)&c->w->head[at + 2] = to_be16(c->offset | more);
	return !bpf_skb_store_bytes(c->skb, ETHER, c->w->head, head, 0);
}

/* Options that only the first fragment carries become no-operations (RFC 791 3.1): a step is one byte. */
struct blanking {
	u8 *head;
	u32 size;
	u32 option; /* where the next one starts */
	u32 blank_to;
};

static int blank_step(u32 index, struct blanking *b)
{
	u32 at = OPAQUE(IPV4_BYTES + index);
	if (at >= b->size || at >= HEADER_BUFFER - 1)
		return 1;
	if (at == b->option) {
		u8 kind = b->head[at], length = kind == OPTION_NOP ? 1 : b->head[at + 1];
		if (kind == OPTION_END || !length || at + length > b->size)
			return 1;
		b->option = at + length;
		b->blank_to = kind & OPTION_COPIED ? 0 : b->option;
	}
	if (at < b->blank_to)
		b->head[at] = OPTION_NOP;
	return 0;
}

INLINE void first_has_gone(const struct cutting *c)
{
	struct blanking b = {.head = c->w->head, .size = c->head, .option = IPV4_BYTES};
	FORGET(b, size, blank_to);
	bpf_loop(HEADER_BUFFER - IPV4_BYTES, blank_step, &b, 0);
}

INLINE u32 piece_size(const struct cutting *c)
{
	u32 left = c->payload - c->offset;
	if (!c->listed)
		return left <= c->step ? left : c->step & ~7u;
	u32 came_at = c->offset ? c->offset - c->growth : 0;
	return next_start(&c->w->pieces, came_at, c->w->pieces.length) + c->growth - c->offset;
}

/* What the kernel will not make so short is padded, as Ethernet does it. */
INLINE bool shortened(struct __sk_buff *skb, u32 length)
{
	return resized(skb, length) || (length < ETHER_LEAST && resized(skb, ETHER_LEAST));
}

static int cut_step(u32 index, struct cutting *c)
{
	if (c->offset >= c->payload || c->offset > CUT_MASK)
		return 1;
	u32 size = OPAQUE(piece_size(c));
	bool more = c->offset + size < c->payload;
	c->failed = 1;
	if (!IS_LENGTH(size, CUT_PIECE) || !shortened(c->skb, ETHER + c->head + size) ||
	    !(c->six ? write_head6(c, size, more) : write_head4(c, size, more)) ||
	    bpf_skb_store_bytes(c->skb, ETHER + c->head, &c->copy->bytes[OPAQUE(c->offset) & CUT_MASK], size, 0))
		return 1;
	c->skb->tc_index = c->w->pieces.passing == PASSING_ON ? FOR_STACK : 0;
	if (bpf_clone_redirect(c->skb, c->ifindex, c->w->pieces.passing == PASSING_ON ? BPF_F_INGRESS : 0))
		return 1;
	if (!c->six && !c->offset)
		first_has_gone(c);
	c->offset += size;
	c->failed = 0;
	return 0;
}

/* The IP header that all pieces begin with, into w->head; its length, or 0. */
VERIFIED_ONCE u32 read_head4(struct __sk_buff *skb, struct work *w)
{
	if (!w)
		return 0;
	struct ipv4 *ip = (void *)w->head;
	wipe(ip, HEADER_BUFFER);
	if (bpf_skb_load_bytes(skb, ETHER, ip, IPV4_BYTES))
		return 0;
	u32 head = OPAQUE((ip->version_words & 15u) << 2);
	if (head < IPV4_BYTES || !IS_LENGTH(head, HEADER_BUFFER) || bpf_skb_load_bytes(skb, ETHER, ip, head))
		return 0;
	return head;
}

/* Likewise. The fragment header stands behind hop-by-hop and routing headers, and destination options before the latter. */
VERIFIED_ONCE u32 read_head6(struct __sk_buff *skb, struct work *w)
{
	u32 at = ETHER + IPV6_BYTES, named_at = 6;
	bool routed = false;
	u8 next;
	if (!w || bpf_skb_load_bytes(skb, ETHER + 6, &next, 1))
		return 0;
	for (int i = 0; i < EXTENSIONS; i++) {
		u8 head[2];
		if (next != EXTENSION_HOP && next != EXTENSION_ROUTING && !(next == EXTENSION_TARGET && !routed))
			break;
		routed |= next == EXTENSION_ROUTING;
		if (bpf_skb_load_bytes(skb, at, head, 2))
			return 0;
		named_at = at - ETHER;
		at += (head[1] + 1) << 3;
		next = head[0];
	}
	u32 head = OPAQUE(at - ETHER);
	if (!IS_LENGTH(head, CUT_HEAD) || bpf_skb_load_bytes(skb, ETHER, w->head, head))
		return 0;
	w->head[named_at & (CUT_HEAD - 1)] = PROTO_FRAGMENT;
	*(u64 *)&w->head[head & ~7u] = next | (u64)bpf_get_prandom_u32() << 32;
	return head + FRAGMENT_BYTES;
}

/* Whether the pieces that came can leave as they are: the kernel's conditions for buffers it did not copy. A port
 * rewritten in a first one that is shorter than its header makes that one longer. */
INLINE bool keeps_pieces(const struct cutting *c, const struct pieces *pieces)
{
	const struct packet *p = &c->w->packet;
	u32 first = pieces->first + c->growth;
	bool masq = c->w->replying || c->w->method == METHOD_MASQ;
	if (pieces->passing == PASSING_ON)
		return true;
	if (masq && !p->six && p->protocol == PROTO_TCP && pieces->first < TCP_BYTES)
		return false;
	return pieces->first < pieces->length && !(first & 7) && first <= c->step && pieces->longest <= c->step &&
	       pieces->least_head >= c->head;
}

INLINE int stage_cut(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct copy *copy = LOOKUP(copies, 0);
	if (!w || !copy)
		return to_stack(HOOK_TC);
	const struct packet *p = &w->packet;
	const struct pieces *pieces = &w->pieces;
	bool gathered = p->odd & ODDITY_GATHERED, round = gathered && pieces->passing == PASSING_ON;
	struct cutting c = {.skb = skb, .copy = copy, .w = w};
	c.six = round ? p->six : w->outer_six;
	c.ifindex = OPAQUE(skb->ifindex);
	if (!round)
		c.ifindex = w->hop.ifindex;
	if (!gathered)
		w->pieces.passing = 0;
	if ((!round && w->hop.verdict != HOP_READY) || skb->gso_size)
		return dropped(HOOK_TC, REASON_FRAGMENT_FAILED);
	c.head = c.six ? read_head6(skb, w) : read_head4(skb, w);
	if (!c.head || (!round && w->mtu < c.head + 8))
		return dropped(HOOK_TC, REASON_FRAGMENT_FAILED);
	c.step = w->mtu - c.head;
	if (c.step > CUT_PIECE)
		c.step = CUT_PIECE;
	c.payload = skb->len - ETHER - c.head + (c.six ? FRAGMENT_BYTES : 0);
	if (gathered) {
		c.growth = c.payload - pieces->length;
		c.listed = keeps_pieces(&c, pieces);
		c.df = !c.six && !p->six && !c.listed && pieces->df;
	}
	u32 payload = OPAQUE(c.payload);
	if (!IS_LENGTH(payload, CUT_PAYLOAD) ||
	    bpf_skb_load_bytes(skb, skb->len - payload, copy->bytes, payload) ||
	    (!round && !address_link(skb, &w->hop, HOOK_TC)))
		return dropped(HOOK_TC, REASON_FRAGMENT_FAILED);
	FORGET(c, head, failed);
	bpf_loop(CUT_PAYLOAD / 8 + 1, cut_step, &c, 0);
	return dropped(HOOK_TC, c.failed ? REASON_FRAGMENT_FAILED : REASON_FRAGMENTED);
}
