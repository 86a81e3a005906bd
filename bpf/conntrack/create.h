/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Make a connection, and for NAT the reverse entry that finds it by the real server's packets (IPVS-SEMANTICS 4).
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/lookup.h"
#include "ctx/scratch.h"
#include "lib/headers.h"

enum { QUOTED_LIFE_S = 3 }; /* of a connection that no packet of its own has made (8.4) */

/* Room for what finds the connection by its answers: of IPv4 an entry of the index, or NO_ENTRY. The newest connection
 * answers for a real server's packets, as in IPVS (4.1); of IPv6 from now on. */
INLINE u32 begin_reply(const struct packet *p, const struct destination *d, const struct work *w, u32 slot)
{
	if (!p->six) {
		struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], w->port);
		return take_entry(key.addresses, key.rest, slot, SIDE_ANSWER);
	}
	struct tuple6 key;
	reply_key6(&key, &p->tuple.v6, &d->address, w->port);
	struct reply6 value = {.slot = slot, .destination = w->chosen, .address = p->tuple.v6.target,
			       .port = p->tuple.v6.target_port, .controlled = w->template != NO_TEMPLATE};
	return bpf_map_update_elem(&replies6, &key, &value, BPF_ANY) ? NO_ENTRY : 0;
}

INLINE void finish_reply(const struct packet *p, const struct destination *d, be16 port, u32 slot, u32 at)
{
	if (p->six)
		return;
	struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], port);
	publish_answer(key.addresses, key.rest, slot, at);
}

/* No connection came of it. Of IPv6 both CPUs may have chosen the same server: its answers are then the winner's, whose
 * entry was overwritten. */
INLINE void undo_reply(const struct packet *p, const struct destination *d, const struct work *w, u32 slot, u32 at)
{
	if (at == NO_ENTRY)
		return;
	if (!p->six) {
		struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], w->port);
		untake(key.addresses, key.rest, slot, at);
		return;
	}
	struct found winner = find_connection(p);
	struct connection *c = winner.connection;
	if (c && c->method == METHOD_MASQ && c->destination == w->chosen && c->port == w->port)
		begin_reply(p, d, w, winner.slot);
	else
		remove_reply(&p->tuple, true, d, slot, w->port);
}

/* Put a new connection to the chosen destination into the table, in the state that its first packet makes. */
INLINE enum made make_connection(struct work *w, struct destination *d, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_of(root);
	bool masq = d && w->method == METHOD_MASQ, controlled = w->template != NO_TEMPLATE;
	struct connection c = {.destination = w->chosen, .port = w->port, .method = w->method, .controlled = controlled};
	struct found new = {.connection = &c};
	enum made made = reserve(&p->tuple, p->six, &new);
	if (unlikely(made != MADE))
		return made;
	u32 slot = new.slot, state = STATE_UDP, at = NO_ENTRY;
	if (p->protocol != PROTO_UDP)
		state = next_state(direction_in(&root->settings, masq || !d ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY),
				   p->event, STATE_NONE);
	u32 life = p->quoting ? QUOTED_LIFE_S * ticks_per_second : facts->timeouts[state & (STATES - 1)];
	u32 expiry = now + life;
	c.word |= make_word(state, expiry, 0);
	struct control *control = controlled ? control_of(slot) : NULL;
	if (control)
		*control = (struct control){.template = w->template};
	bind_count(d, state);
	if (masq) {
		u64 *shared = p->six ? word_of6(slot) : NULL;
		if (shared)
			WRITE_ONCE(*shared, c.word);
		at = begin_reply(p, d, w, slot);
		if (unlikely(at == NO_ENTRY)) {
			give_up(p->six, slot, false);
			made = MADE_FULL;
		}
	}
	if (likely(made == MADE))
		made = publish(&p->tuple, p->six, &new);
	if (likely(made == MADE)) {
		if (masq)
			finish_reply(p, d, w->port, slot, at);
		look_at(slot, expiry ?: 1); /* last: who looks for connections by their slots begins there */
		if (controlled && is_established(state)) /* sloppy_tcp, sloppy_sctp */
			assure(slot);
		return MADE;
	}
	if (masq)
		undo_reply(p, d, w, slot, at);
	release_count(d, word_state(c.word));
	return made;
}
