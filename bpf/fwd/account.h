/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Count packets and bytes of a destination, per CPU (IPVS-SEMANTICS 9.1).
 */
#pragma once
#include "abi/percpu.h"
#include "lb/destination.h"
#include "parse/packet.h"

INLINE void account_request(u32 destination, const struct packet *p, u32 connections)
{
	struct counters *c = counters_at(destination);
	if (!c)
		return;
	c->connections += connections;
	c->in_packets += 1;
	c->in_bytes += p->length;
}

INLINE void account_reply(u32 destination, const struct packet *p)
{
	struct counters *c = counters_at(destination);
	if (!c)
		return;
	c->out_packets += 1;
	c->out_bytes += p->length;
}

/* Return NULL for a deleted destination: it counts nothing, although its connections live on. */
INLINE struct counters *counters_of(u32 index, const struct root *root)
{
	struct destination *d = map_elem(destinations, index);
	if (!d || !(destination_flags(d, READ_ONCE(root->live)) & DESTINATION_AVAILABLE))
		return NULL;
	return counters_at(index);
}

INLINE void account_out(u32 index, u32 bytes, const struct root *root)
{
	struct counters *c = counters_of(index, root);
	if (c) {
		c->out_packets += 1;
		c->out_bytes += bytes;
	}
}
