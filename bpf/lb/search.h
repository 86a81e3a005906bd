/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The next usable destination of a list with at least some weight, for rr and wrr. Few destinations are walked first,
 * because most are usable. Then the winner tree of a long list says which branches have one (lb/winners.h).
 */
#pragma once
#include "ctx/scratch.h"
#include "lb/winners.h"

enum { WALKED_FIRST = 4 };

INLINE bool will_do(const struct sched_loop *s, u32 pos)
{
	struct conn_counts *n;
	struct member *member = pos < s->count ? usable_member(s->list, pos, &n) : NULL;
	return member && member->weight >= s->min_weight;
}

static int search_walk_step(u32 index, struct sched_loop **loop)
{
	struct sched_loop *s = *loop;
	u32 pos = s->at + index;
	if (!will_do(s, pos))
		return 0;
	s->best = pos;
	return 1;
}

/* Go through a tree in the order of its branches: at a node whose winner will do down, at another one on. */
static int search_tree_step(u32 index, struct sched_loop **loop)
{
	struct sched_loop *s = *loop;
	u32 at = s->at, inner = inner_nodes(s->count), pos = at - inner;
	if (at < inner) {
		u64 *node = winner_at(s->list, at);
		pos = node ? (u32)READ_ONCE(*node) : NOTHING;
	}
	if (will_do(s, pos)) {
		s->at = at * ARITY + 1;
		if (at < inner)
			return 0;
		s->best = pos;
		return 1;
	}
#pragma nounroll
	for (u32 level = 0; level < LEVELS && at && at % ARITY == 0; level++)
		at = at / ARITY - 1; /* the parent of a last child */
	s->at = at + 1;
	return !at;
}

/* Search the branches from a list index on. An index before that one does not count. */
INLINE bool search_branches(struct sched_loop *s, u32 pos)
{
	s->at = inner_nodes(s->count) + pos;
	bpf_loop(2 * ARITY * LEVELS, search_tree_step, &s, 0);
	if (s->best < pos)
		s->best = NO_INDEX;
	return s->best != NO_INDEX;
}

/* Return the list index of the first leaf on the lowest level. This and the following ones are on the first branches. */
INLINE u32 first_lowest(u32 count)
{
	u32 inner = inner_nodes(count), first = 0;
#pragma nounroll
	for (u32 level = 0; level < LEVELS && first * ARITY + 1 < inner + count; level++)
		first = first * ARITY + 1;
	return first - inner;
}

/* Let `best` be the index of the first usable destination of `list` from one list index to another with at least
 * `min_weight`, or NO_INDEX. `indexed`: the scheduler has the flag INDEXED. Otherwise a tree may be that of an earlier
 * list in this place. */
VERIFIED_ONCE int search_list(struct sched_loop *s, u32 pos, u32 end, bool indexed)
{
	if (!s)
		return 0;
	s->best = NO_INDEX;
	if (pos >= end)
		return 0;
	bool has_tree = indexed && end - pos > WALKED_FIRST && root_winner(s->list, s->count);
	s->at = pos;
	bpf_loop(has_tree ? WALKED_FIRST : end - pos, search_walk_step, &s, 0);
	if (s->best != NO_INDEX || !has_tree)
		return 0;
	pos += WALKED_FIRST;
	u32 lowest = first_lowest(s->count);
	bool is_found = pos < lowest && search_branches(s, pos);
	if (!is_found)
		search_branches(s, pos < lowest ? lowest : pos);
	if (s->best >= end)
		s->best = NO_INDEX;
	return 0;
}
