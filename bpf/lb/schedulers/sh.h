/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sh, source hashing (IPVS-SEMANTICS 3.13): 256 buckets. The list fills them cyclically, each destination as many in a
 * row as its weight, at least one. A hash of the packet's saddr (and sport, with flag sh-port) selects the bucket.
 *
 * The buckets are not stored: a walk over the list finds the destination of a bucket. Only a list that fills fewer than
 * 256 buckets is walked again.
 */
#pragma once
#include "lb/schedule.h"

enum { SH_BUCKETS = 256 };

struct sh_walk {
	struct candidates *c;
	u32 index;
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
	struct scratch *w = walk->c->work;
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
	struct scratch *w = walk->c->work;
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

static int sh_fallback_step(u32 step, struct sh_walk *walk)
{
	return sh_in_bucket(walk, (2 * walk->index + step) % SH_BUCKETS);
}

static u32 schedule_sh(struct candidates *c)
{
	u32 flags = c->work->service_flags;
	struct sh_walk walk = {.c = c, .found = NO_INDEX};
	walk.index = bucket_of(client_fold(c->work));
	c->work->sum = 0;
	if (!sh_in_bucket(&walk, walk.index) && flags & SERVICE_FALLBACK)
		bpf_loop(SH_BUCKETS, sh_fallback_step, &walk, 0);
	return walk.found;
}

SCHEDULER(sh, SCHED_SH)
