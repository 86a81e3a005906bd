/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Count packets and bytes of a destination, per CPU (IPVS-SEMANTICS 9.1); and packets by hook and ingress device.
 *
 * Each CPU counts all packets, and those that XDP did not forward. Those of one hook and side came by one device, which
 * it names. Before a packet comes by another one, they are added to `device_packets`.
 */
#pragma once
#include "abi/conntrack.h"
#include "abi/percpu.h"
#include "ctx/ended.h"
#include "lb/destination.h"
#include "parse/packet.h"

/* Let this CPU's packets of this hook and side come by another device. The fast path does not know that one yet. */
VERIFIED_ONCE int change_input(u32 destination, u32 side, u32 hook, u32 ifindex)
{
	struct percpu_destination *percpu = percpu_of(destination);
	if (!percpu)
		return 0;
	side &= 1;
	u64 all = side == SIDE_REPLY ? percpu->counters.out_packets : percpu->counters.in_packets;
	u64 others = percpu->others[side];
	if (hook == HOOK_XDP) {
		struct fast_ingress *ingress = &percpu->ingress[side];
		add_forwarded(ingress->input, HOOK_XDP, all - others);
		percpu->others[side] = all;
		percpu->listed[side] += all - others;
		ingress->live = 0;
		ingress->input = ifindex;
	} else {
		add_forwarded(percpu->tc_inputs[side], HOOK_TC, others - percpu->listed[side]);
		percpu->listed[side] = others;
		percpu->tc_inputs[side] = ifindex;
	}
	return 0;
}

/* Count a packet that does not take the fast path. */
INLINE void account(struct ctx ctx, u32 destination, enum side side, const struct packet *p, u32 bytes, u32 connections)
{
	u32 ifindex = input_of(ctx, p);
	struct percpu_destination *percpu = percpu_of(destination);
	((struct packet *)p)->counted = 1;
	if (!percpu) /* a dry copy has one element, which is its own */
		return;
	percpu = barrier_var(percpu);
	if (unlikely((ctx.hook == HOOK_XDP ? percpu->ingress[side].input : percpu->tc_inputs[side]) != ifindex))
		change_input(destination, side, ctx.hook, ifindex);
	struct counters *c = &percpu->counters;
	c->connections += connections;
	if (side == SIDE_REPLY) {
		c->out_packets += 1;
		c->out_bytes += bytes;
	} else {
		c->in_packets += 1;
		c->in_bytes += bytes;
	}
	if (ctx.hook == HOOK_TC)
		percpu->others[side] += 1;
}

INLINE void account_request(struct ctx ctx, u32 destination, const struct packet *p, u32 connections)
{
	account(ctx, destination, SIDE_REQUEST, p, p->length, connections);
}

/* Likewise, except for a destination that was deleted from its service: it counts nothing, although its connections live
 * on. Its packets count by device alone. */
INLINE void account_available(struct ctx ctx, u32 index, enum side side, struct packet *p, const struct root *root)
{
	struct destination *d = map_elem(destinations, index);
	if (d && keeps_conns(destination_flags(d, READ_ONCE(root->live))))
		account(ctx, index, side, p, p->length, 0);
	else
		add_forwarded(p->input, ctx.hook, 1);
	p->counted = 1;
}
