/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_FRAGMENT: fragment a finished packet (RFC 791; RFC 8200 4.5). A redirect never fragments, so the program copies
 * the payload, and sends a clone for each fragment.
 *
 * A reassembled packet leaves as the kernel would send it: in the same fragments if possible, else in fragments as long
 * as the longest one received.
 *
 * Reads xmit, chosen.method and, of a reassembled packet, frags.
 */
#pragma once
#include "frag/map.h"
#include "fwd/send.h"
#include "parse/exthdr6.h"
#include "parse/options4.h"

enum { FRAGMENT_PAYLOAD = 16384, FRAGMENT_MAX = 8184, FRAGMENT_MASK = 16383, FRAGMENT_HLEN = 8 };

struct fragment_ctx {
	struct __sk_buff *skb;
	struct copy *copy;
	struct scratch *w;
	u32 head; /* bytes before the payload of each fragment, including an IPv6 fragment header */
	u32 is_ipv6;
	u32 ifindex;
	u32 step; /* payload of the longest fragment */
	u32 payload;
	u32 offset;
	s32 keeps; /* keep the boundaries of the received fragments */
	s32 growth; /* of the payload by a tunnel's headers, all in the first fragment */
	u32 df;
	u32 failed;
};

INLINE bool write_head4(struct fragment_ctx *c, u32 size, bool more)
{
	struct ipv4_header *ip = (void *)c->w->head;
	u32 head = barrier_var(c->head);
	ip->tot_len = bpf_htons(c->head + size);
	ip->frag_off = bpf_htons((c->offset >> 3) | (more ? IP_MF : 0) | (c->df ? IP_DF : 0));
	ip->check = 0;
	ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (be32 *)c->w->head, HEADER_BUFFER, 0));
	return IS_LENGTH(head, HEADER_BUFFER) && !bpf_skb_store_bytes(c->skb, ETH_HLEN, c->w->head, head, 0);
}

INLINE bool write_head6(struct fragment_ctx *c, u32 size, bool more)
{
	struct ipv6_header *ip = (void *)c->w->head;
	u32 head = barrier_var(c->head), at = barrier_var(c->head - FRAGMENT_HLEN);
	if (!IS_LENGTH(head, FRAG_HEAD + FRAGMENT_HLEN) || at > FRAG_HEAD)
		return false;
	ip->payload_len = bpf_htons(c->head - IPV6_HLEN + size);
	*(be16 *)&c->w->head[at + 2] = bpf_htons(c->offset | more);
	return !bpf_skb_store_bytes(c->skb, ETH_HLEN, c->w->head, head, 0);
}

/* Replace options that belong in the first fragment only by no-operations (RFC 791 3.1), one byte a step. */
struct blank_ctx {
	u8 *head;
	u32 size;
	u32 option; /* offset of the next option */
	u32 blank_to;
};

static int blank_step(u32 index, struct blank_ctx *b)
{
	u32 at = barrier_var(IPV4_HLEN + index);
	if (at >= b->size || at >= HEADER_BUFFER - 1)
		return 1;
	if (at == b->option) {
		u8 kind = b->head[at], length = kind == IPOPT_NOOP ? 1 : b->head[at + 1];
		if (kind == IPOPT_END || !length || at + length > b->size)
			return 1;
		b->option = at + length;
		b->blank_to = kind & IPOPT_COPY ? 0 : b->option;
	}
	if (at < b->blank_to)
		b->head[at] = IPOPT_NOOP;
	return 0;
}

INLINE void blank_uncopied_options(const struct fragment_ctx *c)
{
	struct blank_ctx b = {.head = c->w->head, .size = c->head, .option = IPV4_HLEN};
	FORGET_BOUNDS(b, size, blank_to);
	bpf_loop(HEADER_BUFFER - IPV4_HLEN, blank_step, &b, 0);
}

INLINE u32 next_size(const struct fragment_ctx *c)
{
	u32 left = c->payload - c->offset;
	if (!c->keeps)
		return left <= c->step ? left : c->step & ~7u;
	u32 received_at = c->offset ? c->offset - c->growth : 0;
	return next_start(&c->w->frags, received_at, c->w->frags.length) + c->growth - c->offset;
}

