/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * nq, never queue (IPVS-SEMANTICS 3.7): the first usable destination without active connections, else as sed.
 */
#pragma once
#include "lb/schedulers/sed.h"

static int nq_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_usable(&it))
		return 0;
	if (!it.counts->active) {
		c->w->best = index;
		return 1;
	}
	sed_weigh(c, index, &it);
	return 0;
}

static u32 schedule_nq(struct candidates *c)
{
	c->w->best = NO_INDEX;
	bpf_loop(c->count, nq_step, c, 0);
	return c->w->best;
}

SCHEDULER(nq)
