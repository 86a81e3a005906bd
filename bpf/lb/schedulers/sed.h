/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sed, shortest expected delay (IPVS-SEMANTICS 3.6): as wlc, with the active connections plus one as the load.
 */
#pragma once
#include "lb/schedule.h"

static int sed_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (is_usable(&it))
		compare_load(c->loop, index, it.counts->active + 1, it.member->weight, false);
	return 0;
}

static u32 schedule_sed(struct candidates *c)
{
	return winner_of(c, sed_step);
}

SCHEDULER(sed, 5, INDEXED)
