/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What schedulers share. A scheduler is one file in schedulers/ with one function
 *
 *	static u32 schedule_NAME(struct candidates *c)
 *
 * that returns the place of its choice in the list, or NO_INDEX. SCHEDULER(name, number) makes its two programs.
 * Lists run newest destination first; ties are won by the earlier in the list (IPVS-SEMANTICS 3.1).
 *
 * State lives in the service's cursor, outside the switched tables, and is advanced by compare-exchange. A cursor
 * names the version of the list it points into; one that is a version behind follows the edit that was made. Python
 * brings it up to date before it makes another, so it is never two behind.
 */
#pragma once
#include "abi/config.h"
#include "ctx/scratch.h"

struct candidates {
	u32 list;
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd;
	u32 max_weight;
	u64 *cursor;
	struct scratch *work;
	/* of a walk */
	u32 pos; /* where it stands */
	s32 least_weight; /* of a destination to be taken */
};

struct candidate {
	struct member *member;
	struct destination *destination;
};

/* The destination at a place of the list; false beyond its end. */
INLINE bool at_pos(const struct candidates *c, u32 pos, struct candidate *found)
{
	found->member = map_elem(members, c->list + pos);
	if (!found->member)
		return false;
	found->destination = map_elem(destinations, found->member->destination);
	return found->destination;
}

INLINE bool usable(const struct candidate *it)
{
	return it->member->weight > 0 && !it->destination->overloaded;
}

/* IPVS's measure of load: 256 times the active connections plus the inactive, 32 bits (3.1). */
INLINE u32 overhead(const struct destination *d)
{
	return (d->active << 8) + d->inactive;
}

/* Walk on from c->place to the first usable destination of at least c->least_weight; work.best is its place. */
static int walk_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, c->pos + index, &it))
		return 1;
	if (!usable(&it) || it.member->weight < c->least_weight)
		return 0;
	c->work->best = c->pos + index;
	return 1;
}

INLINE u32 first_from(struct candidates *c, u32 pos, u32 end, s32 least_weight)
{
	c->work->best = NO_INDEX;
	c->pos = pos;
	c->least_weight = least_weight;
	if (pos < end)
		bpf_loop(end - pos, walk_step, c, 0);
	return c->work->best;
}

/* IPVS's hash of an address, 8 bits of it folded to 32 bits (3.11). */
INLINE u32 address_fold(const struct address *a, bool is_ipv6)
{
	u32 folded = bpf_ntohl(a->word[0]);
	if (is_ipv6)
		folded ^= bpf_ntohl(a->word[1]) ^ bpf_ntohl(a->word[2]) ^ bpf_ntohl(a->word[3]);
	return folded;
}

/* The target that schedulers hash. An ICMP error is scheduled by the reply that it quotes, whose target is the client;
 * the packet's tuple is turned by then (IPVS-SEMANTICS 8.4). */
INLINE struct address hashed_daddr(const struct packet *p)
{
	struct address daddr = {};
	if (p->is_ipv6)
		daddr = p->by_inner ? p->tuple.v6.source : p->tuple.v6.target;
	else
		daddr.word[0] = p->by_inner ? p->tuple.v4.source : p->tuple.v4.target;
	return daddr;
}

INLINE u32 bucket_of(u32 folded)
{
	return (folded * 0x61C88647u) >> 24;
}

/* What sh and mh hash of a client: its address, and its port where the service's flags say so. */
INLINE u32 client_fold(const struct scratch *w)
{
	const struct packet *p = &w->packet;
	struct address saddr = {};
	u32 port = 0;
	if (p->is_ipv6) {
		saddr = p->tuple.v6.source;
		port = bpf_ntohs(p->tuple.v6.source_port);
	} else {
		saddr.word[0] = p->tuple.v4.source;
		port = bpf_ntohs(p->tuple.v4.source_port);
	}
	return address_fold(&saddr, p->is_ipv6) + (w->service_flags & SERVICE_BY_PORT ? port : 0);
}

#define SCHEDULER(name, number) \
	INLINE int run_##name(struct ctx ctx) \
	{ \
		struct scratch *w = scratch_of(ctx.hook); \
		if (!w) \
			return pass_to_stack(ctx.hook); \
		struct service_state *state = map_elem(service_states, w->service); \
		if (!state) \
			return pass_to_stack(ctx.hook); \
		struct candidates c = { \
			.list = w->list, \
			.count = w->count, \
			.list_version = w->list_version, \
			.edit = w->edit, \
			.edit_position = w->edit_position, \
			.gcd = w->gcd, \
			.max_weight = w->max_weight, \
			.cursor = &state->cursor, \
			.work = w, \
		}; \
		u32 pos = w->count ? schedule_##name(&c) : NO_INDEX; \
		struct candidate it; \
		w->destination = NO_INDEX; \
		if (pos != NO_INDEX && at_pos(&c, pos, &it)) \
			choose(w, it.member, it.destination); \
		return tail_call(ctx, PROG_CONNECT); \
	} \
	SEC("xdp.frags") \
	int xdp_schedule_##name(struct xdp_md *ctx) \
	{ \
		return run_##name(xdp_ctx(ctx)); \
	} \
	SEC("tc") \
	int tc_schedule_##name(struct __sk_buff *ctx) \
	{ \
		return run_##name(tc_ctx(ctx)); \
	}

/* Note the choice for the stages that follow. */
INLINE void choose(struct scratch *w, const struct member *member, const struct destination *d)
{
	w->destination = member->destination;
	w->method = member->method;
	be16 asked = packet_dport(&w->packet);
	w->port = d->port ?: asked;
}
