/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Copy connections to another director, and from one (src/pylvs/sync). Python moves records between both, and replaces
 * what differs between them: slots of destinations and templates, and ticks.
 *
 * A connection stores when it expires. That less the timeout of its state is when a packet last refreshed it. So one
 * comparison tells which of two directors knows a connection better, without any memory of former copies.
 */
#pragma once
#include "abi/transfer.h"
#include "conntrack/restore.h"
#include "lb/call_template.h"

enum { REQUEST_OFFSET = 16 }; /* of struct transfer_request: behind the Ethernet header */

/* Return when a connection was refreshed. Of templates, which live on while connections refer to them, the expiry is
 * compared instead. */
INLINE u32 refreshed_at(u32 state, u32 expiry)
{
	state &= STATES - 1;
	return state == STATE_TEMPLATE ? expiry : expiry - facts_of(get_root())->timeouts[state];
}

/* Whether the connection is about as this process last dumped it. The other director may let it expire earlier by
 * 1/TRANSFER_AGE of its timeout: so a busy connection is not dumped each time. */
INLINE bool is_as_dumped(u64 sent, u64 seen, u32 timeout)
{
	return !((sent ^ seen) >> WORD_STATE) && (u32)seen - (u32)sent <= timeout / TRANSFER_AGE;
}

enum { DUMP_KIND = 3, DUMP_ALL = 4 };

/* Fill the element of `transfer_calls` of this number with what the template in a slot stands for. */
INLINE bool dump_call(u32 slot, u32 number)
{
	struct call *to = map_elem(transfer_calls, number), *from = bpf_map_lookup_elem(&calls, &slot);
	if (!to || !from)
		return false;
	*to = *from;
	return true;
}

/* Return what a template or connection is. */
INLINE u32 kind_of_transfer(u32 state, u8 tuple_kind)
{
	if (tuple_kind == TUPLE_CALL)
		return TRANSFER_CALLS;
	return state == STATE_TEMPLATE ? TRANSFER_TEMPLATES : TRANSFER_CONNECTIONS;
}

/* Fill the record of this number with the connection of a slot. Return the number of records that it takes. */
VERIFIED_ONCE u32 dump_conn(u32 slot, u32 number, u32 which)
{
	struct slot_conn entry;
	struct conn_record *record = map_elem(transfer_records, number);
	if (!record || !conn_of_slot(slot, &entry))
		return 0;
	const struct connection *c = entry.found.connection;
	u64 seen = READ_ONCE(c->word);
	u32 state = word_state(seen);
	u8 kind = entry.is_ipv6 ? entry.tuple.v6.kind : entry.tuple.v4.kind;
	if (word_dying(seen) || kind == TUPLE_RETIRED || kind_of_transfer(state, kind) != (which & DUMP_KIND))
		return 0;
	const struct control *control = control_of(slot);
	u32 timeout = state == STATE_TEMPLATE ? (control ? control->timeout : 0)
					      : facts_of(get_root())->timeouts[state & (STATES - 1)];
	u64 *sent = map_elem(transfer_sent, slot);
	if (!sent || (!(which & DUMP_ALL) && is_as_dumped(*sent, seen, timeout)))
		return 0;
	if (kind == TUPLE_CALL && !dump_call(slot, number))
		return 0;
	*sent = seen;
	*record = (struct conn_record){.tuple = entry.tuple,
				       .destination = c->destination,
				       .expiry = seen,
				       .slot = slot,
				       .port = c->port,
				       .method = c->method,
				       .state = state,
				       .family = entry.is_ipv6 ? 6 : 4,
				       .is_call = kind == TUPLE_CALL,
				       .kept = seen >> WORD_SEEN_REPLY & WORD_KEPT};
	if (state == STATE_TEMPLATE && control) {
		record->timeout = control->timeout;
		record->assured = control->assured;
	} else if (c->flags & CONN_CONTROLLED && control) {
		record->template = control->template;
		control = control_of(record->template);
		record->assured = control ? control->assured : 0;
	}
	return 1;
}

