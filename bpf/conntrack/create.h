/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Create a connection, and for NAT over IPv6 its reverse entry, which finds it by the real server's packets
 * (IPVS-SEMANTICS 4).
 */
#pragma once
#include "conntrack/half_open.h"
#include "conntrack/lookup.h"
#include "conntrack/reverse6.h"
#include "conntrack/slots.h"
#include "conntrack/update.h"
#include "ctx/scratch.h"

enum { INNER_LIFE_S = 3 }; /* lifetime of a connection created by an ICMP error about it (8.4) */

/* A connection or a template to insert. */
struct new_conn {
	const union tuple *tuple;
	struct destination *destination; /* NULL: bypass */
	struct connection conn;
	u32 state;
	u32 expiry; /* tick */
	u32 slot; /* result */
	bool is_ipv6;
	bool has_control;
	struct control control; /* of templates, and of connections under one */
	enum slot_user user;
};

/* Add the reverse entry of IPv6. The newest connection receives a real server's packets, as in IPVS (4.1). Return false
 * if the table is full. */
INLINE bool add_reverse6(const struct new_conn *new, u32 slot)
{
	struct tuple6 key;
	reply_key6(&key, &new->tuple->v6, &new->destination->address, new->conn.port);
	struct reply6 value = {.slot = slot,
			       .destination = new->conn.destination,
			       .address = new->tuple->v6.daddr,
			       .port = new->tuple->v6.dport,
			       .controlled = new->conn.flags & CONN_CONTROLLED};
	return !bpf_map_update_elem(&replies6, &key, &value, BPF_ANY);
}

/* Remove it again. Two CPUs may have chosen the same server: then the loser has overwritten the winner's entry, and
 * restores it. */
INLINE void undo_reverse6(const struct new_conn *new, u32 slot)
{
	struct found winner = find_tuple(new->tuple, true);
	struct connection *c = winner.connection;
	if (c && c->method == METHOD_MASQ && c->destination == new->conn.destination && c->port == new->conn.port)
		add_reverse6(new, winner.slot);
	else
		remove_reverse6(&new->tuple->v6, new->destination, slot, new->conn.port);
}

/* Insert it in its state. If the tuple exists, or the table is full, nothing changes. */
INLINE enum create_result insert_conn(struct new_conn *new)
{
	bool is_ipv6 = new->is_ipv6, masq = new->destination && new->conn.method == METHOD_MASQ;
	struct found found = {.connection = &new->conn};
	enum create_result result = reserve(new->tuple, is_ipv6, &found, new->user);
	if (unlikely(result != CREATED))
		return result;
	u32 slot = found.slot;
	new->conn.word |= make_word(new->state, new->expiry, 0);
	struct control *control = new->has_control ? control_of(slot) : NULL;
	if (control) { /* not `controls`, which another CPU may be giving back (hold_template) */
		control->template = new->control.template;
		control->timeout = new->control.timeout;
		control->assured = new->control.assured;
	}
	count_conn(new->conn.destination, new->state);
	bool reverse6 = masq && is_ipv6;
	if (reverse6) {
		u64 *shared = word_of6(slot);
		if (shared)
			WRITE_ONCE(*shared, new->conn.word);
		reverse6 = add_reverse6(new, slot);
		if (unlikely(!reverse6)) {
			unreserve(is_ipv6, slot, new->user);
			result = refuse(REASON_REFUSED_IPV6_FULL);
		}
	}
	if (likely(result == CREATED))
		result = publish(new->tuple, is_ipv6, &found, new->user);
	if (likely(result == CREATED)) {
		if (masq && !is_ipv6) {
			struct key4 key =
				reply_key4(&new->tuple->v4, new->destination->address.word[0], new->conn.port);
			if (likely(!(new->conn.word & 1ULL << WORD_NO_REPLIES)))
				publish_reply(key.addresses, key.rest, slot);
			set_complete4(slot);
		}
		note_first_expiry(slot, new->expiry);
		new->slot = slot;
		return CREATED;
	}
	if (reverse6)
		undo_reverse6(new, slot);
	uncount_conn(new->conn.destination, word_state(new->conn.word));
	return result;
}

/* Insert a connection to the chosen destination, in the state that its first packet causes. */
INLINE enum create_result create_conn(struct scratch *w, struct destination *d, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_of(root);
	bool masq = d && w->method == METHOD_MASQ, controlled = w->template != NO_TEMPLATE;
	u32 state = STATE_UDP;
	if (p->protocol != IPPROTO_UDP)
		state = next_state(direction_in(&root->settings, masq || !d ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY),
				   p->event, STATE_NONE);
	state = first_state(state);
	u32 life = p->by_inner ? INNER_LIFE_S * ticks_per_second : facts->timeouts[state & (STATES - 1)];
	struct new_conn new = {
		.tuple = &p->tuple,
		.destination = d,
		.conn = {.destination = w->destination,
			 .port = w->port,
			 .method = w->method,
			 .flags = controlled ? CONN_CONTROLLED : 0},
		.state = state,
		.expiry = now + life,
		.has_control = controlled,
		.control = {.template = w->template},
		.is_ipv6 = p->is_ipv6,
		.user = BY_PACKET,
	};
	enum create_result result = insert_conn(&new);
	if (unlikely(result != CREATED))
		return result;
	if (likely(is_half_open_state(state)))
		note_half_open(new.slot, new.conn.word >> WORD_GENERATION, w->service);
	if (controlled && w->opens && (state == STATE_TCP_FIRST || state == STATE_SCTP_FIRST))
		assure(new.slot, ASSURED); /* sloppy_tcp, sloppy_sctp */
	return CREATED;
}
