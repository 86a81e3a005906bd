/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A destination has been chosen: make the connection and send its first packet (IPVS-SEMANTICS 2.5, 5.2).
 */
#pragma once
#include "conntrack/create.h"
#include "conntrack/persist.h"
#include "fwd/conn.h"
#include "lb/to_scheduler.h"

/* No room for another connection: without state, or for NAT not at all. */
INLINE int full(void *ctx, struct work *w, enum hook hook)
{
	leave(w);
	if (w->method == METHOD_MASQ || w->packet.quoting)
		return dropped(hook, REASON_TABLE_FULL_DROPPED);
	return go_on(ctx, hook, STAGE_STATELESS);
}

/* Send the first packet; for an ICMP error, made to fit the connection (8.4). */
INLINE int carry_first(void *ctx, struct work *w, struct target *t, const struct root *root, u32 now,
		       enum hook hook)
{
	struct counters *c = counters_at(t->index);
	if (likely(!w->packet.quoting))
		return carry_new(ctx, &w->packet, t, root, now, 1, hook);
	if (c)
		c->connections += 1;
	w->port = t->port;
	return go_on(ctx, hook, STAGE_ERROR_CARRY);
}

INLINE int stage_connect(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	if (!w)
		return to_stack(hook);
	struct packet *p = &w->packet;
	if (w->chosen == NOBODY)
		return refuse(ctx, w, hook);
	u32 now = ticks();
	if (w->service_flags & SERVICE_PERSISTENT && w->template == NO_TEMPLATE && !make_template(w, now))
		return full(ctx, w, hook);
	struct target t = {.index = w->chosen, .method = w->method};
	t.destination = LOOKUP(destinations, t.index);
	if (!t.destination)
		return to_stack(hook);
	if (w->template != NO_TEMPLATE) {
		be16 asked = asked_port(p);
		w->port = asked == w->service_port && t.destination->port ? t.destination->port : asked;
		hold_template(w, now);
	}
	t.port = w->port;
	if (w->service_flags & SERVICE_ONE_PACKET && p->protocol == PROTO_UDP) {
		let_template_go(w);
		note_passing(t.destination);
		leave(w);
		return carry_first(ctx, w, &t, root, now, hook);
	}
	enum made made = make_connection(w, t.destination, root, now);
	leave(w);
	switch (made) {
	case MADE:
		return carry_first(ctx, w, &t, root, now, hook);
	case MADE_EXISTS: {
		let_template_go(w);
		struct found winner = find_connection(p);
		if (!winner.connection || p->quoting)
			return dropped(hook, REASON_DYING);
		return carry_known(ctx, p, &winner, root, now, hook);
	}
	case MADE_FULL:
		let_template_go(w);
		break;
	}
	return full(ctx, w, hook);
}
