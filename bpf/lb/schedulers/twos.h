/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * twos, the power of two choices (IPVS-SEMANTICS 3.15): two random destinations by weight, and of them the one with the
 * lower load for its weight. The same one may be drawn twice.
 */
#pragma once
#include "lb/schedule.h"

static int twos_total_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (is_usable(&it))
		c->loop->sum += it.member->weight;
	return 0;
}

/* Find the destination that a number from 0 to the sum of the weights falls on; store its index, load and weight. */
static int twos_draw_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	c->loop->best = index;
	c->loop->best_load = overhead(it.counts);
	c->loop->best_weight = it.member->weight;
	if ((s32)c->loop->left <= it.member->weight)
		return 1;
	c->loop->left -= it.member->weight;
	return 0;
}

INLINE u32 twos_draw(struct candidates *c)
{
	c->loop->left = bpf_get_prandom_u32() % (c->loop->sum + 1 ?: 1);
	return best_of(c, twos_draw_step);
}

static u32 schedule_twos(struct candidates *c)
{
	c->loop->sum = 0;
	bpf_loop(c->service->count, twos_total_step, c, 0);
	u32 first = twos_draw(c);
	s32 load = c->loop->best_load, weight = c->loop->best_weight;
	u32 second = twos_draw(c);
	if (first == NO_INDEX || second == NO_INDEX)
		return second;
	/* 32 bits, as in the kernel */
	s32 here = (u32)c->loop->best_weight * (u32)load, there = (u32)weight * c->loop->best_load;
	return here > there ? second : first;
}

SCHEDULER(twos, 14, 0)
