/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sh, source hashing (IPVS-SEMANTICS 3.13): 256 buckets. The list fills them cyclically, each destination as many in a
 * row as its weight, at least one. A hash of the packet's saddr (and sport, with flag sh-port) selects the bucket.
 *
 * With sh-fallback the next bucket with a usable destination follows, from twice the bucket on: SH_BUCKETS at most.
 *
 * An edit fills the table that is not in force (src/pylvs/dataplane/scheduler_tables.py).
 */
#pragma once
#include "lb/schedule.h"

struct sh_search {
	struct candidates *c;
	const struct sh_table *table;
	u32 start;
	u32 unusable; /* list index of the last destination that is not usable */
	u32 found; /* list index, or NO_INDEX */
};

/* Search a bucket. Consecutive ones often have the same destination. Return 1 if it is usable. */
static int sh_step(u32 step, struct sh_search *search)
{
	u32 pos = search->table->list_positions[(search->start + step) & (SH_BUCKETS - 1)];
	struct candidate it;
	if (pos == search->unusable)
		return 0;
	if (pos < search->c->service->count && at_pos(search->c, pos, &it) && is_usable(&it)) {
		search->found = pos;
		return 1;
	}
	search->unusable = pos;
	return 0;
}

static u32 schedule_sh(struct candidates *c)
{
	const struct scratch *w = c->w;
	struct sh_search search = {.c = c,
				   .table = map_elem(sh_tables, w->service.slot << 1 | w->service.table),
				   .start = bucket_of(client_fold(w)),
				   .unusable = NO_INDEX,
				   .found = NO_INDEX};
	if (!search.table || sh_step(0, &search) || !(w->service.flags & SERVICE_FALLBACK))
		return search.found;
	search.start *= 2;
	FORGET_BOUNDS(search, start, found);
	bpf_loop(SH_BUCKETS, sh_step, &search, 0);
	return search.found;
}

SCHEDULER(sh, 10, HASHES_CLIENT)
