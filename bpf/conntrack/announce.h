/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Decide which connections are announced to other directors, and write their records (IPVS-SEMANTICS 10.4).
 */
#pragma once
#include "conntrack/lookup.h"
#include "conntrack/state.h"
#include "conntrack/sync.h"
#include "lb/destination.h"

enum {
	SYNC_RETRY_PARTS = 8, /* a retry waits for this part of the refresh period */
	MOST_REPEATS = 7, /* announcements of a template in one tick, behind the first one */
};

/* States of TCP and SCTP in which connections are announced. */
#define ANNOUNCED_STATES \
	(1u << STATE_ESTABLISHED | 1u << STATE_FIN_WAIT | 1u << STATE_CLOSE | 1u << STATE_CLOSE_WAIT | \
	 1u << STATE_TIME_WAIT | 1u << STATE_SCTP_ESTABLISHED | 1u << STATE_SCTP_SHUTDOWN_SENT | \
	 1u << STATE_SCTP_SHUTDOWN_RECEIVED | 1u << STATE_SCTP_SHUTDOWN_ACK_SENT | 1u << STATE_SCTP_CLOSED)

/* Return the state that IPVS has for one that no packet has confirmed. */
INLINE u32 confirmed_state(u32 state)
{
	switch (state) {
	case STATE_UDP_FIRST:
		return STATE_UDP;
	case STATE_TCP_FIRST:
		return STATE_ESTABLISHED;
	case STATE_SCTP_FIRST:
		return STATE_SCTP_ESTABLISHED;
	default:
		return state;
	}
}

INLINE struct sync_count *sync_count_of(u32 slot)
{
	void *counts = map_elem(sync_counts, 0);
	return counts ? bpf_map_lookup_elem(counts, &slot) : NULL;
}

/* Count a packet of the connection with this state word, and return their number. The slot may have had another one
 * before. */
INLINE u32 count_packet(struct sync_count *n, u64 word)
{
	u64 generation = word >> WORD_GENERATION;
	if (likely(READ_ONCE(n->packets) >> SENT_GENERATION == generation))
		return (u32)__sync_fetch_and_add(&n->packets, 1) + 1;
	WRITE_ONCE(n->packets, generation << SENT_GENERATION | 1);
	return 1;
}

/* Whether the number of packets alone decides, and the connection is not due: the case of nearly all packets. */
INLINE bool is_plainly_not_due(u64 word, u32 packets, const struct settings *s)
{
	u32 state = word >> WORD_STATE & 0xff, period = s->sync_period;
	return (state == STATE_ESTABLISHED || state == STATE_UDP) && period && !s->sync_refresh_period &&
	       packets % period != s->sync_threshold;
}

/* Return the timeout of a connection or template, in ticks. */
INLINE u32 sync_timeout(u32 slot, u32 state)
{
	const struct control *control = state == STATE_TEMPLATE ? control_of(slot) : NULL;
	return control ? READ_ONCE(control->timeout) : facts_of(get_root())->timeouts[state & (STATES - 1)];
}

/* Write a record. Inlined: the expiry timer's chain of calls is nearly the longest possible. */
INLINE int write_announcement(u32 slot, u32 timeout)
{
	struct slot_conn entry;
	void *ring = map_elem(sync_rings, 0);
	if (!ring || !conn_of_slot(slot, &entry))
		return 0;
	struct sync_event *event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
	if (!event) {
		u64 *lost = map_elem(reasons, REASON_SYNC_LOST);
		if (lost)
			*lost += 1;
		return 0;
	}
	const struct connection *c = entry.found.connection;
	const struct destination *d = map_elem(destinations, c->destination);
	u64 word = READ_ONCE(c->word);
	const struct control *control = word_state(word) == STATE_TEMPLATE ? control_of(slot) : NULL;
	*event = (struct sync_event){.slot = slot,
				     .timeout = timeout,
				     .port = c->port,
				     .family = entry.is_ipv6 ? 6 : 4,
				     .method = c->method,
				     .state = word_state(word),
				     .flags = c->flags,
				     .has_reply = word_has_reply(word)};
	event->tuple = entry.tuple;
	if (control) {
		event->assured = control->assured;
		if (d)
			event->method = method_in(destination_flags(d, READ_ONCE(get_root()->live)));
	}
	if (d) {
		event->server = d->address;
		event->server_family = d->family;
		event->mark = d->mark;
	}
	/* Once, because it costs microseconds. A reader that waits looks from time to time besides. */
	u64 beyond = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) - SYNC_WAKE_BYTES;
	bpf_ringbuf_submit(event, beyond <= sizeof(*event) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
}

enum due { NOT_DUE, DUE, DUE_ANYWAY /* because of its state */ };

