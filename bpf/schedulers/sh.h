/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sh, source hashing (IPVS-SEMANTICS 3.13): 256 buckets; walking the list cyclically, each destination gets as many
 * in a row as its weight, at least one. The packet's source (and port, flag sh-port) picks the bucket. The buckets
 * are not stored: bucket b is the (b modulo all weights)th of the walk.
 */
#pragma once
#include "../schedule.h"

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

static int sh_sum_step(u32 index, struct sh_walk *walk)
{
	struct candidate it;
	if (!at_place(walk->c, index, &it))
		return 1;
	walk->c->work->sum += sh_share(it.member);
	return 0;
}

static int sh_find_step(u32 index, struct sh_walk *walk)
{
	struct candidate it;
	if (!at_place(walk->c, index, &it))
		return 1;
	struct work *w = walk->c->work;
	u32 share = sh_share(it.member);
	if (w->left >= share) {
		w->left -= share;
		return 0;
	}
	walk->found = usable(&it) ? index : NOBODY;
	return 1;
}

INLINE u32 sh_in_bucket(struct sh_walk *walk, u32 bucket)
{
	struct work *w = walk->c->work;
	w->left = w->sum ? bucket % w->sum : 0;
	walk->found = NOBODY;
	bpf_loop(walk->c->count, sh_find_step, walk, 0);
	return walk->found;
}

static int sh_fallback_step(u32 step, struct sh_walk *walk)
{
	return sh_in_bucket(walk, (2 * walk->index + step) % SH_BUCKETS) != NOBODY;
}

static u32 schedule_sh(struct candidates *c)
{
	u32 flags = c->work->service_flags;
	struct sh_walk walk = {.c = c, .found = NOBODY};
	walk.index = bucket_of(client_fold(c->work));
	c->work->sum = 0;
	bpf_loop(c->count, sh_sum_step, &walk, 0);
	if (sh_in_bucket(&walk, walk.index) == NOBODY && flags & SERVICE_FALLBACK)
		bpf_loop(SH_BUCKETS, sh_fallback_step, &walk, 0);
	return walk.found;
}

SCHEDULER(sh, SCHED_SH)
