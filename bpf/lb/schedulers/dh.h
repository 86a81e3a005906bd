/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * dh, destination hashing (IPVS-SEMANTICS 3.12): 256 buckets filled with the list, one each, cyclically; the packet's
 * target picks the bucket. Weights other than 0 do not matter; an unusable destination means none.
 */
#pragma once
#include "lb/schedule.h"

static u32 schedule_dh(struct candidates *c)
{
	const struct packet *p = &c->work->packet;
	struct address daddr = hashed_daddr(p);
	u32 pos = bucket_of(address_fold(&daddr, p->is_ipv6)) % c->count;
	struct candidate it;
	return at_pos(c, pos, &it) && usable(&it) ? pos : NO_INDEX;
}

SCHEDULER(dh, SCHED_DH)
