/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sh, source hashing (IPVS-SEMANTICS 3.13): 256 buckets. The list fills them cyclically, each destination as many in a
 * row as its weight, at least one. A hash of the packet's saddr (and sport, with flag sh-port) selects the bucket.
 *
 * With sh-fallback the next bucket with a usable destination follows, from twice the bucket on.
 *
 * The buckets are not stored: a walk over the list finds the destination of a bucket. Only a list that fills fewer than
 * 256 buckets is walked again.
 */
#pragma once
#include "lb/schedule.h"

enum { SH_BUCKETS = 256 };

struct sh_walk {
	struct candidates *c;
	u32 found;
};

/* Return the number of buckets in a row; more than 256 make no difference. */
INLINE u32 sh_share(const struct member *member)
{
	u32 weight = member->weight;
	return !weight ? 1 : weight < SH_BUCKETS ? weight : SH_BUCKETS;
}

static int sh_step(u32 index, struct sh_walk *walk)
{
	struct member *member = map_elem(members, walk->c->list + index);
	if (!member)
		return 1;
	struct scratch *w = walk->c->w;
	u32 share = sh_share(member);
	if (w->left >= share) {
		w->left -= share;
		return 0;
	}
	walk->found = index;
	return 1;
}

/* Whether the bucket's destination is usable. walk->found is its list index, else NO_INDEX. */
INLINE bool sh_in_bucket(struct sh_walk *walk, u32 bucket)
{
	struct scratch *w = walk->c->w;
	walk->found = NO_INDEX;
	w->left = w->sum ? bucket % w->sum : bucket;
	bpf_loop(walk->c->count, sh_step, walk, 0);
	if (walk->found == NO_INDEX && !w->sum && w->left < bucket) { /* the list is shorter: w->sum is what it fills */
		w->sum = bucket - w->left;
		w->left = bucket % w->sum;
		bpf_loop(walk->c->count, sh_step, walk, 0);
	}
	struct candidate it;
	if (walk->found != NO_INDEX && !(at_pos(walk->c, walk->found, &it) && is_usable(&it)))
		walk->found = NO_INDEX;
	return walk->found != NO_INDEX;
}

/* A search for the first bucket with a usable destination, from `start` on, cyclically. */
struct sh_search {
	struct candidates *c;
	u32 start;
	u32 filled; /* buckets that the list fills once */
	u32 at; /* first bucket of the current destination */
	u32 nearest; /* distance of the best bucket so far from `start` */
	u32 found; /* list index of its destination, or NO_INDEX */
};

static int sh_count_step(u32 index, struct sh_search *search)
{
	struct member *member = map_elem(members, search->c->list + index);
	if (!member)
		return 1;
	search->filled += sh_share(member);
	return search->filled >= SH_BUCKETS;
}

/* Return how far from `start` on the first bucket of the current destination is. The list is repeated up to the last
 * bucket; behind that the first one follows. */
INLINE u32 sh_distance(const struct sh_search *search, u32 share)
{
	u32 in_list = search->start % search->filled, ahead = search->at - in_list;
	if (in_list >= search->at)
		ahead = in_list < search->at + share ? 0 : ahead + search->filled;
	return search->start + ahead < SH_BUCKETS ? ahead : SH_BUCKETS - search->start + search->at;
}

static int sh_fallback_step(u32 index, struct sh_search *search)
{
	struct candidate it;
	if (search->at >= SH_BUCKETS || !at_pos(search->c, index, &it))
		return 1;
	u32 share = sh_share(it.member);
	if (is_usable(&it)) {
		u32 distance = sh_distance(search, share);
		if (distance < search->nearest) {
			search->nearest = distance;
			search->found = index;
		}
	}
	search->at += share;
	return !search->nearest;
}

/* sh-fallback: two walks over at most SH_BUCKETS destinations, because each one has a bucket. */
INLINE u32 sh_fallback(struct candidates *c, u32 bucket)
{
	struct sh_search search = {.c = c, .start = 2 * bucket % SH_BUCKETS, .nearest = SH_BUCKETS, .found = NO_INDEX};
	FORGET_BOUNDS(search, filled, found);
	bpf_loop(c->count, sh_count_step, &search, 0);
	if (search.filled > SH_BUCKETS)
		search.filled = SH_BUCKETS;
	if (search.filled)
		bpf_loop(c->count, sh_fallback_step, &search, 0);
	return search.found;
}

static u32 schedule_sh(struct candidates *c)
{
	struct sh_walk walk = {.c = c, .found = NO_INDEX};
	u32 bucket = bucket_of(client_fold(c->w));
	c->w->sum = 0;
	if (!sh_in_bucket(&walk, bucket) && c->w->service_flags & SERVICE_FALLBACK)
		return sh_fallback(c, bucket);
	return walk.found;
}

SCHEDULER(sh)
