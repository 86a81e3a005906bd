/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * dh, destination hashing (IPVS-SEMANTICS 3.12): 256 buckets filled with the list, one each, cyclically; the packet's
 * target picks the bucket. Weights other than 0 do not matter; an unusable destination means none.
 */
#pragma once
#include "lb/schedule.h"

static u32 schedule_dh(struct candidates *c)
{
	const struct packet *p = &c->work->packet;
	struct address target = hashed_target(p);
	u32 place = bucket_of(address_fold(&target, p->six)) % c->count;
	struct candidate it;
	return at_place(c, place, &it) && usable(&it) ? place : NOBODY;
}

SCHEDULER(dh, SCHED_DH)
