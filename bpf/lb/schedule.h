/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What schedulers share. A scheduler is one file in lb/schedulers/ with one function
 *
 * 	static u32 schedule_NAME(struct candidates *c)
 *
 * which returns the list index of its choice, or NO_INDEX. SCHEDULER(name) defines its two programs. Lists
 * begin with the newest destination; on a tie the earlier one wins (IPVS-SEMANTICS 3.1).
 *
 * A scheduler's state is the service's cursor, which compare-exchange advances. The cursor contains the version of the
 * list. If that is one version behind, the scheduler adjusts the cursor to the last edit. Python adjusts it before the
 * next edit, so it is never two versions behind.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/entry.h"
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
	struct scratch *w;
	/* find_usable_step: */
	u32 pos; /* start of the walk */
	s32 min_weight; /* lighter destinations are skipped */
};

struct candidate {
	struct member *member;
	struct destination *destination;
	struct conn_counts *counts;
};

/* Load the destination at a list index. Return false beyond the end. */
INLINE bool at_pos(const struct candidates *c, u32 pos, struct candidate *found)
{
	found->member = map_elem(members, c->list + pos);
	if (!found->member)
		return false;
	found->destination = map_elem(destinations, found->member->destination);
	found->counts = map_elem(conn_counts, found->member->destination);
	return found->destination && found->counts;
}

INLINE bool is_usable(const struct candidate *it)
{
	return it->member->weight > 0 && !it->counts->overloaded;
}

/* IPVS's load: 256 * active + inactive connections, in 32 bits (3.1). */
INLINE u32 overhead(const struct conn_counts *n)
{
	return (n->active << 8) + n->inactive;
}

/* Find the first usable destination from c->pos on with at least c->min_weight; store its index in c->w->best. */
static int find_usable_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, c->pos + index, &it))
		return 1;
	if (!is_usable(&it) || it.member->weight < c->min_weight)
		return 0;
	c->w->best = c->pos + index;
	return 1;
}

INLINE u32 first_usable(struct candidates *c, u32 pos, u32 end, s32 min_weight)
{
	c->w->best = NO_INDEX;
	c->pos = pos;
	c->min_weight = min_weight;
	if (pos < end)
		bpf_loop(end - pos, find_usable_step, c, 0);
	return c->w->best;
}

/* IPVS's fold of an address to 32 bits (3.11). */
INLINE u32 address_fold(const struct address *a, bool is_ipv6)
{
	u32 folded = bpf_ntohl(a->word[0]);
	if (is_ipv6)
		folded ^= bpf_ntohl(a->word[1]) ^ bpf_ntohl(a->word[2]) ^ bpf_ntohl(a->word[3]);
	return folded;
}

/* Return the daddr that schedulers hash. For an ICMP error scheduled by its inner packet, a reply whose daddr is the
 * client, the tuple is already reversed (IPVS-SEMANTICS 8.4). */
INLINE struct address hashed_daddr(const struct packet *p)
{
	struct address daddr = {};
	if (p->is_ipv6)
		daddr = p->by_inner ? p->tuple.v6.saddr : p->tuple.v6.daddr;
	else
		daddr.word[0] = p->by_inner ? p->tuple.v4.saddr : p->tuple.v4.daddr;
	return daddr;
}

INLINE u32 bucket_of(u32 folded)
{
	return (folded * 0x61C88647u) >> 24;
}

/* Return what sh and mh hash: the client's address, plus its port if the service's flags ask for it. */
INLINE u32 client_fold(const struct scratch *w)
{
	const struct packet *p = &w->packet;
	struct address saddr = {};
	u32 port = 0;
	if (p->is_ipv6) {
		saddr = p->tuple.v6.saddr;
		port = bpf_ntohs(p->tuple.v6.sport);
	} else {
		saddr.word[0] = p->tuple.v4.saddr;
		port = bpf_ntohs(p->tuple.v4.sport);
	}
	return address_fold(&saddr, p->is_ipv6) + (w->service_flags & SERVICE_BY_PORT ? port : 0);
}

#define SCHEDULER(name) \
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
			.w = w, \
		}; \
		u32 pos = w->count ? schedule_##name(&c) : NO_INDEX; \
		struct member *m = pos != NO_INDEX ? map_elem(members, w->list + pos) : NULL; \
		struct destination *d = m ? map_elem(destinations, m->destination) : NULL; \
		w->destination = NO_INDEX; \
		if (d) \
			choose(w, m, d); \
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

/* Store the choice for PROG_CONNECT. */
INLINE void choose(struct scratch *w, const struct member *member, const struct destination *d)
{
	w->destination = member->destination;
	w->method = member->method;
	be16 dport = packet_dport(&w->packet);
	w->port = d->port ?: dport;
}
