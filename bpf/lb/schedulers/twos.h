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

/* Find the destination that a number from 0 to the sum of the weights falls on; store its index. */
static int twos_draw_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	c->loop->best = index;
	if ((s32)c->loop->left <= it.member->weight)
		return 1;
	c->loop->left -= it.member->weight;
	return 0;
}

/* Go down one level, to the child that the number falls on. */
static int twos_branch_step(u32 level, struct sched_loop **loop)
{
	struct sched_loop *s = *loop;
	u64 leaf = leaf_of(s->list, 0, s->count, SCHED_TWOS), inner = inner_nodes(s->count);
	u32 parent = s->at;
	s->at = NOTHING;
#pragma nounroll
	for (u32 which = 1; which <= ARITY; which++) {
		u32 sum = child_at(leaf, inner << 32 | parent, which);
		if (!sum)
			continue;
		s->at = parent * ARITY + which;
		if (s->left <= sum)
			break;
		s->left -= sum;
	}
	return s->at >= inner;
}

/* The same by the tree. The order of its branches is another one than that of the list. */
VERIFIED_ONCE int twos_draw_branch(struct sched_loop *s)
{
	if (!s)
		return 0;
	s->at = 0;
	bpf_loop(LEVELS, twos_branch_step, &s, 0);
	s->best = s->at == NOTHING ? NO_INDEX : s->at - inner_nodes(s->count);
	return 0;
}

INLINE u32 twos_draw(struct candidates *c, bool has_tree)
{
	c->loop->left = bpf_get_prandom_u32() % (c->loop->sum + 1 ?: 1);
	if (!has_tree)
		return best_of(c, twos_draw_step);
	c->loop->list = c->service->list;
	c->loop->count = c->service->count;
	twos_draw_branch(c->loop);
	return c->loop->best;
}

static u32 schedule_twos(struct candidates *c)
{
	u64 root = root_of(c);
	c->loop->sum = (u32)root;
	if (!root)
		bpf_loop(c->service->count, twos_total_step, c, 0);
	u32 first = twos_draw(c, root), second = twos_draw(c, root);
	struct candidate one, other;
	if (first == NO_INDEX || second == NO_INDEX || !at_pos(c, first, &one) || !at_pos(c, second, &other))
		return second;
	/* 32 bits, as in the kernel */
	s32 here = (u32)other.member->weight * overhead(one.counts), there = (u32)one.member->weight * overhead(other.counts);
	return here > there ? second : first;
}

SCHEDULER(twos, 14, INDEXED)