/* Shorten the frame; where the kernel refuses a short length, pad it to Ethernet's minimum. */
INLINE bool shorten_frame(struct __sk_buff *skb, u32 length)
{
	return resize_frame(skb, length) || (length < ETH_ZLEN && resize_frame(skb, ETH_ZLEN));
}

/* Whether the kernel's neighbour code is to send the fragment: the last one, or the first one if it has yet to resolve
 * the neighbour. Without branches, because the verifier would follow each of them through the rest of the step. */
INLINE bool is_for_neighbour(const struct fragment_ctx *c, u32 size)
{
	u64 more = is_nonzero(c->payload - c->offset - size);
	u64 resolved = is_nonzero(c->w->xmit.hop.verdict ^ HOP_UNRESOLVED);
	return is_nonzero(c->w->frags.passing ^ TO_STACK_AGAIN) & ~(more & resolved);
}

static int fragment_step(u32 index, struct fragment_ctx *c)
{
	if (c->offset >= c->payload || c->offset > FRAGMENT_MASK)
		return 1;
	u32 size = barrier_var(next_size(c));
	bool more = c->offset + size < c->payload;
	c->failed = 1;
	if (!IS_LENGTH(size, FRAGMENT_MAX) || !shorten_frame(c->skb, ETH_HLEN + c->head + size) ||
	    !(c->is_ipv6 ? write_head6(c, size, more) : write_head4(c, size, more)) ||
	    bpf_skb_store_bytes(c->skb, ETH_HLEN + c->head, &c->copy->bytes[barrier_var(c->offset) & FRAGMENT_MASK],
				size, 0))
		return 1;
	c->skb->tc_index = c->w->frags.passing == TO_STACK_AGAIN ? FOR_STACK : 0;
	if (is_for_neighbour(c, size)) {
		c->failed = 0;
		return 1; /* this one is for the caller to send */
	}
	if (bpf_clone_redirect(c->skb, c->ifindex, c->w->frags.passing == TO_STACK_AGAIN ? BPF_F_INGRESS : 0))
		return 1;
	if (!c->is_ipv6 && !c->offset)
		blank_uncopied_options(c);
	c->offset += size;
	c->failed = 0;
	return 0;
}

/* Copy the IP header of all fragments to w->head; return its length, or 0. */
VERIFIED_ONCE u32 read_head4(struct __sk_buff *skb, struct scratch *w)
{
	if (!w)
		return 0;
	struct ipv4_header *ip = (void *)w->head;
	memzero(ip, HEADER_BUFFER);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, IPV4_HLEN))
		return 0;
	u32 head = barrier_var((ip->version_ihl & 15u) << 2);
	if (head < IPV4_HLEN || !IS_LENGTH(head, HEADER_BUFFER) || bpf_skb_load_bytes(skb, ETH_HLEN, ip, head))
		return 0;
	return head;
}

/* Likewise. The fragment header follows hop-by-hop and routing headers, and destination options that precede a routing
 * header. */
VERIFIED_ONCE u32 read_head6(struct __sk_buff *skb, struct scratch *w)
{
	u32 at = ETH_HLEN + IPV6_HLEN, named_at = 6;
	bool routed = false;
	u8 next;
	if (!w || bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1))
		return 0;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		u8 head[2];
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && !(next == IPPROTO_DSTOPTS && !routed))
			break;
		routed |= next == IPPROTO_ROUTING;
		if (bpf_skb_load_bytes(skb, at, head, 2))
			return 0;
		named_at = at - ETH_HLEN;
		at += (head[1] + 1) << 3;
		next = head[0];
	}
	u32 head = barrier_var(at - ETH_HLEN);
	if (!IS_LENGTH(head, FRAG_HEAD) || bpf_skb_load_bytes(skb, ETH_HLEN, w->head, head))
		return 0;
	w->head[named_at & (FRAG_HEAD - 1)] = IPPROTO_FRAGMENT;
	*(u64 *)&w->head[head & ~7u] = next | (u64)bpf_get_prandom_u32() << 32;
	return head + FRAGMENT_HLEN;
}

