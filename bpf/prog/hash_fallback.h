/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_HASH_FALLBACK: the scheduler of a service in fallback time (lb/fallback.h). It gives each packet of a flow the
 * same destination, so that flows need no connection. It also schedules flows that get one: their earlier packets had
 * none.
 *
 * A keyed hash puts flows into groups. Weighted rendezvous hashing: each destination gets a score by a hash of the
 * group and its address, and the best one wins. A change of a destination or of its weight moves only groups to it or
 * away from it. A list longer than HASH_WINDOW is not walked to its end. The group's hash chooses HASH_WINDOW
 * successive ones, counted from the end of the list, because IPVS adds at its head. There a change moves one group in
 * HASH_WINDOW / 2 at most. The winner is remembered until the service changes, so that the packets of a flood need no
 * scores.
 *
 * Reads service, and of a persistent one template. Leaves chosen for PROG_CONNECT.
 */
#pragma once
#include "lb/fallback.h"

enum { HASH_WINDOW = 64 };

struct rendezvous {
	struct scratch *w; /* `best_load` and `best_weight` hold the best member's hash and weight */
	u64 group; /* hash */
	u32 first; /* of the window, from the end of the list */
	u32 pos; /* of the best member */
};

/* Return a hash of 64 bits by which other bits change than in `x`. */
INLINE u64 mix(u64 x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdULL;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

/* Return a number that few destinations of a service share: the factors spread the differences between their addresses
 * and ports. mix() makes a hash of it. */
INLINE u64 server_number(const struct destination *d)
{
	const be32 *word = d->address.word;
	return (word[0] | (u64)word[1] << 32) * 0x9e3779b97f4a7c15ULL +
	       (word[2] | (u64)word[3] << 32) * 0xd1342543de82ef95ULL + d->port * 0xbf58476d1ce4e5b9ULL;
}

/* Return -log2(x / 2^32) in units of 2^-24. With x = 2^n (1 + y), log2(1 + y) is y + y (1 - y) (0.4427 - 0.164 y),
 * wrong by 0.005 at most. */
VERIFIED_ONCE u32 minus_log2(u32 x)
{
	u32 zeros = 0;
	x |= 1;
#pragma unroll
	for (u32 bits = 16; bits; bits >>= 1) {
		if (!(x >> (32 - bits))) {
			x <<= bits;
			zeros += bits;
		}
	}
	u64 y = x << 1 >> 8, curve = y * ((1 << 24) - y) >> 24;
	return ((zeros + 1) << 24) - y - (curve * (7253 - (y * 2687 >> 24)) >> 14);
}

/* Whether a member's score is worse than the best one's. The score is an exponential variate, -log(hash), divided by
 * the weight, and the least one wins. Of equal weights the larger hash is better. */
INLINE bool is_worse(u32 hash, s32 weight, const struct scratch *w)
{
	if (likely(weight == w->loop.best_weight))
		return hash <= w->loop.best_load;
	return (u64)minus_log2(hash) * (u32)w->loop.best_weight >= (u64)minus_log2(w->loop.best_load) * (u32)weight;
}

static int rendezvous_step(u32 index, struct rendezvous *r)
{
	struct scratch *w = r->w;
	u32 from_end = r->first + index;
	if (from_end >= w->service.count)
		from_end -= w->service.count;
	u32 pos = w->service.count - 1 - from_end;
	struct member *m = map_elem(members, w->service.list + pos);
	struct destination *d = m ? map_elem(destinations, m->destination) : NULL;
	if (!d)
		return 1;
	if (m->weight <= 0)
		return 0;
	u32 hash = mix(r->group ^ server_number(d)) >> 32;
	if (w->chosen.destination != NO_INDEX && is_worse(hash, m->weight, w))
		return 0;
	w->loop.best_load = hash;
	w->loop.best_weight = m->weight;
	r->pos = pos;
	choose(w, m, d);
	return 0;
}

/* Use a destination that was chosen before. */
INLINE bool choose_again(struct scratch *w, u64 choice)
{
	u32 pos = chosen_pos(choice, w->service.slot, w->service.generation, w->service.count);
	struct member *m = pos != NO_INDEX ? map_elem(members, w->service.list + pos) : NULL;
	struct destination *d = m ? map_elem(destinations, m->destination) : NULL;
	if (!d)
		return false;
	choose(w, m, d);
	return true;
}

INLINE int prog_hash_fallback(struct ctx ctx, struct scratch *w, struct root *root)
{
	u32 group = group_of(&w->packet, &w->template.tuple, w->service.scheduler, w->service.flags, root);
	u64 *choice = choice_of(group, w->service.slot);
	w->chosen.destination = NO_INDEX;
	if (is_traced())
		trace_server(NO_INDEX, METHOD_ROUTE, 0, TRACE_HASH_FALLBACK);
	if (!choice || choose_again(w, READ_ONCE(*choice)))
		return tail_call(ctx, PROG_CONNECT);
	struct rendezvous r = {.w = w, .group = mix(group + 1)};
	u32 count = w->service.count;
	if (count > HASH_WINDOW) {
		r.first = (r.group >> 32) * count >> 32;
		count = HASH_WINDOW;
	}
	FORGET_BOUNDS(r, pos, pos);
	bpf_loop(count, rendezvous_step, &r, 0);
	if (w->chosen.destination != NO_INDEX && !is_dry() && !(r.pos >> CHOICE_SERVICE))
		WRITE_ONCE(*choice, first_choice(w->service.slot, w->service.generation) | r.pos);
	return tail_call(ctx, PROG_CONNECT);
}
