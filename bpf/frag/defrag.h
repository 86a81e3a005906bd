/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Fragments of requests and replies, at TC alone (IPVS-SEMANTICS 2.1, 2.7, 7.1 end). Those that come are copied aside;
 * the one that completes its packet becomes the packet, which goes through STAGE_ODD like any other and leaves cut as
 * it came (cut.h). What the kernel would not put together either goes on as it is.
 */
#pragma once
#include "frag/map.h"
#include "frag/queue.h"
#include "fwd/nexthop.h"
#include "parse/exthdr6.h"
#include "parse/options4.h"

/* --- the packet out of its fragments --- */

/* The congestion codepoint of the whole; false for a mixture that no sender makes (RFC 3168 5.3). */
INLINE bool joined_ecn(u32 seen, u8 *ecn)
{
	enum { NOT_ECT = 1, CE = 8 };
	*ecn = seen & CE && seen & ~CE ? 3 : 0;
	return !(seen & NOT_ECT) || seen == NOT_ECT;
}

INLINE bool header4_of_whole(struct gather *g, bool df)
{
	struct ipv4 *ip = (void *)g->headers;
	u8 ecn;
	if (!joined_ecn(g->ecn, &ecn) || g->head + g->length > 0xffff)
		return false;
	ip->tos |= ecn;
	ip->length = to_be16(g->head + g->length);
	ip->fragment = df ? to_be16(IPV4_DF) : 0;
	ip->check = 0;
	ip->check = ~folded(bpf_csum_diff(NULL, 0, (be32 *)g->headers, HEADER_BUFFER, 0));
	return true;
}

INLINE bool header6_of_whole(struct gather *g)
{
	struct ipv6 *ip = (void *)g->headers;
	u8 ecn;
	if (!joined_ecn(g->ecn, &ecn) || g->head - IPV6_BYTES + g->length > 0xffff)
		return false;
	ip->version_class_flow |= to_be32((u32)ecn << 20);
	ip->length = to_be16(g->head - IPV6_BYTES + g->length);
	g->headers[g->next_at & (GATHER_HEAD - 1)] = g->next;
	return true;
}

struct joining {
	struct pieces *pieces;
	u32 at;
	u32 room; /* left in the kernel's first buffer */
	u32 listed; /* some pieces stand behind it */
};

/* The kernel copies fragments of a packet for this host behind the first one while its buffer has room. */
static int join_step(u32 index, struct joining *j)
{
	struct pieces *pieces = j->pieces;
	if (j->at >= pieces->length)
		return 1;
	u32 next = next_start(pieces, j->at, pieces->length), size = next - j->at;
	if (!j->at || (!j->listed && size <= j->room)) {
		pieces->first = next;
		if (j->at) {
			j->room -= size;
			pieces->starts[j->at / 512 & (PIECE_WORDS - 1)] &= ~(1ull << (j->at / 8 & 63));
		}
	} else {
		j->listed = 1;
		if (size > pieces->longest)
			pieces->longest = size;
	}
	j->at = next;
	return 0;
}

INLINE void note_pieces(struct pieces *pieces, const struct gather *g, bool joins)
{
	pieces->largest = g->largest;
	pieces->df = g->largest_df == g->largest;
	pieces->length = g->length;
	pieces->first = pieces->longest = 0;
	pieces->least_head = g->least_head;
	for (u32 i = 0; i < PIECE_WORDS; i++)
		pieces->starts[i] = g->starts[i];
	struct joining j = {.pieces = pieces, .room = joins ? g->room : 0};
	FORGET(j, at, listed);
	bpf_loop(GATHER_PAYLOAD / 8, join_step, &j, 0);
}

/* The frame becomes the whole packet. */
INLINE bool rebuilt(struct __sk_buff *skb, struct gather *g)
{
	u32 head = OPAQUE(g->head), length = OPAQUE(g->length);
	if (!IS_LENGTH(head, GATHER_HEAD) || !IS_LENGTH(length, GATHER_PAYLOAD) || !resized(skb, ETHER + head + length))
		return false;
	if (bpf_skb_store_bytes(skb, ETHER, g->headers, head, 0))
		return false;
	length = OPAQUE(length); /* Linux 6.1 has forgotten its bounds by now */
	return IS_LENGTH(length, GATHER_PAYLOAD) && !bpf_skb_store_bytes(skb, ETHER + head, g->bytes, length, 0);
}

/* --- a fragment comes --- */

INLINE void piece4(struct __sk_buff *skb, const struct work *w, struct piece *f)
{
	const struct packet *p = &w->packet;
	f->source.word[0] = p->tuple.v4.source;
	f->target.word[0] = p->tuple.v4.target;
	f->kind = p->protocol | 1 << 9;
	f->offset = w->fragment & ~7u;
	f->end = f->offset + ETHER + p->length - p->l4;
	f->more = w->fragment & 1;
	if (f->more)
		f->end &= ~7u;
	f->head = p->l4 - ETHER;
	f->df = p->df;
	f->payload_at = p->l4;
	f->length = f->head + f->end - f->offset;
}

