/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SYNs that get no connection, at XDP: the table is full, or a flood comes. The usual ones are forwarded here by one
 * program instead of four, so that a flood costs less. The general path treats all of them the same way. It decides
 * about the first one of a service in each tick, and whenever the choice for the client is not known.
 */
#pragma once
#include "fwd/conn.h"
#include "lb/fallback.h"
#include "lb/syn_service.h"
#include "policy/martian.h"

enum { NOT_STATELESS = -1 };

/* Return why a SYN to the service gets no connection, or REASON_NONE. */
INLINE enum reason why_stateless(const struct packet *p, u32 service, u32 now)
{
	if (is_flood_syn(p, service, now))
		return REASON_FLOOD_STATELESS;
	return is_full() && !must_end_half_open() ? REASON_TABLE_FULL_STATELESS : REASON_NONE;
}

/* Whether that is possible. */
INLINE bool may_be_stateless(u32 now)
{
	const struct half_open_queue *queue = map_elem(half_open_queues, 0);
	return unlikely(queue && is_flooded(queue, now)) || unlikely(is_full());
}

/* Return the index of the member that is remembered for the client's group, or NO_INDEX. */
INLINE u32 remembered(const struct packet *p, const struct service_match *of, const struct root *root)
{
	const struct service_version *v = of->version;
	const u64 *choice = choice_of(group_of(p, &p->tuple, v->scheduler, v->flags, root), of->slot);
	u32 pos = choice ? chosen_pos(READ_ONCE(*choice), of->slot, v->generation, v->count) : NO_INDEX;
	return pos != NO_INDEX ? v->list + pos : NO_INDEX;
}

/* Return why a SYN is to be forwarded without a connection, << 32, with the index of a member; 0: it is not. The caller
 * then searches its connection. So the line of the table and the choice arrive together. */
VERIFIED_ONCE u64 choose_stateless(const struct packet *p)
{
	const struct root *root = get_root();
	u32 now = ticks(), live = READ_ONCE(root->live);
	struct service_match match;
	if (!p || needs_general_path(p, root, live, now))
		return 0;
	u32 slot = service_of_flood(p, live);
	if (slot == NO_SERVICE || !load_service(&match, slot, live) || !is_valid_daddr(p))
		return 0;
	const struct service_state *state = map_elem(service_states, match.slot);
	if (!state || !in_fallback_time(state, now) || state->local_at != now || !state->is_local ||
	    match.version->flags & SERVICE_PERSISTENT)
		return 0;
	u32 member = remembered(p, &match, root);
	enum reason why = why_stateless(p, match.slot, now);
	if (member == NO_INDEX || why == REASON_NONE)
		return 0;
	begin_fallback_time(match.slot, now, why == REASON_TABLE_FULL_STATELESS ? FULL_S : FLOODED_S);
	return (u64)why << 32 | member;
}

/* Forward a SYN without a connection. Return a verdict, or NOT_STATELESS. */
VERIFIED_ONCE int fwd_stateless(struct xdp_md *xdp, const struct packet *p, u64 chosen)
{
	struct ctx ctx = xdp_ctx(xdp);
	const struct root *root = get_root();
	const struct member *m = map_elem(members, (u32)chosen);
	struct real_server t = {.destination = m ? map_elem(destinations, m->destination) : NULL};
	if (!p || !m || !t.destination || m->method == METHOD_MASQ || !is_valid_saddr(ctx, p))
		return NOT_STATELESS;
	be16 dport = packet_dport(p);
	t.index = m->destination;
	t.method = m->method;
	t.port = t.destination->port ?: dport;
	t.state = destination_flags(t.destination, READ_ONCE(root->live));
	if (t.state >> DESTINATION_TUNNEL) /* a tunnel other than IPIP; a function cannot tail-call */
		return NOT_STATELESS;
	struct percpu_destination *percpu = percpu_of(t.index);
	if (!percpu)
		return NOT_STATELESS;
	struct hop *hop = &barrier_var(percpu)->hop;
	if (ticks() - hop->stamp >= ticks_per_second || hop->verdict != HOP_READY || hop->is_foreign_vip)
		return NOT_STATELESS; /* the general path looks it up: the stack has no space for that here */
	if (is_traced())
		trace_server(t.index, t.method, t.port, TRACE_STATELESS);
	if (!xdp_can(xdp, p, &t, hop, false, ticks()))
		return pass_to_tc();
	enum reason why = chosen >> 32;
	if (why == REASON_TABLE_FULL_STATELESS)
		count(REASON_REFUSED_TABLE_FULL);
	count(why);
	account_request(ctx, t.index, p, 0);
	return send(ctx, p, &t, hop, &root->settings);
}
