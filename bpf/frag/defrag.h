/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_DEFRAG: fragments of requests and replies (IPVS-SEMANTICS 2.1, 2.7, 7.1 end). Fragments are held in a queue; the
 * last one to arrive becomes the whole packet and continues at PROG_PARSE_SLOW. PROG_FRAGMENT sends it as it arrived.
 * Fragments that the kernel would not reassemble are forwarded unreassembled.
 *
 * Reads fragment. Leaves frags for PROG_PARSE_SLOW and the programs that send.
 */
#pragma once
#include "conntrack/entry.h"
#include "frag/map.h"
#include "frag/lone.h"
#include "fwd/nexthop.h"
#include "parse/exthdr6.h"
#include "parse/options4.h"

/* --- from a complete queue to a packet --- */

/* Join the ECN codepoints. Return false for a combination that no sender makes (RFC 3168 5.3). */
INLINE bool merge_ecn(u32 seen, u8 *ecn)
{
	enum { NOT_ECT = 1, CE = 8 };
	*ecn = seen & CE && seen & ~CE ? 3 : 0;
	return !(seen & NOT_ECT) || seen == NOT_ECT;
}

INLINE bool header4_of_whole(struct frag_queue *g, bool df)
{
	struct ipv4_header *ip = (void *)g->headers;
	u8 ecn;
	if (!merge_ecn(g->ecn, &ecn) || g->head + g->length > 0xffff)
		return false;
	ip->tos |= ecn;
	ip->tot_len = bpf_htons(g->head + g->length);
	ip->frag_off = df ? bpf_htons(IP_DF) : 0;
	ip->check = 0;
	ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (be32 *)g->headers, HEADER_BUFFER, 0));
	return true;
}

INLINE bool header6_of_whole(struct frag_queue *g)
{
	struct ipv6_header *ip = (void *)g->headers;
	u8 ecn;
	if (!merge_ecn(g->ecn, &ecn) || g->head - IPV6_HLEN + g->length > 0xffff)
		return false;
	ip->version_class_flow |= bpf_htonl((u32)ecn << 20);
	ip->payload_len = bpf_htons(g->head - IPV6_HLEN + g->length);
	g->headers[g->next_at & (DEFRAG_HEAD - 1)] = g->next;
	return true;
}

struct coalesce_ctx {
	struct frag_map *frags;
	u32 at;
	u32 tailroom; /* left in the kernel's first buffer */
	u32 listed; /* some fragments are not in that buffer */
};

/* The kernel appends fragments of a packet for this host to the first one's buffer, while they fit. */
static int coalesce_step(u32 index, struct coalesce_ctx *j)
{
	struct frag_map *frags = j->frags;
	if (j->at >= frags->length)
		return 1;
	u32 next = next_start(frags, j->at, frags->length), size = next - j->at;
	if (!j->at || (!j->listed && size <= j->tailroom)) {
		frags->first = next;
		if (j->at) {
			j->tailroom -= size;
			frags->starts[j->at / 512 & (FRAG_WORDS - 1)] &= ~(1ull << (j->at / 8 & 63));
		}
	} else {
		j->listed = 1;
		if (size > frags->longest)
			frags->longest = size;
	}
	j->at = next;
	return 0;
}

INLINE void fill_frag_map(struct frag_map *frags, const struct frag_queue *g, bool coalesces)
{
	frags->largest = g->largest;
	frags->df = g->largest_df == g->largest;
	frags->length = g->length;
	frags->first = frags->longest = 0;
	frags->min_head = g->least_head;
	for (u32 i = 0; i < FRAG_WORDS; i++)
		frags->starts[i] = g->starts[i];
	struct coalesce_ctx j = {.frags = frags, .tailroom = coalesces ? g->tailroom : 0};
	FORGET_BOUNDS(j, at, listed);
	bpf_loop(DEFRAG_PAYLOAD / 8, coalesce_step, &j, 0);
}

