/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * dh, destination hashing (IPVS-SEMANTICS 3.12). The list fills 256 buckets cyclically; the packet's daddr selects the
 * bucket. Weights above 0 do not matter. If the destination is unusable, there is none.
 */
#pragma once
#include "lb/schedule.h"

static u32 schedule_dh(struct candidates *c)
{
	const struct packet *p = &c->w->packet;
	struct address daddr = hashed_daddr(p);
	u32 pos = bucket_of(address_fold(&daddr, p->is_ipv6)) % c->service->count;
	struct candidate it;
	return at_pos(c, pos, &it) && is_usable(&it) ? pos : NO_INDEX;
}

SCHEDULER(dh, 9, HASHES_DADDR)
