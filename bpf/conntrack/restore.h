/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Insert connections from records, into a table of another size or of another build. Python copies the former table
 * while packets still use it, then once more what they have changed since.
 *
 * A record that was restored before updates or ends its connection only if that is as it was restored: once packets use
 * this table, they know better.
 */
#pragma once
#include "conntrack/create.h"
#include "conntrack/end.h"

/* Whether the connection is as an earlier record restored it. */
INLINE bool is_as_restored(const struct conn_record *record, u64 seen)
{
	return !word_dying(seen) && record->was_expiry == (u32)seen && record->was_state == word_state(seen);
}

/* Update a connection that a former record inserted. Return false if the record must be inserted now. */
INLINE bool update_restored(struct conn_record *record, const struct found *found, bool is_ipv6)
{
	struct connection *c = found->connection;
	u64 seen = READ_ONCE(c->word);
	record->slot = found->slot;
	if (!is_as_restored(record, seen))
		return true;
	if (c->destination != record->destination || c->port != record->port || c->method != record->method)
		return !end_conn(&record->tuple, is_ipv6, found, seen, END_RESTORED);
	u64 next = make_word(record->state, record->expiry, seen >> WORD_GENERATION) |
		   (u64)(record->kept & WORD_KEPT) << WORD_SEEN_REPLY;
	if (__sync_val_compare_and_swap(&c->word, seen, next) != seen)
		return true;
	move_count(c->destination, word_state(seen), record->state);
	if ((s32)(record->expiry - (u32)seen) < 0)
		note_expiry(found->slot, record->expiry);
	return true;
}

/* A template may be assured by a packet of a connection, after its own record. */
INLINE void assure_template(const struct conn_record *record)
{
	struct control *control = record->template ? control_of(record->template) : NULL;
	if (control && record->assured && control->assured != ASSURED)
		control->assured = record->assured;
}

/* `call` is what the template of a SIP call stands for, or NULL: then Python copies it. */
INLINE int restore_record(struct conn_record *record, const struct call *call)
{
	if (!record)
		return 0;
	bool is_ipv6 = record->family == 6, is_template = record->state == STATE_TEMPLATE;
	const union tuple *tuple = &record->tuple; /* not copied: Linux 6.1 allows 512 bytes of stack in all calls */
	struct found found = find_tuple(tuple, is_ipv6);
	if (record->has_ended) {
		u64 seen = found.connection ? READ_ONCE(found.connection->word) : 0;
		if (found.connection && is_as_restored(record, seen))
			end_conn(tuple, is_ipv6, &found, seen, END_RESTORED);
		return 0;
	}
	assure_template(record);
	if (found.connection && update_restored(record, &found, is_ipv6))
		return 0;
	struct new_conn new = {
		.tuple = tuple,
		.destination = record->method == METHOD_BYPASS ? NULL : map_elem(destinations, record->destination),
		.conn = {.destination = record->destination,
			 .port = record->port,
			 .method = record->method,
			 .flags = (record->template ? CONN_CONTROLLED : 0) | (record->is_call ? CONN_CALL : 0) |
				  record->synced,
			 .word = (u64)(record->kept & WORD_KEPT) << WORD_SEEN_REPLY},
		.state = record->state & (STATES - 1),
		.expiry = record->expiry,
		.has_control = is_template || record->template,
		.control = {.template = record->template,
			    .timeout = record->timeout,
			    .assured = record->assured},
		.is_ipv6 = is_ipv6,
		.call = call,
		.user = BY_COMMAND,
	};
	record->slot = 0;
	if (!new.destination && record->method != METHOD_BYPASS)
		return 0;
	if (record->template)
		add_references(record->template, 1);
	if (insert_conn(&new) != CREATED) {
		if (record->template)
			add_references(record->template, -1);
		return 0;
	}
	record->slot = new.slot;
	if (is_evictable(new.conn.word))
		append_half_open(new.slot, new.conn.word >> WORD_GENERATION, BY_COMMAND);
	return 0;
}

static int restore_step(u32 index, void *unused)
{
	struct conn_record *record = map_elem(conn_records, index);
	if (!record || !record->family)
		return 1;
	restore_record(record, NULL);
	return 0;
}

/* Python runs this for each batch of `conn_records`. */
SEC("tc")
int restore_conns(struct __sk_buff *skb)
{
	bpf_loop(CONN_RECORDS, restore_step, NULL, 0);
	return 0;
}
