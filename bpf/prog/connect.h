/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_CONNECT: create a connection to the chosen destination, and forward its first packet (IPVS-SEMANTICS 2.5, 5.2).
 *
 * Reads service, flow, chosen and template. Leaves them for PROG_HASH_FALLBACK, PROG_END_HALF_OPEN and PROG_BYPASS,
 * chosen for PROG_FWD_SLOW and PROG_ICMP_FORWARD, chosen and xmit for PROG_ENCAP, and error for PROG_ICMP_SEND.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/template.h"
#include "fwd/conn.h"
#include "icmp/error.h"
#include "lb/fallback.h"
#include "lb/to_scheduler.h"
#include "policy/client_limits.h"

enum { COLLISIONS = 12, BACKOFF = 64 };

/* Another CPU makes the same connection, and may still withdraw it: wait for a random time, some 100 ns. */
INLINE void back_off(void)
{
#pragma nounroll
	for (u32 i = 0; i < BACKOFF && bpf_get_prandom_u32() & 15; i++)
		barrier();
}

/* Forward a packet without a connection to the chosen destination. */
INLINE int fwd_without_conn(struct ctx ctx, struct scratch *w, const struct root *root, u32 now, enum reason reason)
{
	struct real_server t = {.index = w->chosen.destination, .method = w->chosen.method, .port = w->chosen.port};
	t.destination = map_elem(destinations, t.index);
	if (!t.destination)
		return pass_to_stack(ctx.hook);
	if (ctx.hook == HOOK_XDP && unlikely(w->flow.client_rules))
		return pass_to_tc(); /* which would count once more what XDP cannot send */
	count(reason);
	count_client(w);
	return fwd_new(ctx, &w->packet, &t, root, now, 0, 0);
}

/* The table is full: forward without a connection; NAT cannot, and drops the packet. The destination is that of the
 * client's template, or is chosen by a hash, which gives the flow's next packets the same one. After other errors drop
 * the packet. The client's next one may get a connection, and forwarding by a hash would last for minutes. */
INLINE int not_created(struct ctx ctx, struct scratch *w, enum create_result result, u32 now, enum reason *stateless)
{
	drop_old_ref(w);
	bool by_template = w->template.slot != NO_TEMPLATE && !end_unused_template(w->template.slot);
	if (result == CREATE_FAILED)
		count(REASON_REFUSED_RACED);
	if (result != CREATE_FULL || w->chosen.method == METHOD_MASQ || w->packet.by_inner)
		return drop(ctx.hook, REASON_TABLE_FULL_DROPPED);
	begin_fallback_time(w->service.slot, now, FULL_S);
	if (by_template || w->flow.by_hash) {
		*stateless = REASON_TABLE_FULL_STATELESS;
		return 0;
	}
	w->flow.by_hash = true;
	w->template.slot = NO_TEMPLATE;
	return tail_call(ctx, PROG_HASH_FALLBACK);
}

/* Whether a packet behind the first one creates the connection that its flow could not get: not the last ones. */
INLINE bool continues(const struct packet *p)
{
	return p->event == EVENT_ACK || p->event == EVENT_DATA;
}

/* Forward the first packet, or translate the ICMP error that created the connection (8.4). */
INLINE int fwd_first(struct ctx ctx, struct scratch *w, struct real_server *t, const struct root *root, u32 now)
{
	struct counters *c = counters_at(t->index);
	if (likely(!w->packet.by_inner))
		return fwd_new(ctx, &w->packet, t, root, now, 1, w->flow.slot);
	if (c)
		c->connections += 1;
	w->chosen.port = t->port;
	return tail_call(ctx, PROG_ICMP_FORWARD);
}

/* A template of one-packet scheduling has no connection. As a new one it may give way to others like a half-open
 * connection; a second packet confirms it. */
VERIFIED_ONCE int note_lone_template(u32 slot, u32 is_new, u32 service)
{
	struct control *control = control_of(slot);
	struct conn_entry4 *conn = conn_at(slot);
	if (!control || !conn || is_dry())
		return 0;
	if (is_new)
		note_half_open(slot, READ_ONCE(conn->connection.word) >> WORD_GENERATION, service);
	else if (!control->assured)
		WRITE_ONCE(control->assured, CONFIRMED);
	return 0;
}

/* Whether the packet can be forwarded without a connection. */
INLINE bool can_be_stateless(const struct scratch *w)
{
	return w->template.slot == NO_TEMPLATE && w->chosen.method != METHOD_MASQ && !w->packet.by_inner;
}

/* Forward an ICMP error to the server that the scheduler's hash, or the client's template, has chosen. */
INLINE int fwd_inner(struct __sk_buff *skb, struct scratch *w)
{
	const struct destination *d = map_elem(destinations, w->chosen.destination);
	if (w->flow.by_hash && w->chosen.method == METHOD_MASQ)
		return forward_to_none(skb, w);
	be16 dport = packet_dport(&w->packet);
	if (d && w->template.slot != NO_TEMPLATE)
		w->chosen.port = dport == w->service.port && d->port ? d->port : dport;
	return tail_call(tc_ctx(skb), PROG_ICMP_FORWARD);
}

