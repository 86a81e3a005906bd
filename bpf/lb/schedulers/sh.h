/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sh, source hashing (IPVS-SEMANTICS 3.13): 256 buckets; walking the list cyclically, each destination gets as many
 * in a row as its weight, at least one. The packet's source (and port, flag sh-port) picks the bucket. The buckets
 * are not stored: bucket b is the bth of the walk, which seldom goes on to the list's end; where it does, the list has
 * fewer than 256, and its start is walked again.
 */
#pragma once
#include "lb/schedule.h"

enum { SH_BUCKETS = 256 };

struct sh_walk {
	struct candidates *c;
	u32 index;
	u32 found;
};

/* A destination's buckets in a row; more than there are make no difference. */
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

/* Whether the bucket's destination is usable; walk->found is then its place, else NO_INDEX. */
INLINE bool sh_in_bucket(struct sh_walk *walk, u32 bucket)
{
	struct scratch *w = walk->c->work;
	walk->found = NO_INDEX;
	w->left = w->sum ? bucket % w->sum : bucket;
	bpf_loop(walk->c->count, sh_step, walk, 0);
	if (walk->found == NO_INDEX && !w->sum && w->left < bucket) { /* the list's end: what it has in all */
		w->sum = bucket - w->left;
		w->left = bucket % w->sum;
		bpf_loop(walk->c->count, sh_step, walk, 0);
	}
	struct candidate it;
	if (walk->found != NO_INDEX && !(at_pos(walk->c, walk->found, &it) && usable(&it)))
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
