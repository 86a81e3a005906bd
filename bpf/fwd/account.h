/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Count packets and bytes of a destination, per CPU (IPVS-SEMANTICS 9.1); and packets by hook and ingress device. The
 * fast path counts for the destination alone. `general` has the packets of all other paths, so the difference is that
 * of the fast path. Its packets came by the device of the lane's entrance.
 */
#pragma once
#include "abi/conntrack.h"
#include "abi/percpu.h"
#include "ctx/ctx.h"
#include "lb/destination.h"
#include "parse/packet.h"

/* Add to the packets of a device that a hook has forwarded. */
INLINE void add_forwarded(u32 ifindex, enum hook hook, u64 packets)
{
	struct device_packets *device = map_elem(device_packets, ifindex % DEVICES);
	if (!device)
		return;
	if (unlikely(device->ifindex != ifindex))
		*device = (struct device_packets){.ifindex = ifindex};
	device->forwarded[hook] += packets;
}

/* Count the packets that the fast path has forwarded from the entrance's device, before that changes. */
INLINE void count_fast(struct lane *lane, enum side side)
{
	u64 all = side == SIDE_REPLY ? lane->counters.out_packets : lane->counters.in_packets;
	u64 fast = all - lane->general[side];
	if (fast)
		add_forwarded(lane->entrances[side].input, HOOK_XDP, fast);
	lane->general[side] = all;
}

enum { BY_REPLY = 1, AT_TC = 2 }; /* flags of a packet to count */

VERIFIED_ONCE int count_packet(u32 destination, u32 flags, u32 ifindex, u32 bytes, u32 connections)
{
	struct lane *lane = lane_of(destination);
	if (!lane)
		return 0;
	struct counters *c = &lane->counters;
	c->connections += connections;
	if (flags & BY_REPLY) {
		c->out_packets += 1;
		c->out_bytes += bytes;
		lane->general[SIDE_REPLY] += 1;
	} else {
		c->in_packets += 1;
		c->in_bytes += bytes;
		lane->general[SIDE_REQUEST] += 1;
	}
	add_forwarded(ifindex, flags & AT_TC ? HOOK_TC : HOOK_XDP, 1);
	return 0;
}

/* Count a packet that does not take the fast path. */
INLINE void account(struct ctx ctx, u32 destination, enum side side, u32 bytes, u32 connections)
{
	u32 flags = (side == SIDE_REPLY ? BY_REPLY : 0) | (ctx.hook == HOOK_TC ? AT_TC : 0);
	count_packet(destination, flags, ctx_ifindex(ctx), bytes, connections);
}

INLINE void account_request(struct ctx ctx, u32 destination, const struct packet *p, u32 connections)
{
	account(ctx, destination, SIDE_REQUEST, p->length, connections);
}

INLINE void account_reply(struct ctx ctx, u32 destination, const struct packet *p)
{
	account(ctx, destination, SIDE_REPLY, p->length, 0);
}

/* Likewise, except for a deleted destination: it counts nothing, although its connections live on. */
INLINE void account_available(struct ctx ctx, u32 index, enum side side, u32 bytes, const struct root *root)
{
	struct destination *d = map_elem(destinations, index);
	if (d && destination_flags(d, READ_ONCE(root->live)) & DESTINATION_AVAILABLE)
		account(ctx, index, side, bytes, 0);
}