INLINE void piece6(struct __sk_buff *skb, const struct work *w, struct piece *f)
{
	const struct packet *p = &w->packet;
	f->source = p->tuple.v6.source;
	f->target = p->tuple.v6.target;
	f->kind = 1 << 8 | 1 << 9;
	f->payload_at = w->fragment_at + 8;
	f->offset = w->fragment & ~7u;
	f->end = f->offset + ETHER + p->length - f->payload_at;
	f->more = w->fragment & 1;
	f->head = f->payload_at - ETHER;
	f->six = 1;
	f->length = p->length;
}

/* Whether a first IPv6 fragment lacks part of the headers that it must hold (RFC 8200 4.5). */
VERIFIED_ONCE int is_headless(struct __sk_buff *skb, const struct work *w, const struct piece *f)
{
	if (!w || !f)
		return true;
	u32 at = f->payload_at, end = ETHER + w->packet.length;
	u8 next = w->packet.protocol;
	for (int i = 0; i < EXTENSIONS; i++) {
		u8 head[2];
		if (!is_extension(next))
			break;
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, head, 2))
			return false;
		at += next == EXTENSION_AH ? (head[1] + 2) << 2 : (head[1] + 1) << 3;
		next = head[0];
	}
	u32 least = next == PROTO_TCP ? TCP_BYTES : next == PROTO_UDP || next == PROTO_ICMP6 ? 8 : 1;
	return at + least > end;
}

/* Not to be put together: a first fragment may yet hold all that forwarding asks for. */
INLINE int alone(struct __sk_buff *skb, struct work *w)
{
	if (w->fragment & ~7u)
		return to_stack(HOOK_TC);
	w->packet.odd = ODDITY_FRAGMENT;
	return go_on(skb, HOOK_TC, STAGE_ODD);
}

INLINE bool is_for_host(void *ctx, const struct piece *f)
{
	struct bpf_fib_lookup question;
	if (bpf_map_lookup_elem(&locals, &f->target))
		return true;
	hop_question(&question, &f->target, f->six, loopback, NULL);
	return bpf_fib_lookup(ctx, &question, sizeof(question), 0) == BPF_FIB_LKUP_RET_NOT_FWDED &&
	       is_own(ctx, &f->target, f->six);
}

INLINE enum gathered gather(struct __sk_buff *skb, struct work *w, const struct piece *f)
{
	u32 set = gather_set(f);
	u32 *lock = LOOKUP(gather_locks, set);
	if (!lock || !locked(lock))
		return GATHER_REFUSED;
	struct gather *g = gather_of(f, set, true);
	enum gathered found = GATHER_REFUSED;
	if (g) {
		found = add_piece(skb, g, f, w->fragment_named_at - ETHER, w->packet.protocol);
		if (found == GATHER_WHOLE) {
			bool joins = !f->six && !w->pieces.passing;
			note_pieces(&w->pieces, g, joins);
			if (!(f->six ? header6_of_whole(g) : header4_of_whole(g, w->pieces.df)) || !rebuilt(skb, g))
				found = GATHER_CONFLICT;
		}
		if (found == GATHER_WHOLE || found == GATHER_CONFLICT)
			g->kind = 0;
	}
	unlock(lock);
	return found;
}

INLINE void forget(const struct piece *f)
{
	u32 set = gather_set(f);
	u32 *lock = LOOKUP(gather_locks, set);
	if (!lock || !locked(lock))
		return;
	struct gather *g = gather_of(f, set, false);
	if (g)
		g->kind = 0;
	unlock(lock);
}

INLINE int stage_fragment(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	if (!w)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	struct piece f = {.id = w->fragment_id, .ecn = 1u << (p->tos & 3)};
	if (skb->tc_index == FOR_STACK) { /* STAGE_CUT sent it round */
		skb->tc_index = 0;
		return to_stack(HOOK_TC);
	}
	if (p->six)
		piece6(skb, w, &f);
	else
		piece4(skb, w, &f);
	if ((!p->request && !p->reply) || !facts_of(root)->services[p->six])
		return to_stack(HOOK_TC);
	bool here = is_for_host(skb, &f);
	if (!here && !p->reply)
		return to_stack(HOOK_TC);
	if (!here && !p->six && (p->protocol == PROTO_AH || p->protocol == PROTO_ESP))
		return alone(skb, w);
	if (p->six && !f.offset && is_headless(skb, w, &f))
		return alone(skb, w);
	if (f.end > 0xffff)
		return dropped(HOOK_TC, REASON_FRAGMENT_REFUSED);
	if (p->six && f.more && f.end & 7) {
		forget(&f);
		return alone(skb, w);
	}
	if (f.end > GATHER_PAYLOAD)
		return dropped(HOOK_TC, REASON_FRAGMENT_TOO_LONG);
	w->pieces.passing = !here;
	switch (gather(skb, w, &f)) {
	case GATHER_HELD:
		return dropped(HOOK_TC, REASON_FRAGMENT_HELD);
	case GATHER_REPEATED:
		return dropped(HOOK_TC, REASON_FRAGMENT_REPEATED);
	case GATHER_CONFLICT:
		return dropped(HOOK_TC, REASON_FRAGMENT_CONFLICT);
	case GATHER_REFUSED:
		return dropped(HOOK_TC, REASON_FRAGMENT_REFUSED);
	case GATHER_WHOLE:
		break;
	}
	p->odd = ODDITY_GATHERED;
	return go_on(skb, HOOK_TC, STAGE_ODD);
}