/* Whether the connection is due by its packets, refresh period and retries: points 2 and 3. `sent` gets the retries. */
INLINE enum due due_by_count(const struct settings *s, u64 *sent, u64 before, u32 timeout, u32 packets, bool is_template,
			     u32 now)
{
	u64 refresh = (u64)s->sync_refresh_period * minute / 60;
	if (refresh && before >> SENT_ANY & 1) {
		u64 least = timeout / 2 > minute / 6 ? timeout / 2 : minute / 6;
		s32 later = (u32)*sent - (u32)before;
		u64 difference = later < 0 ? -later : later;
		if (difference < (refresh < least ? refresh : least)) {
			u64 retries = before >> SENT_RETRIES & 3;
			s32 since = now - ((u32)before - timeout);
			if (retries >= s->sync_retries || since < (s64)(refresh / SYNC_RETRY_PARTS))
				return NOT_DUE;
			*sent |= (retries + 1) << SENT_RETRIES;
		}
	}
	u32 period = s->sync_period;
	if (period)
		return is_template || packets % period == s->sync_threshold ? DUE : NOT_DUE;
	return refresh || packets == s->sync_threshold ? DUE : NOT_DUE;
}

/* Whether it is due by its state, which point 1 decides; DUE: the others decide. */
INLINE enum due due_by_state(const struct connection *c, u32 state, u64 before, const struct settings *s)
{
	if (state == STATE_TEMPLATE)
		return DUE;
	if (s->sync_persist_mode && c->flags & CONN_CONTROLLED)
		return NOT_DUE;
	if (state == STATE_UDP)
		return DUE;
	if (!(ANNOUNCED_STATES >> state & 1))
		return NOT_DUE;
	bool is_forced = state != (before >> SENT_STATE & (STATES - 1));
	return is_forced && !is_established(state) ? DUE_ANYWAY : DUE;
}

/* Announce a connection or template if it is due. Return whether it was. */
VERIFIED_ONCE u32 announce(u32 slot, u32 packets, u32 now)
{
	struct sync_count *n = sync_count_of(slot);
	const struct conn_entry4 *conn = conn_at(slot);
	const struct settings *s = &get_root()->settings;
	if (!n || !conn)
		return false;
	const struct connection *c = &conn->connection;
	u64 word = READ_ONCE(c->word), old = READ_ONCE(n->sent), generation = word >> WORD_GENERATION;
	u32 timeout = sync_timeout(slot, word_state(word)), state = confirmed_state(word_state(word));
	u64 before = old >> SENT_GENERATION == generation ? old : 0;
	if (word_dying(word) || kind_in(rest_in(conn)) == TUPLE_RETIRED)
		return false;
	enum due due = due_by_state(c, state, before, s);
	u64 sent = generation << SENT_GENERATION | 1ULL << SENT_ANY | (u64)state << SENT_STATE | (u32)(now + timeout);
	if (due == DUE)
		due = due_by_count(s, &sent, before, timeout, packets, state == STATE_TEMPLATE, now);
	if (due == NOT_DUE)
		return false;
	bool is_forced = state != STATE_TEMPLATE && state != STATE_UDP &&
			 state != (before >> SENT_STATE & (STATES - 1));
	if (state == STATE_TEMPLATE && (u32)before == (u32)sent) {
		/* Each packet under a template announces it (10.4). A reader needs not so many. */
		if ((before >> SENT_REPEATS & MOST_REPEATS) == MOST_REPEATS)
			return false;
		sent |= (before & (u64)MOST_REPEATS << SENT_REPEATS) + (1ULL << SENT_REPEATS);
	}
	if (__sync_val_compare_and_swap(&n->sent, old, sent) != old && !is_forced)
		return false;
	write_announcement(slot, timeout);
	return true;
}

VERIFIED_ONCE int note_synced(u32 slot, u32 cause, u32 now)
{
	const struct conn_entry4 *conn = slot ? conn_at(slot) : NULL;
	const struct settings *s = &get_root()->settings;
	struct sync_count *n = sync_count_of(slot);
	if (!conn || !n)
		return 0;
	u64 word = READ_ONCE(conn->connection.word);
	u32 packets = count_packet(n, word), is_controlled = conn->connection.flags & CONN_CONTROLLED;
	if (cause == SYNC_ICMP || (!is_controlled && likely(is_plainly_not_due(word, packets, s))))
		return 0;
	bool was_due = announce(slot, packets, now);
	if (!is_controlled || (!s->sync_version && !was_due))
		return 0;
	const struct control *control = control_of(slot);
	u32 template = control ? control->template : 0;
	conn = template ? conn_at(template) : NULL;
	n = sync_count_of(template);
	return conn && n ? announce(template, count_packet(n, READ_ONCE(conn->connection.word)), now) : 0;
}