/* Replace the frame by the whole packet. */
INLINE bool rebuild(struct __sk_buff *skb, struct frag_queue *g)
{
	u32 head = barrier_var(g->head), length = barrier_var(g->length);
	if (!IS_LENGTH(head, DEFRAG_HEAD) || !IS_LENGTH(length, DEFRAG_PAYLOAD) ||
	    !resize_frame(skb, ETH_HLEN + head + length))
		return false;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, g->headers, head, 0))
		return false;
	length = barrier_var(length); /* Linux 6.1 has lost its bounds here */
	return IS_LENGTH(length, DEFRAG_PAYLOAD) && !bpf_skb_store_bytes(skb, ETH_HLEN + head, g->bytes, length, 0);
}

/* --- a fragment arrives --- */

INLINE void fragment4(struct __sk_buff *skb, const struct scratch *w, struct fragment *f)
{
	const struct packet *p = &w->packet;
	f->saddr.word[0] = p->tuple.v4.saddr;
	f->daddr.word[0] = p->tuple.v4.daddr;
	f->kind = p->protocol | 1 << 9;
	f->offset = w->fragment.frag_off & ~7u;
	f->end = f->offset + ETH_HLEN + p->length - p->l4;
	f->more = w->fragment.frag_off & 1;
	if (f->more)
		f->end &= ~7u;
	f->head = p->l4 - ETH_HLEN;
	f->df = p->df;
	f->payload_at = p->l4;
	f->length = f->head + f->end - f->offset;
}

INLINE void fragment6(struct __sk_buff *skb, const struct scratch *w, struct fragment *f)
{
	const struct packet *p = &w->packet;
	f->saddr = p->tuple.v6.saddr;
	f->daddr = p->tuple.v6.daddr;
	f->kind = 1 << 8 | 1 << 9;
	f->payload_at = w->fragment.at + 8;
	f->offset = w->fragment.frag_off & ~7u;
	f->end = f->offset + ETH_HLEN + p->length - f->payload_at;
	f->more = w->fragment.frag_off & 1;
	f->head = f->payload_at - ETH_HLEN;
	f->is_ipv6 = 1;
	f->length = p->length;
}

/* Whether a first IPv6 fragment lacks headers that it must contain (RFC 8200 4.5). */
VERIFIED_ONCE int lacks_headers(struct __sk_buff *skb, const struct scratch *w, const struct fragment *f)
{
	if (!w || !f)
		return true;
	u32 at = f->payload_at, end = ETH_HLEN + w->packet.length;
	u8 next = w->packet.protocol;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		u8 head[2];
		if (!is_extension(next))
			break;
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, head, 2))
			return false;
		at += next == IPPROTO_AH ? (head[1] + 2) << 2 : (head[1] + 1) << 3;
		next = head[0];
	}
	u32 least = next == IPPROTO_TCP ? TCP_HLEN : next == IPPROTO_UDP || next == IPPROTO_ICMPV6 ? 8 : 1;
	return at + least > end;
}

/* Forward without reassembly. A first fragment may have all that is needed; others pass to the stack. */
INLINE int forward_unreassembled(struct __sk_buff *skb, struct scratch *w)
{
	if (w->fragment.frag_off & ~7u)
		return pass_for(HOOK_TC, REASON_FRAGMENT);
	w->packet.slow_flags = SLOW_FIRST_FRAGMENT;
	return tail_call(tc_ctx(skb), PROG_PARSE_SLOW);
}

INLINE bool is_for_host(struct __sk_buff *skb, const struct fragment *f)
{
	return bpf_map_lookup_elem(&locals, &f->daddr) || is_local_vip(tc_ctx(skb), &f->daddr, f->is_ipv6);
}

