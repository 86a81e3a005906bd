/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * lc, least connections (IPVS-SEMANTICS 3.4): the least load, compared unsigned. Weights above 0 do not matter.
 */
#pragma once
#include "lb/schedule.h"

static int lc_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	u32 load = overhead(it.counts);
	if (c->loop->best == NO_INDEX || load < c->loop->best_load) {
		c->loop->best = index;
		c->loop->best_load = load;
	}
	return 0;
}

static u32 schedule_lc(struct candidates *c)
{
	return winner_of(c, lc_step);
}

SCHEDULER(lc, 3, INDEXED)
