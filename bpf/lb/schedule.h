/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What schedulers share. A scheduler is one file in lb/schedulers/ with one function
 *
 * 	static u32 schedule_NAME(struct candidates *c)
 *
 * which returns the list index of its choice, or NO_INDEX. SCHEDULER(name, number, flags), on a line of its own, defines
 * its two programs, its number in the ABI, and its flags of abi/config.h, 0 for none. All else knows it by that line.
 * Lists begin with the newest destination; on a tie the earlier one wins (IPVS-SEMANTICS 3.1).
 *
 * A scheduler's state is the service's cursor, which compare-exchange advances. The cursor contains the version of the
 * list. If that is one version behind, the scheduler adjusts the cursor to the last edit. Python adjusts it before the
 * next edit, so it is never two versions behind.
 *
 * Schedulers read service, and leave chosen for PROG_CONNECT.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/entry.h"
#include "ctx/program.h"
#include "lb/search.h"

struct candidates {
	const struct scheduled_service *service;
	u64 *cursor;
	struct sched_loop *loop;
	const struct scratch *w;
	u32 pos; /* what the steps of lb/lblc_cache.h look for */
};

struct candidate {
	struct member *member;
	struct destination *destination;
	struct conn_counts *counts;
};

/* Load the destination at a list index. Return false beyond the end. */
INLINE bool at_pos(const struct candidates *c, u32 pos, struct candidate *found)
{
	found->member = map_elem(members, c->service->list + pos);
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

/* Return the root of the list's tree: its version and its winner, or sum; 0 if the list has no tree. */
INLINE u64 root_of(const struct candidates *c)
{
	return root_winner(c->service->list, c->service->count);
}

/* Return the index of the first usable destination from one list index to another with at least this weight, or
 * NO_INDEX. */
INLINE u32 first_usable(const struct candidates *c, u32 pos, u32 end, s32 min_weight)
{
	c->loop->list = c->service->list;
	c->loop->count = c->service->count;
	c->loop->min_weight = min_weight;
	search_list(c->loop, pos, end, scheduler_has(c->service->scheduler, INDEXED));
	return c->loop->best;
}

/* Call a step of bpf_loop for each destination of the list. Return the list index that the steps leave in `best`. */
INLINE u32 best_of(struct candidates *c, void *step)
{
	c->loop->best = NO_INDEX;
	c->loop->best_weight = 0;
	bpf_loop(c->service->count, step, c, 0);
	return c->loop->best;
}

/* Return the best destination for a scheduler with the flag INDEXED: by the tree of a long list, else by these steps. */
INLINE u32 winner_of(struct candidates *c, void *step)
{
	u64 root = root_of(c);
	return root ? (u32)root : best_of(c, step);
}

/* Remember an index if its load per weight is the least so far, or the greatest: crosswise, in signed 64 bits. */
INLINE void compare_load(struct sched_loop *loop, u32 index, s32 load, s32 weight, bool greatest)
{
	s64 best = (s64)(s32)loop->best_load * weight, here = (s64)load * loop->best_weight;
	if (loop->best != NO_INDEX && (greatest ? best >= here : best <= here))
		return;
	loop->best = index;
	loop->best_load = load;
	loop->best_weight = weight;
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
	if (p->by_inner == BY_INNER_CONNECT)
		packet_saddr(&daddr, p);
	else
		packet_daddr(&daddr, p);
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
	packet_saddr(&saddr, p);
	be16 port = w->service.flags & SERVICE_BY_PORT ? packet_sport(p) : 0;
	return address_fold(&saddr, p->is_ipv6) + bpf_ntohs(port);
}

static int count_usable_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	c->loop->sum += is_usable(&it);
	return 0;
}

/* Return what the scheduler compares of a destination, before its weight; NOTHING if it compares none. */
INLINE u32 compared_load(u32 scheduler, const struct conn_counts *n)
{
	switch (scheduler) {
	case SCHED_LC:
	case SCHED_WLC:
	case SCHED_LBLC:
	case SCHED_LBLCR:
	case SCHED_TWOS:
		return overhead(n);
	case SCHED_SED:
	case SCHED_NQ:
		return n->active + 1;
	case SCHED_OVF:
		return n->active;
	default:
		return NOTHING;
	}
}

/* Note the choice of a scheduler, and of how many usable destinations. */
INLINE void trace_scheduled(struct candidates *c)
{
	const struct scratch *w = c->w;
	u32 destination = w->chosen.destination;
	struct conn_counts *n = map_elem(conn_counts, destination);
	trace_server(destination, w->chosen.method, w->chosen.port, TRACE_SCHEDULER);
	c->loop->sum = 0;
	bpf_loop(c->service->count, count_usable_step, c, 0);
	trace_load(n ? compared_load(c->service->scheduler, n) : NOTHING, c->loop->sum);
}

#define SCHEDULER(name, number, flags) \
	INLINE int prog_schedule_##name(struct ctx ctx, struct scratch *w, struct root *root) \
	{ \
		struct service_state *state = map_elem(service_states, w->service.slot); \
		if (!state) \
			return pass_to_stack(ctx.hook); \
		struct candidates c = { \
			.service = &w->service, .cursor = &state->cursor, .loop = &w->loop, .w = w}; \
		u32 pos = w->service.count ? schedule_##name(&c) : NO_INDEX; \
		struct member *m = pos != NO_INDEX ? map_elem(members, w->service.list + pos) : NULL; \
		struct destination *d = m ? map_elem(destinations, m->destination) : NULL; \
		w->chosen.destination = NO_INDEX; \
		if (d) \
			choose(w, m, d); \
		if (is_traced()) \
			trace_scheduled(&c); \
		return tail_call(ctx, PROG_CONNECT); \
	} \
	PROG_XDP_AND_TC(schedule_##name)

/* Store the choice for PROG_CONNECT. */
INLINE void choose(struct scratch *w, const struct member *member, const struct destination *d)
{
	w->chosen.destination = member->destination;
	w->chosen.method = member->method;
	be16 dport = packet_dport(&w->packet);
	w->chosen.port = d->port ?: dport;
}