/* Create the connection, and return the packet's verdict. With a reason in `stateless`, forward it without one. */
INLINE int connect(struct ctx ctx, struct scratch *w, struct root *root, u32 now, enum reason *stateless)
{
	struct packet *p = &w->packet;
	if (ctx.hook == HOOK_TC && unlikely(p->by_inner == BY_INNER_HASH))
		return fwd_inner(ctx.skb, w);
	if (unlikely(!w->flow.opens))
		drop_old_ref(w); /* its packet replaces nothing */
	if (w->chosen.destination == NO_INDEX)
		return w->flow.opens ? reject_no_destination(ctx, w) : pass_for(ctx.hook, REASON_NO_FLOW);
	if (unlikely(!w->flow.opens) && w->chosen.method == METHOD_MASQ)
		return pass_for(ctx.hook, REASON_NO_FLOW);
	if (unlikely(!w->flow.opens) && !continues(p)) {
		*stateless = REASON_TABLE_FULL_STATELESS;
		return 0;
	}
	if (unlikely(is_flood_syn(p, w->service.slot, now)) && can_be_stateless(w) &&
	    !(w->service.flags & SERVICE_PERSISTENT)) {
		begin_fallback_time(w->service.slot, now, FLOODED_S);
		if (!w->flow.by_hash) {
			w->flow.by_hash = true;
			return tail_call(ctx, PROG_HASH_FALLBACK);
		}
		drop_old_ref(w);
		*stateless = REASON_FLOOD_STATELESS;
		return 0;
	}
	if (unlikely(must_end_half_open()) && !w->flow.half_open_ended)
		return tail_call(ctx, PROG_END_HALF_OPEN);
	if (w->flow.by_hash && can_be_stateless(w) && is_full()) { /* before a connection is prepared */
		drop_old_ref(w);
		count(REASON_REFUSED_TABLE_FULL);
		begin_fallback_time(w->service.slot, now, FULL_S);
		*stateless = REASON_TABLE_FULL_STATELESS;
		return 0;
	}
	enum create_result result = CREATED;
	bool needs_template = w->service.flags & SERVICE_PERSISTENT && w->template.slot == NO_TEMPLATE;
	if (p->protocol == IPPROTO_UDP && w->chosen.method == METHOD_MASQ &&
	    unlikely(leaves_last_entries(w->service.slot)))
		result = refuse(REASON_REFUSED_TABLE_FULL);
	else if (needs_template)
		result = make_template(w, root, now);
	if (unlikely(result != CREATED))
		return not_created(ctx, w, result, now, stateless);
	struct real_server t = {.index = w->chosen.destination, .method = w->chosen.method};
	t.destination = map_elem(destinations, t.index);
	if (!t.destination)
		return pass_to_stack(ctx.hook);
	if (w->template.slot != NO_TEMPLATE) {
		be16 dport = packet_dport(p);
		w->chosen.port = dport == w->service.port && t.destination->port ? t.destination->port : dport;
		if (unlikely(!ref_template(w, now)))
			w->template.slot = NO_TEMPLATE; /* it has just ended; its destination stays */
	}
	t.port = w->chosen.port;
	if (w->service.flags & SERVICE_ONE_PACKET && p->protocol == IPPROTO_UDP) {
		unref_template(w);
		count_one_packet(t.index);
		w->flow.slot = 0;
		if (w->template.slot != NO_TEMPLATE) {
			note_lone_template(w->template.slot, needs_template, w->service.slot);
			w->flow.slot = root->settings.sync_version ? w->template.slot : 0;
		}
	} else {
		result = create_conn(w, t.destination, root, now);
	}
	drop_old_ref(w);
	switch (result) {
	case CREATED:
		count_client(w);
		return fwd_first(ctx, w, &t, root, now);
	case CREATE_EXISTS: {
		unref_template(w);
		struct found winner = find_connection(p);
		bool stays = winner.connection && is_complete(winner.slot);
		if (unlikely(!stays) && !p->by_inner && w->flow.collisions++ < COLLISIONS) {
			back_off();
			return tail_call(ctx, PROG_CONNECT);
		}
		if (!winner.connection || p->by_inner)
			return drop(ctx.hook, REASON_EXPIRING);
		return fwd_known(ctx, p, &winner, root, now);
	}
	default:
		unref_template(w);
		return not_created(ctx, w, result, now, stateless);
	}
}

INLINE int prog_connect(struct ctx ctx, struct scratch *w, struct root *root)
{
	u32 now = ticks();
	enum reason stateless = REASON_NONE;
	int verdict = connect(ctx, w, root, now, &stateless);
	return stateless ? fwd_without_conn(ctx, w, root, now, stateless) : verdict;
}
