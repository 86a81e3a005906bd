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
	if (is_usable(&it))
		compare_load(c->loop, index, overhead(it.counts), it.member->weight, false);
	return 0;
}

static u32 schedule_wlc(struct candidates *c)
{
	return winner_of(c, wlc_step);
}

SCHEDULER(wlc, 4, INDEXED)
