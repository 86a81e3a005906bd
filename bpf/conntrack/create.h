/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Create a connection (IPVS-SEMANTICS 4).
 */
#pragma once
#include "conntrack/half_open.h"
#include "conntrack/insert.h"
#include "conntrack/log.h"
#include "conntrack/lookup.h"
#include "conntrack/reply_owner.h"
#include "conntrack/update.h"
#include "ctx/scratch.h"

enum { INNER_TIMEOUT_S = 3 }; /* lifetime of a connection created by an ICMP error about it (8.4) */

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
	bool nat; /* it may be in NAT's part of the table */
	struct control control; /* of templates, and of connections under one */
	const struct call *call; /* of the template of a SIP call; else NULL */
	const struct synced_sequence *sequence; /* of a connection with CONN_SEQUENCED; else NULL */
	enum slot_user user;
};

/* Return what insert_conn would: the slot is one that no connection has. */
INLINE enum create_result would_insert(struct new_conn *new)
{
	const struct pool *pool = map_elem(pools, 0);
	new->slot = 0;
	return pool && READ_ONCE(pool->used) < capacity_for(pool, new->nat) ? CREATED : refuse(REASON_REFUSED_TABLE_FULL);
}

/* Insert it in its state. If the tuple exists, or the table is full, nothing changes. */
INLINE enum create_result insert_conn(struct new_conn *new)
{
	if (is_dry())
		return would_insert(new);
	struct key key = {};
	struct found found = {.connection = &new->conn};
	set_key(&key, new->tuple, new->is_ipv6);
	enum create_result result = reserve(&key, &found, new->user, new->nat);
	if (unlikely(result != CREATED))
		return result;
	u32 slot = found.slot;
	new->conn.word |= make_word(new->state, new->expiry, 0);
	if (unlikely(new->call) && bpf_map_update_elem(&calls, &slot, new->call, BPF_ANY)) {
		unreserve(slot, new->user);
		return refuse(REASON_REFUSED_CALLS_FULL);
	}
	if (unlikely(new->sequence) && bpf_map_update_elem(&synced_sequences, &slot, new->sequence, BPF_ANY)) {
		unreserve(slot, new->user);
		return refuse(REASON_REFUSED_CALLS_FULL);
	}
	struct control *control = new->has_control ? control_of(slot) : NULL;
	if (control) { /* not `controls`, which another CPU may be giving back (ref_template) */
		control->template = new->control.template;
		control->timeout = new->control.timeout;
		control->assured = new->control.assured;
	}
	u32 is_judged = new->conn.word >> WORD_JUDGED & 1;
	count_conn(new->conn.destination, new->state);
	result = publish(&key, &found, new->user);
	if (likely(result == CREATED)) {
		if (new->destination && new->conn.method == METHOD_MASQ) {
			if (likely(!(new->conn.word & 1ULL << WORD_NO_REPLIES)))
				publish_reply(&key, &new->destination->address, new->conn.port, slot);
			mark_complete(slot);
		}
		if (unlikely(is_judged))
			count_begun(new->conn.destination); /* not before: this count only grows */
		note_expiry(slot, new->expiry);
		new->slot = slot;
		return CREATED;
	}
	uncount_conn(new->conn.destination, word_state(new->conn.word));
	return result;
}

/* Insert a connection to the chosen destination, in the state that its first packet causes. */
INLINE enum create_result create_conn(struct scratch *w, struct destination *d, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_of(root);
	bool masq = d && w->chosen.method == METHOD_MASQ, controlled = w->template.slot != NO_TEMPLATE;
	u32 state = STATE_UDP;
	if (p->protocol != IPPROTO_UDP)
		state = next_state(direction_in(&root->settings, masq || !d ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY),
				   p->event, STATE_NONE);
	state = first_state(state);
	u32 timeout = p->by_inner ? INNER_TIMEOUT_S * ticks_per_second : facts->timeouts[state & (STATES - 1)];
	struct new_conn new = {
		.tuple = &p->tuple,
		.destination = d,
		.conn = {.destination = w->chosen.destination,
			 .port = w->chosen.port,
			 .method = w->chosen.method,
			 .flags = controlled ? CONN_CONTROLLED : 0},
		.state = state,
		.expiry = now + timeout,
		.has_control = controlled,
		.control = {.template = w->template.slot},
		.is_ipv6 = p->is_ipv6,
		.nat = masq,
		.user = BY_PACKET,
	};
	u32 opens = state * (1 - p->by_inner);
	new.conn.word = (u64)(take_voucher(&p->tuple, p->is_ipv6, opens, now) & 1) << WORD_JUDGED;
	w->flow.opened_ns = is_logged(now) ? bpf_ktime_get_boot_ns() : 0;
	enum create_result result = insert_conn(&new);
	w->flow.slot = new.slot;
	if (unlikely(result != CREATED))
		return result;
	if (is_traced()) {
		trace_state(state, true);
		if (is_dry())
			return CREATED;
	}
	if (likely(is_evictable(new.conn.word)))
		note_half_open(new.slot, new.conn.word >> WORD_GENERATION, w->service.slot);
	if (unlikely(w->flow.opened_ns)) {
		u32 how = w->chosen.port | (u32)w->chosen.method << 16 | (u32)p->is_ipv6 << 24;
		log_opened(&p->tuple, w->chosen.destination, how, CONN_OPENED | state << 8, w->flow.opened_ns);
	}
	if (controlled && w->flow.opens && (state == STATE_TCP_FIRST || state == STATE_SCTP_FIRST))
		assure(new.slot, ASSURED); /* sloppy_tcp, sloppy_sctp */
	return CREATED;
}