/* Whether the received boundaries can stay: the kernel's conditions for buffers that it has not copied. NAT of a port
 * extends a first fragment that is shorter than the TCP header. */
INLINE bool keeps_fragments(const struct fragment_ctx *c, const struct frag_map *frags)
{
	const struct packet *p = &c->w->packet;
	u32 first = frags->first + c->growth;
	bool masq = c->w->xmit.is_reply || c->w->chosen.method == METHOD_MASQ;
	if (frags->passing == TO_STACK_AGAIN)
		return true;
	if (masq && !p->is_ipv6 && p->protocol == IPPROTO_TCP && frags->first < TCP_HLEN)
		return false;
	return frags->first < frags->length && !(first & 7) && first <= c->step && frags->longest <= c->step &&
	       frags->min_head >= c->head;
}

VERIFIED_ONCE int finish_fragments(struct __sk_buff *skb, struct scratch *w, u32 failed)
{
	if (failed || !w)
		return drop(HOOK_TC, REASON_FRAGMENT_FAILED);
	count(REASON_FRAGMENTED);
	if (w->frags.passing == TO_STACK_AGAIN)
		return end_as(TC_SHOT, END_PASSED, w->passes_by);
	return xmit_neigh(skb, &w->xmit.hop);
}

/* The kernel's neighbour code gets the last fragment, so it keeps the neighbour valid. If it has yet to resolve the
 * neighbour, it gets the first one, and the others are lost: they cannot wait. */
INLINE int prog_fragment(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct copy *copy = map_elem(copies, 0);
	if (!copy)
		return pass_to_stack(HOOK_TC);
	const struct packet *p = &w->packet;
	const struct frag_map *frags = &w->frags;
	bool reassembled = p->slow_flags & SLOW_REASSEMBLED, round = reassembled && frags->passing == TO_STACK_AGAIN;
	struct fragment_ctx c = {.skb = skb, .copy = copy, .w = w};
	c.is_ipv6 = round ? p->is_ipv6 : w->xmit.is_ipv6;
	c.ifindex = barrier_var(skb->ifindex);
	if (!round)
		c.ifindex = w->xmit.hop.ifindex;
	if (!reassembled)
		w->frags.passing = 0;
	if ((!round && !has_neighbour(&w->xmit.hop)) || skb->gso_size)
		return drop(HOOK_TC, REASON_FRAGMENT_FAILED);
	c.head = c.is_ipv6 ? read_head6(skb, w) : read_head4(skb, w);
	if (!c.head || (!round && w->xmit.fragment_size < c.head + 8))
		return drop(HOOK_TC, REASON_FRAGMENT_FAILED);
	c.step = w->xmit.fragment_size - c.head;
	if (c.step > FRAGMENT_MAX)
		c.step = FRAGMENT_MAX;
	c.payload = skb->len - ETH_HLEN - c.head + (c.is_ipv6 ? FRAGMENT_HLEN : 0);
	if (reassembled) {
		c.growth = c.payload - frags->length;
		c.keeps = keeps_fragments(&c, frags);
		c.df = !c.is_ipv6 && !p->is_ipv6 && !c.keeps && frags->df;
	}
	u32 payload = barrier_var(c.payload);
	if (!IS_LENGTH(payload, FRAGMENT_PAYLOAD) ||
	    bpf_skb_load_bytes(skb, skb->len - payload, copy->bytes, payload) ||
	    (!round && !set_macs(tc_ctx(skb), &w->xmit.hop)))
		return drop(HOOK_TC, REASON_FRAGMENT_FAILED);
	FORGET_BOUNDS(c, head, failed);
	bpf_loop(FRAGMENT_PAYLOAD / 8 + 1, fragment_step, &c, 0);
	return finish_fragments(skb, w, c.failed);
}
