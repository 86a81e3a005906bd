/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * ovf, weighted overflow (IPVS-SEMANTICS 3.8): as fo, among destinations with at most as many active connections as
 * their weight.
 */
#pragma once
#include "lb/schedulers/fo.h"

static int ovf_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (is_usable(&it) && it.counts->active <= (u32)it.member->weight)
		take_heavier(c, index, &it);
	return 0;
}

static u32 schedule_ovf(struct candidates *c)
{
	return best_of(c, ovf_step);
}

SCHEDULER(ovf, 8, LOADS_ALL)