INLINE enum defrag_result add_to_queue(struct __sk_buff *skb, struct scratch *w, const struct fragment *f)
{
	u64 hash = packet_hash(f);
	u32 set = set_number(hash, DEFRAG_SETS), now = ticks();
	u32 *lock = map_elem(frag_locks, set);
	if (!lock || !try_lock(lock))
		return DEFRAG_LOCKED;
	struct frag_queue *g = find_queue(f, set, false);
	struct lone_slot slot = {};
	enum defrag_result found = DEFRAG_REFUSED;
	bool other = !g && find_lone(&slot, f, hash, now);
	if (other && !slot.found && waits_alone(f)) {
		slot.lone->named_at = w->fragment.named_at - ETH_HLEN;
		slot.lone->next = w->packet.protocol;
		slot.lone->received = skb->len;
		found = keep_lone(skb, &slot, f, hash, now);
		unlock(lock);
		return found;
	}
	if (!g)
		g = find_queue(f, set, true);
	if (g && other && slot.found) {
		g->created = slot.set->created[slot.way & (LONE_WAYS - 1)];
		g->moment = slot.set->moment[slot.way & (LONE_WAYS - 1)];
		move_lone(slot.lone, g);
		free_lone(&slot);
	}
	if (g) {
		found = add_fragment(skb, g, f, w->fragment.named_at - ETH_HLEN, w->packet.protocol);
		if (found == DEFRAG_COMPLETE) {
			bool coalesces = !f->is_ipv6 && !w->frags.passing;
			fill_frag_map(&w->frags, g, coalesces);
			if (!(f->is_ipv6 ? header6_of_whole(g) : header4_of_whole(g, w->frags.df)) || !rebuild(skb, g))
				found = DEFRAG_CONFLICT;
		}
		if (found == DEFRAG_COMPLETE || found == DEFRAG_CONFLICT)
			g->kind = 0;
	}
	unlock(lock);
	return found;
}

INLINE void drop_queue(const struct fragment *f)
{
	u64 hash = packet_hash(f);
	u32 set = set_number(hash, DEFRAG_SETS);
	u32 *lock = map_elem(frag_locks, set);
	if (!lock || !try_lock(lock))
		return;
	struct frag_queue *g = find_queue(f, set, false);
	struct lone_slot slot = {};
	if (g)
		g->kind = 0;
	else if (find_lone(&slot, f, hash, ticks()) && slot.found)
		free_lone(&slot);
	unlock(lock);
}

INLINE int prog_defrag(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	struct fragment f = {.id = w->fragment.id, .ecn = 1u << (p->tos & 3)};
	if (skb->tc_index == FOR_STACK) { /* re-injected by PROG_FRAGMENT */
		skb->tc_index = 0;
		return pass_counted(HOOK_TC);
	}
	if (p->is_ipv6)
		fragment6(skb, w, &f);
	else
		fragment4(skb, w, &f);
	if ((!p->maybe_vip && !p->maybe_rs) || (!facts_of(root)->services[p->is_ipv6] && !has_conns()))
		return pass_for(HOOK_TC, REASON_NO_SERVICE);
	bool here = is_for_host(skb, &f);
	if (!here && !p->maybe_rs)
		return pass_for(HOOK_TC, REASON_FRAGMENT);
	if (!here && !p->is_ipv6 && (p->protocol == IPPROTO_AH || p->protocol == IPPROTO_ESP))
		return forward_unreassembled(skb, w);
	if (p->is_ipv6 && !f.offset && lacks_headers(skb, w, &f))
		return forward_unreassembled(skb, w);
	if (f.end > 0xffff)
		return drop(HOOK_TC, REASON_FRAGMENT_INVALID);
	if (p->is_ipv6 && f.more && f.end & 7) {
		drop_queue(&f);
		return forward_unreassembled(skb, w);
	}
	if (f.end > DEFRAG_PAYLOAD)
		return drop(HOOK_TC, REASON_FRAGMENT_TOO_LONG);
	w->frags.passing = !here;
	switch (add_to_queue(skb, w, &f)) {
	case DEFRAG_HELD:
		return hold(REASON_FRAGMENT_QUEUED);
	case DEFRAG_DUPLICATE:
		return drop(HOOK_TC, REASON_FRAGMENT_DUPLICATE);
	case DEFRAG_CONFLICT:
		return drop(HOOK_TC, REASON_FRAGMENT_OVERLAP);
	case DEFRAG_REFUSED:
		return drop(HOOK_TC, REASON_FRAGMENT_INVALID);
	case DEFRAG_LOCKED:
		return drop(HOOK_TC, REASON_FRAGMENT_LOCKED);
	case DEFRAG_COMPLETE:
		break;
	}
	count(REASON_FRAGMENTS_JOINED);
	p->slow_flags = SLOW_REASSEMBLED;
	return tail_call(tc_ctx(skb), PROG_PARSE_SLOW);
}
