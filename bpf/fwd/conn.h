/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Carrying a request to its destination: the last steps of every way through the path.
 *
 * XDP first makes sure that it can finish, then changes connection, counters and packet; otherwise the packet goes,
 * untouched, to the TC program behind. At TC the order is the kernel's: count, then send or answer with an error
 * (IPVS-SEMANTICS 2.3 step 8, 7.1).
 */
#pragma once
#include "conntrack/lookup.h"
#include "conntrack/update.h"
#include "fwd/account.h"
#include "fwd/ipip.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "policy/vrrp_role.h"

struct target {
	struct destination *destination;
	u32 index;
	u32 method;
	u32 state; /* the destination's, in force */
	be16 port;
};

INLINE bool easy(void *ctx, const struct packet *p, const struct target *t, const struct hop *hop, enum hook hook)
{
	u32 most = room(t->method, t->state, t->destination->family == 6, hop);
	return likely(hop->verdict == HOP_READY) && likely(p->ttl > 1) && !p->odd && p->whole &&
	       fit(segment_length(ctx, p, hook), most, 0, p, false) == FITS &&
	       !(t->method == METHOD_MASQ && p->no_sum) && !(t->method == METHOD_TUNNEL && tunnel_flags(t->state));
}

/* What XDP can send itself. */
INLINE bool xdp_can(void *ctx, const struct packet *p, const struct target *t, const struct hop *hop, bool asked)
{
	if (!easy(ctx, p, t, hop, HOOK_XDP) || !xdp_reaches(ctx, hop))
		return false;
	if (unlikely(asked) && (hop->stamp / ticks_per_second & 15) == 0)
		return false; /* now and then the kernel must see that the neighbour is used */
	return true;
}

/* A tunnel other than IP in IP: STAGE_WRAP puts its headers in front. */
INLINE int wrap(void *ctx, const struct packet *p, const struct target *t, const struct hop *hop, enum hook hook)
{
	struct work *w = work_of(hook);
	if (!w)
		return dropped(hook, REASON_MISSED_STAGE);
	w->packet = *p;
	w->hop = *hop;
	w->chosen = t->index;
	w->state = t->state;
	w->mtu = 0;
	w->resolve = 0;
	return go_on(ctx, hook, STAGE_WRAP);
}

/* Change the packet and send it. Everything has been checked and counted. */
INLINE int send(void *ctx, const struct packet *p, const struct target *t, const struct hop *hop,
		const struct settings *settings, enum hook hook)
{
	if (!trimmed(ctx, p, hook))
		return dropped(hook, REASON_SHORT);
	if (t->method == METHOD_TUNNEL) {
		if (!age(ctx, p, hook))
			return dropped(hook, REASON_SHORT);
		if (unlikely(t->state >> DESTINATION_TUNNEL))
			return wrap(ctx, p, t, hop, hook);
		if (hook == HOOK_XDP && bpf_xdp_adjust_head(ctx, -(int)outer_bytes(t->destination)))
			return dropped(hook, REASON_NO_HEADROOM);
		if (!encapsulate(ctx, p, t->destination, hop, settings->pmtu_disc, false, hook))
			return dropped(hook, REASON_NO_HEADROOM);
		return transmit(ctx, hop, t->destination->family == 6, hook);
	}
	if (!direct(ctx, p, hop, hook))
		return dropped(hook, REASON_SHORT);
	if (t->method == METHOD_MASQ && !nat(ctx, p, NAT_REQUEST, &t->destination->address, t->port, hook))
		return dropped(hook, REASON_SHORT);
	return transmit(ctx, hop, p->six, hook);
}

/* TC: hand a packet that needs more than `send` to STAGE_TROUBLE. It has been counted. */
INLINE int trouble(void *ctx, const struct packet *p, const struct target *t)
{
	struct work *w = work_of(HOOK_TC);
	if (!w)
		return dropped(HOOK_TC, REASON_MISSED_STAGE);
	w->packet = *p;
	w->chosen = t->index;
	w->method = t->method;
	w->state = t->state;
	w->port = t->port;
	w->replying = 0;
	return go_on(ctx, HOOK_TC, STAGE_TROUBLE);
}

/* A packet of a connection just made, or of none: count it and send it. */
INLINE int carry_new(void *ctx, const struct packet *p, struct target *t, const struct root *root, u32 now,
		     u32 connections, enum hook hook)
{
	bool asked;
	t->state = destination_flags(t->destination, READ_ONCE(root->live));
	struct hop *hop = destination_hop(ctx, hook, t->index, t->destination, now, &asked);
	if (!hop)
		return to_stack(hook);
	if (hook == HOOK_XDP) {
		if (!xdp_can(ctx, p, t, hop, asked)) {
			struct counters *c = counters_at(t->index);
			if (c)
				c->connections += connections; /* TC counts the packet */
			return to_tc();
		}
	}
	account_request(t->index, p, connections);
	if (hook == HOOK_TC && !easy(ctx, p, t, hop, hook))
		return trouble(ctx, p, t);
	return send(ctx, p, t, hop, &root->settings, hook);
}

