/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Create a connection, and for NAT its reverse entry, which finds it by the real server's packets (IPVS-SEMANTICS 4).
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/lookup.h"
#include "ctx/scratch.h"

enum { INNER_LIFE_S = 3 }; /* lifetime of a connection created by an ICMP error about it (8.4) */

/* Add the reverse entry; return an index entry for IPv4, or NO_ENTRY. The newest connection receives a real server's
 * packets, as in IPVS (4.1): for IPv6 from now on, for IPv4 from publish_reverse on. */
INLINE u32 add_reverse(const struct packet *p, const struct destination *d, const struct scratch *w, u32 slot)
{
	if (!p->is_ipv6) {
		struct key4 key = reply_key4(&p->tuple.v4, d->address.word[0], w->port);
		return take_entry(key.addresses, key.rest, slot, SIDE_REPLY);
	}
	struct tuple6 key;
	reply_key6(&key, &p->tuple.v6, &d->address, w->port);
	struct reply6 value = {.slot = slot,
			       .destination = w->destination,
			       .address = p->tuple.v6.target,
			       .port = p->tuple.v6.target_port,
			       .controlled = w->template != NO_TEMPLATE};
	return bpf_map_update_elem(&replies6, &key, &value, BPF_ANY) ? NO_ENTRY : 0;
}

INLINE void publish_reverse(const struct packet *p, const struct destination *d, be16 port, u32 slot, u32 at)
{
	if (p->is_ipv6)
		return;
	struct key4 key = reply_key4(&p->tuple.v4, d->address.word[0], port);
	publish_reply(key.addresses, key.rest, slot, at);
}

/* Remove the reverse entry again. For IPv6, two CPUs may have chosen the same server: then the loser has overwritten
 * the winner's entry, and restores it. */
INLINE void undo_reverse(const struct packet *p, const struct destination *d, const struct scratch *w, u32 slot, u32 at)
{
	if (at == NO_ENTRY)
		return;
	if (!p->is_ipv6) {
		struct key4 key = reply_key4(&p->tuple.v4, d->address.word[0], w->port);
		release_entry(key.addresses, key.rest, slot, at);
		return;
	}
	struct found winner = find_connection(p);
	struct connection *c = winner.connection;
	if (c && c->method == METHOD_MASQ && c->destination == w->destination && c->port == w->port)
		add_reverse(p, d, w, winner.slot);
	else
		remove_reverse(&p->tuple, true, d, slot, w->port);
}

/* Insert a connection to the chosen destination, in the state that its first packet causes. */
INLINE enum create_result create_conn(struct scratch *w, struct destination *d, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_of(root);
	bool masq = d && w->method == METHOD_MASQ, controlled = w->template != NO_TEMPLATE;
	struct connection c = {
		.destination = w->destination, .port = w->port, .method = w->method, .controlled = controlled};
	struct found new = {.connection = &c};
	enum create_result result = reserve(&p->tuple, p->is_ipv6, &new);
	if (unlikely(result != CREATED))
		return result;
	u32 slot = new.slot, state = STATE_UDP, at = NO_ENTRY;
	if (p->protocol != IPPROTO_UDP)
		state = next_state(direction_in(&root->settings, masq || !d ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY),
				   p->event, STATE_NONE);
	u32 life = p->by_inner ? INNER_LIFE_S * ticks_per_second : facts->timeouts[state & (STATES - 1)];
	u32 expiry = now + life;
	c.word |= make_word(state, expiry, 0);
	struct control *control = controlled ? control_of(slot) : NULL;
	if (control)
		control->template = w->template;
	count_conn(d, state);
	if (masq) {
		u64 *shared = p->is_ipv6 ? word_of6(slot) : NULL;
		if (shared)
			WRITE_ONCE(*shared, c.word);
		at = add_reverse(p, d, w, slot);
		if (unlikely(at == NO_ENTRY)) {
			unreserve(p->is_ipv6, slot, false);
			result = CREATE_FULL;
		}
	}
	if (likely(result == CREATED))
		result = publish(&p->tuple, p->is_ipv6, &new);
	if (likely(result == CREATED)) {
		if (masq)
			publish_reverse(p, d, w->port, slot, at);
		set_expiry_tick(slot, expiry ?: 1); /* last: walks over slots skip those without a tick */
		if (controlled && is_established(state)) /* sloppy_tcp, sloppy_sctp */
			assure(slot);
		return CREATED;
	}
	if (masq)
		undo_reverse(p, d, w, slot, at);
	uncount_conn(d, word_state(c.word));
	return result;
}
