/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_CONNECT: create a connection to the chosen destination, and forward its first packet (IPVS-SEMANTICS 2.5, 5.2).
 */
#pragma once
#include "conntrack/create.h"
#include "conntrack/persist.h"
#include "fwd/conn.h"
#include "lb/to_scheduler.h"

/* Forward without a connection; NAT cannot, and drops the packet. */
INLINE int table_full(struct ctx ctx, struct scratch *w)
{
	drop_old_ref(w);
	if (w->method == METHOD_MASQ || w->packet.by_inner)
		return drop(ctx.hook, REASON_TABLE_FULL_DROPPED);
	return tail_call(ctx, PROG_HASH_FALLBACK);
}

/* Forward the first packet, or translate the ICMP error that created the connection (8.4). */
INLINE int fwd_first(struct ctx ctx, struct scratch *w, struct real_server *t, const struct root *root, u32 now)
{
	struct counters *c = counters_at(t->index);
	if (likely(!w->packet.by_inner))
		return fwd_new(ctx, &w->packet, t, root, now, 1);
	if (c)
		c->connections += 1;
	w->port = t->port;
	return tail_call(ctx, PROG_ICMP_FORWARD);
}

INLINE int prog_connect(struct ctx ctx)
{
	struct scratch *w = scratch_of(ctx.hook);
	struct root *root = get_root();
	if (!w)
		return pass_to_stack(ctx.hook);
	struct packet *p = &w->packet;
	if (w->destination == NO_INDEX)
		return reject_no_destination(ctx, w);
	u32 now = ticks();
	if (w->service_flags & SERVICE_PERSISTENT && w->template == NO_TEMPLATE && !make_template(w, now))
		return table_full(ctx, w);
	struct real_server t = {.index = w->destination, .method = w->method};
	t.destination = map_elem(destinations, t.index);
	if (!t.destination)
		return pass_to_stack(ctx.hook);
	if (w->template != NO_TEMPLATE) {
		be16 dport = packet_dport(p);
		w->port = dport == w->service_port && t.destination->port ? t.destination->port : dport;
		hold_template(w, now);
	}
	t.port = w->port;
	if (w->service_flags & SERVICE_ONE_PACKET && p->protocol == IPPROTO_UDP) {
		unhold_template(w);
		count_one_packet(t.index);
		drop_old_ref(w);
		return fwd_first(ctx, w, &t, root, now);
	}
	enum create_result result = create_conn(w, t.destination, root, now);
	drop_old_ref(w);
	switch (result) {
	case CREATED:
		return fwd_first(ctx, w, &t, root, now);
	case CREATE_EXISTS: {
		unhold_template(w);
		struct found winner = find_connection(p);
		if (!winner.connection || p->by_inner)
			return drop(ctx.hook, REASON_DYING);
		return fwd_known(ctx, p, &winner, root, now);
	}
	case CREATE_FULL:
		unhold_template(w);
		break;
	}
	return table_full(ctx, w);
}
