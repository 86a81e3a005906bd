/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sed, shortest expected delay (IPVS-SEMANTICS 3.6): as wlc, with the active connections plus one as the load.
 */
#pragma once
#include "lb/schedule.h"

/* Remember this destination if it beats the best so far. */
INLINE void sed_weigh(struct candidates *c, u32 pos, const struct candidate *it)
{
	s32 load = it->counts->active + 1;
	if (c->w->best == NO_INDEX || (s64)(s32)c->w->best_load * it->member->weight > (s64)load * c->w->best_weight) {
		c->w->best = pos;
		c->w->best_load = load;
		c->w->best_weight = it->member->weight;
	}
}

static int sed_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (is_usable(&it))
		sed_weigh(c, index, &it);
	return 0;
}

static u32 schedule_sed(struct candidates *c)
{
	c->w->best = NO_INDEX;
	bpf_loop(c->count, sed_step, c, 0);
	return c->w->best;
}

SCHEDULER(sed)
