/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * nq, never queue (IPVS-SEMANTICS 3.7): the first usable destination without active connections, else as sed.
 */
#pragma once
#include "lb/schedule.h"

static int nq_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	if (!it.counts->active) {
		c->loop->best = index;
		return 1;
	}
	compare_load(c->loop, index, it.counts->active + 1, it.member->weight, false);
	return 0;
}

static u32 schedule_nq(struct candidates *c)
{
	return winner_of(c, nq_step);
}

SCHEDULER(nq, 6, INDEXED)
