/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * fo, weighted failover (IPVS-SEMANTICS 3.8): the greatest weight, the first in the list on ties.
 */
#pragma once
#include "lb/schedule.h"

INLINE void take_heavier(struct candidates *c, u32 pos, const struct candidate *it)
{
	if (it->member->weight > c->loop->best_weight) {
		c->loop->best = pos;
		c->loop->best_weight = it->member->weight;
	}
}

static int fo_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (is_usable(&it))
		take_heavier(c, index, &it);
	return 0;
}

static u32 schedule_fo(struct candidates *c)
{
	return winner_of(c, fo_step);
}

SCHEDULER(fo, 7, INDEXED)
