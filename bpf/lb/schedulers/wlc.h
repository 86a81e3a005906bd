/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * wlc, weighted least connections (IPVS-SEMANTICS 3.1, 3.5): the least load per weight, compared crosswise in signed 64
 * bits. On a tie the earlier destination wins.
 */
#pragma once
#include "lb/schedule.h"

static int wlc_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	s32 load = overhead(it.counts);
	if (c->w->best == NO_INDEX || (s64)(s32)c->w->best_load * it.member->weight > (s64)load * c->w->best_weight) {
		c->w->best = index;
		c->w->best_load = load;
		c->w->best_weight = it.member->weight;
	}
	return 0;
}

static u32 schedule_wlc(struct candidates *c)
{
	c->w->best = NO_INDEX;
	bpf_loop(c->count, wlc_step, c, 0);
	return c->w->best;
}

SCHEDULER(wlc)