struct dump {
	struct transfer_request request;
	u32 filled; /* records */
	u32 done; /* ticks of `expiry_ticks`, each for TICK_SLOTS slots */
	u32 slot; /* the first one of a tick */
};

static int dump_slot(u32 index, struct dump *d)
{
	u32 slot = d->slot + index;
	if (is_complete(slot))
		d->filled += dump_conn(slot, d->filled, (d->request.kind & DUMP_KIND) | (d->request.all & 1 ? DUMP_ALL : 0));
	return 0;
}

/* Without a tick no slot has a connection, or the expiry timer visits them now: then a later run finds what has changed.
 * So an empty table costs little. */
static int dump_tick(u32 index, struct dump *d)
{
	if (d->filled > TRANSFER_RECORDS - TICK_SLOTS)
		return 1;
	d->slot = d->request.slot + index * TICK_SLOTS;
	d->done = index + 1;
	const u32 *tick = expiry_tick_at(d->slot / TICK_SLOTS);
	if (!(d->request.all & 1) && tick && !READ_ONCE(*tick))
		return 0;
	FORGET_BOUNDS(*d, filled, slot);
	bpf_loop(TICK_SLOTS, dump_slot, d, 0);
	return 0;
}

/* Fill `transfer_records`; one of family 0 ends them. Return the slot at which the next run begins; 0: none is left. */
SEC("tc")
int dump_conns(struct __sk_buff *skb)
{
	void *data = ctx_data(tc_ctx(skb)), *end = ctx_data_end(tc_ctx(skb));
	const struct transfer_request *request = data + REQUEST_OFFSET;
	if ((void *)(request + 1) > end)
		return 0;
	struct dump d = {.request = *request};
	d.request.slot &= ~(TICK_SLOTS - 1);
	u32 last = all_slots(), count = last > d.request.slot ? last - d.request.slot : 0;
	if (count > TRANSFER_SLOTS)
		count = TRANSFER_SLOTS;
	FORGET_BOUNDS(d, filled, slot);
	bpf_loop((count + TICK_SLOTS - 1) / TICK_SLOTS, dump_tick, &d, 0);
	struct conn_record *behind = map_elem(transfer_records, d.filled);
	if (behind)
		behind->family = 0;
	u32 next = d.request.slot + d.done * TICK_SLOTS;
	return next < last ? next : 0;
}

/* Insert or update the connection of a record, unless this director has refreshed it later: then `has_ended` is set.
 * `slot` is as restore_record leaves it. The tuple of a call has a hash with this director's key. */
INLINE int take_record(struct conn_record *record, const struct call *call)
{
	if (call)
		call_tuple(&record->tuple.v6, call, record->tuple.v6.dport, record->tuple.v6.protocol);
	struct found found = find_tuple(&record->tuple, record->family == 6);
	record->has_ended = 0;
	if (found.connection) {
		u64 seen = READ_ONCE(found.connection->word);
		u32 ours = refreshed_at(word_state(seen), seen), theirs = refreshed_at(record->state, record->expiry);
		if (word_dying(seen) || (s32)(theirs - ours) <= 0) {
			record->slot = found.slot;
			record->has_ended = 1;
			return 0;
		}
		record->was_expiry = seen;
		record->was_state = word_state(seen);
	}
	return restore_record(record, call);
}

static int take_step(u32 index, void *unused)
{
	struct conn_record *record = map_elem(transfer_records, index);
	if (!record || !record->family)
		return 1;
	take_record(record, record->is_call ? map_elem(transfer_calls, index) : NULL);
	return 0;
}

/* Python runs this for each batch of `transfer_records`, with the lock of edits. */
SEC("tc")
int take_conns(struct __sk_buff *skb)
{
	bpf_loop(TRANSFER_RECORDS, take_step, NULL, 0);
	return 0;
}