VERIFIED_ONCE int write_entrance(struct xdp_md *ctx, const struct destination *d, u32 index, u32 side, u64 live)
{
	struct lane *lane = lane_of(index);
	struct device *device = LOOKUP(devices, ctx->ingress_ifindex & (DEVICES - 1));
	if (!lane || !device || !d)
		return 0;
	const struct facts *facts = facts_in(the_root(), live);
	struct entrance *entrance = &lane->entrances[side & 1];
	lane->life_tcp = facts->timeouts[STATE_ESTABLISHED];
	lane->life_udp = facts->timeouts[STATE_UDP];
	lane->real = d->address.word[0];
	entrance->stamp = ticks();
	entrance->input = device->ifindex;
	__builtin_memcpy(entrance->mac, device->mac, 6);
	entrance->live = live;
	return 0;
}

/* What follows on this side may take the fast path: the destination is available, and nothing about it asks for more. */
INLINE void note_entrance(struct xdp_md *ctx, const struct destination *d, u32 index, u32 state, enum side side, u64 live)
{
	if (d->family == 4 && state & DESTINATION_AVAILABLE)
		write_entrance(ctx, d, index, side, live);
}

/* Requests may; those of other tunnels than IP in IP may not. */
INLINE void note_quick(struct xdp_md *ctx, const struct hop *hop, const struct target *t, u64 live)
{
	struct lane *lane = lane_of(t->index);
	if (!lane || hop->verdict != HOP_READY || t->state >> DESTINATION_TUNNEL)
		return;
	lane->outer_source = fib_gives_source ? hop->source.word[0] : t->destination->source.word[0];
	note_entrance(ctx, t->destination, t->index, t->state, SIDE_REQUEST, live);
}

/* A packet of a connection that is not a candidate for being scheduled anew. */
INLINE int carry_known(void *ctx, const struct packet *p, const struct found *found, const struct root *root, u32 now,
		       enum hook hook)
{
	struct connection *c = found->connection;
	struct target t = {.index = c->destination, .method = c->method, .port = c->port};
	u64 live = READ_ONCE(root->live);
	u32 slot = found->slot;
	u64 *word = connection_word(found);
	t.destination = LOOKUP(destinations, t.index);
	if (!word || !t.destination) {
		if (c->method != METHOD_BYPASS)
			return to_stack(hook);
		return hook == HOOK_XDP ? to_tc() : go_on_with(ctx, p, hook, STAGE_BYPASS);
	}
	t.state = destination_flags(t.destination, live);
	if (unlikely(!(t.state & DESTINATION_AVAILABLE)))
		return go_on_with(ctx, p, hook, STAGE_NEW);
	bool asked, masq = t.method == METHOD_MASQ;
	struct hop *hop = destination_hop(ctx, hook, t.index, t.destination, now, &asked);
	if (!hop)
		return to_stack(hook);
	if (hook == HOOK_XDP) {
		if (!xdp_can(ctx, p, &t, hop, asked))
			return to_tc();
		note_quick(ctx, hop, &t, live);
	}
	u32 direction = direction_in(&root->settings, masq ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY);
	if (unlikely(!advance(word, slot, c->controlled, direction, p->event, t.destination, facts_in(root, live), now,
			      hook)))
		return dropped(hook, REASON_DYING);
	account_request(t.index, p, 0);
	if (hook == HOOK_TC && unlikely(!easy(ctx, p, &t, hop, hook)))
		return trouble(ctx, p, &t);
	return send(ctx, p, &t, hop, &root->settings, hook);
}

/* Whether it is to a virtual address for which another director is MASTER. */
INLINE bool target_stands_by(const struct packet *p, const struct root *root)
{
	struct address target = {};
	address_to(&target, p);
	return stands_by(root, &target, p->six);
}

INLINE int dispatch(void *ctx, struct packet *p, const struct root *root, enum hook hook)
{
	if (p->request) {
		if (unlikely(root->standby) && target_stands_by(p, root))
			return to_stack(hook);
		struct found found = find_connection(p);
		if (likely(found.connection) && likely(!p->syn))
			return carry_known(ctx, p, &found, root, ticks(), hook);
		p->unknown = !found.connection;
	}
	return go_on_with(ctx, p, hook, p->reply ? STAGE_REPLY : STAGE_NEW);
}
