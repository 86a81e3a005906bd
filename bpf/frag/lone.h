/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Lone fragments: those of packets of which one fragment has arrived. They wait in a store of their own until a second
 * one comes, so a flood of first fragments displaces no packet that has more. It also lasts longer, because a lone
 * fragment takes an eighth of a queue's memory. Longer ones start a queue at once.
 *
 * The lock of the queues' set protects the sets of lone fragments that begin with the same bits of the hash.
 */
#pragma once
#include "frag/queue.h"

enum {
	LONE_SETS = 512, /* a multiple of DEFRAG_SETS */
	LONE_WAYS = 16,
	LONE_PAYLOAD = 1536,
	LONE_CHUNK = 64, /* bytes that move at once */
};

struct lone_set {
	u32 tags[LONE_WAYS]; /* from the hash of the packet; 0: free */
	u32 created[LONE_WAYS]; /* ticks */
	u32 moment[LONE_WAYS]; /* the same in units of 1024 ns: many fragments come in one tick */
};

struct lone {
	struct fragment fragment;
	u32 named_at; /* as in struct frag_queue: next_at */
	u32 next;
	u32 received; /* length of the frame */
	u32 pad;
	u8 headers[DEFRAG_HEAD];
	u8 bytes[LONE_PAYLOAD];
};

ARRAY_MAP(lone_sets, struct lone_set, LONE_SETS, 0);
ARRAY_MAP(lones, struct lone, LONE_SETS *LONE_WAYS, 0);

/* Whether a fragment can wait alone. An atomic fragment of IPv6 (RFC 6946) is complete, and a large one has a queue. */
INLINE bool waits_alone(const struct fragment *f)
{
	return (f->offset || f->more) && f->end > f->offset && f->end - f->offset <= LONE_PAYLOAD;
}

/* Where a packet's lone fragment is, or would be. */
struct lone_slot {
	struct lone_set *set;
	struct lone *lone;
	u32 way;
	u32 moment; /* now */
	bool found;
};

enum { LONE_FOUND = LONE_WAYS }; /* a flag */

/* Return the way with this tag, with LONE_FOUND; else a free way, or the oldest. */
VERIFIED_ONCE u32 lone_way(const struct lone_set *set, u32 tag, u32 moment)
{
	u32 oldest = 0, age = 0;
	if (!set)
		return 0;
	for (u32 i = 0; i < LONE_WAYS; i++) {
		u32 since = set->tags[i] ? moment - set->moment[i] : NOTHING;
		if (set->tags[i] == tag)
			return i | LONE_FOUND;
		if (since >= age) {
			age = since;
			oldest = i;
		}
	}
	return oldest;
}

INLINE void free_lone(struct lone_slot *slot)
{
	slot->set->tags[slot->way & (LONE_WAYS - 1)] = 0;
}

/* Find the packet's lone fragment, or the slot for it. Return false if the maps lack it. */
INLINE bool find_lone(struct lone_slot *slot, const struct fragment *f, u64 hash, u32 now)
{
	u32 number = set_number(hash, LONE_SETS);
	slot->set = map_elem(lone_sets, number);
	slot->moment = moment_now();
	slot->way = lone_way(slot->set, tag_of(hash), slot->moment);
	slot->lone = map_elem(lones, number * LONE_WAYS + (slot->way & (LONE_WAYS - 1)));
	if (!slot->set || !slot->lone)
		return false;
	const struct fragment *other = &slot->lone->fragment;
	slot->found = slot->way & LONE_FOUND &&
		      is_same_packet(&other->saddr, &other->daddr, other->id, other->kind, f);
	if (slot->found && now - slot->set->created[slot->way & (LONE_WAYS - 1)] >= timeout_of(f->kind)) {
		count(REASON_FRAGMENT_TIMEOUT);
		free_lone(slot);
		slot->found = false;
	}
	return true;
}

/* Copy the fragment. Return whether all of it was there. */
VERIFIED_ONCE int copy_lone(struct __sk_buff *skb, struct lone *lone, const struct fragment *f)
{
	if (!lone || !f)
		return false;
	u32 size = barrier_var(f->end - f->offset), head = barrier_var(f->is_ipv6 ? f->head - 8 : f->head);
	if (!IS_LENGTH(size, LONE_PAYLOAD) || bpf_skb_load_bytes(skb, f->payload_at, lone->bytes, size))
		return false;
	memzero(lone->headers, 64);
	if (!f->offset && (!IS_LENGTH(head, DEFRAG_HEAD) || bpf_skb_load_bytes(skb, ETH_HLEN, lone->headers, head)))
		return false;
	lone->fragment = *f;
	return true;
}

/* Keep the fragment in the slot. */
INLINE enum defrag_result keep_lone(struct __sk_buff *skb, struct lone_slot *slot, const struct fragment *f, u64 hash,
				    u32 now)
{
	u32 way = slot->way & (LONE_WAYS - 1), *tag = &slot->set->tags[way], *created = &slot->set->created[way];
	if (*tag)
		count(now - *created < timeout_of(slot->lone->fragment.kind) ? REASON_FRAGMENT_DISPLACED
									  : REASON_FRAGMENT_TIMEOUT);
	*tag = copy_lone(skb, slot->lone, f) ? tag_of(hash) : 0;
	*created = now;
	slot->set->moment[way] = slot->moment;
	return *tag ? DEFRAG_HELD : DEFRAG_CONFLICT;
}

struct move_ctx {
	struct lone *lone;
	struct frag_queue *g;
	u32 from;
	u32 to;
	u32 left;
};

static int move_step(u32 index, struct move_ctx *m)
{
	u32 from = barrier_var(m->from), to = barrier_var(m->to);
	if (from > LONE_PAYLOAD - LONE_CHUNK || to > DEFRAG_PAYLOAD)
		return 1;
	__builtin_memcpy(&m->g->bytes[to], &m->lone->bytes[from], LONE_CHUNK);
	m->from += LONE_CHUNK;
	m->to += LONE_CHUNK;
	return m->from >= m->left;
}

/* Move a lone fragment into the new queue of its packet. */
VERIFIED_ONCE int move_lone(struct lone *lone, struct frag_queue *g)
{
	if (!lone || !g)
		return 0;
	const struct fragment *f = &lone->fragment;
	note_end(g, f);
	mark_covered(g, f);
	struct move_ctx m = {.lone = lone, .g = g, .to = f->offset, .left = f->end - f->offset};
	FORGET_BOUNDS(m, from, left);
	bpf_loop(LONE_PAYLOAD / LONE_CHUNK, move_step, &m, 0);
	if (!f->offset) {
#pragma unroll
		for (u32 i = 0; i < DEFRAG_HEAD; i += 8)
			WORD_AT(u64, g->headers, i) = WORD_AT(const u64, lone->headers, i);
		note_headers(g, f, lone->named_at, lone->next, lone->received);
	}
	note_fragment(g, f);
	return 0;
}
