/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Insert connections and templates that another director announced (IPVS-SEMANTICS 10.5).
 */
#pragma once
#include "conntrack/announce.h"
#include "conntrack/create.h"
#include "conntrack/end.h"
#include "lb/call_template.h"

enum { SYNC_DELAY_S = 3 }; /* a message waits for 2 s, and the master looks once a second */

INLINE bool has_server(const struct sync_record *record, const struct connection *c)
{
	const struct destination *d = map_elem(destinations, c->destination);
	return d && c->port == record->port && same_address(&d->address, &record->server, true);
}

/* Whether the connection changes to the destination of the record, which has the same address. A service lists that one,
 * and none lists the connection's own. */
INLINE bool changes_destination(const struct sync_record *record, const struct connection *c)
{
	u64 live = READ_ONCE(get_root()->live);
	const struct destination *own = map_elem(destinations, c->destination),
				 *its = map_elem(destinations, record->destination);
	return own && its && own != its && !(destination_flags(own, live) & DESTINATION_AVAILABLE) &&
	       destination_flags(its, live) & DESTINATION_AVAILABLE;
}

/* Let packets that follow be counted from the number with which IPVS begins. */
VERIFIED_ONCE int begin_count(u32 slot, u32 packets, u32 state)
{
	struct sync_count *n = sync_count_of(slot);
	struct conn_entry4 *conn = conn_at(slot);
	if (!n || !conn)
		return 0;
	u64 generation = conn->connection.word >> WORD_GENERATION << SENT_GENERATION;
	WRITE_ONCE(n->packets, generation | packets);
	WRITE_ONCE(n->sent, generation | (u64)(state & (STATES - 1)) << SENT_STATE);
	return 0;
}

INLINE void update_sequence(const struct sync_record *record, const struct found *found)
{
	u32 slot = found->slot;
	if (record->sequence.flags && !bpf_map_update_elem(&synced_sequences, &slot, &record->sequence, BPF_ANY))
		found->connection->flags |= CONN_SEQUENCED;
}

/* Update a connection or template that has the announced real server. */
INLINE enum sync_result update_synced(struct sync_record *record, const struct found *found)
{
	struct connection *c = found->connection;
	bool is_template = record->state == STATE_TEMPLATE;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) { /* packets may change the word */
		u64 seen = READ_ONCE(c->word);
		if (word_dying(seen))
			return SYNC_EXPIRING;
		u64 next = (seen & ~((1ULL << WORD_DYING) - 1)) | (u64)record->state << WORD_STATE | record->expiry;
		if (__sync_val_compare_and_swap(&c->word, seen, next) != seen)
			continue;
		struct control *control = is_template ? control_of(found->slot) : NULL;
		if (control) {
			WRITE_ONCE(control->timeout, record->timeout);
			if (record->assured)
				control->assured = record->assured;
		} else {
			move_count(c->destination, word_state(seen), record->state);
			update_sequence(record, found);
		}
		note_expiry(found->slot, record->expiry);
		begin_count(found->slot, record->packets, record->state);
		return SYNC_UPDATED;
	}
	return SYNC_EXPIRING;
}

/* Whether this director knows a connection of a whole table better than the director that sent it. That one may have
 * a copy, which is older than what became of the connection here. A copy was refreshed when its message arrived, up to
 * SYNC_DELAY_S behind the packet. So of two at about the same time the closed one is right.
 */
INLINE bool is_known_better(const struct sync_record *record, u64 seen)
{
	if (!record->refreshed)
		return false;
	u32 state = word_state(seen);
	if (state == STATE_TEMPLATE)
		return (s32)(record->expiry - (u32)seen) <= 0;
	s32 later = record->refreshed - ((u32)seen - sync_timeout(0, state));
	s32 delay = minute / 60 * SYNC_DELAY_S;
	if (state != record->state)
		later += is_established(state) ? delay : -delay;
	return later <= 0;
}

INLINE enum sync_result insert_synced(struct sync_record *record, const union tuple *tuple, bool is_ipv6,
				      const struct call *call)
{
	bool is_template = record->state == STATE_TEMPLATE;
	struct new_conn new = {
		.tuple = tuple,
		.destination = map_elem(destinations, record->destination),
		.conn = {.destination = record->destination,
			 .port = record->port,
			 .method = is_template ? METHOD_LOCAL : record->method,
			 .flags = CONN_SYNCED | (record->sequence.flags ? CONN_SEQUENCED : 0) | (call ? CONN_CALL : 0),
			 .word = 1ULL << WORD_IN_USE},
		.state = record->state & (STATES - 1),
		.expiry = record->expiry,
		.has_control = is_template,
		.control = {.timeout = record->timeout, .assured = record->assured},
		.is_ipv6 = is_ipv6,
		.nat = true,
		.call = call,
		.sequence = record->sequence.flags ? &record->sequence : NULL,
		.user = BY_COMMAND,
	};
	new.conn.word &= ~((u64)(is_half_open_state(new.state) || is_template) << WORD_IN_USE);
	if (!new.destination && record->method != METHOD_BYPASS)
		return SYNC_EXPIRING;
	enum create_result result = insert_conn(&new);
	if (result != CREATED)
		return result == CREATE_FULL || result == CREATE_NO_ENTRY ? SYNC_FULL : SYNC_EXPIRING;
	if (is_evictable(new.conn.word))
		append_half_open(new.slot, new.conn.word >> WORD_GENERATION, BY_COMMAND);
	begin_count(new.slot, record->packets, record->state);
	return SYNC_CREATED;
}

/* Set the tuple of a call's template. */
VERIFIED_ONCE int set_synced_call(union tuple *tuple, const struct call *call)
{
	if (!tuple || !call)
		return 0;
	struct tuple6 *six = &tuple->v6;
	be16 port = call->family == 6 ? six->dport : tuple->v4.dport;
	u8 protocol = call->family == 6 ? six->protocol : tuple->v4.protocol;
	call_tuple(six, call, port, protocol);
	return 0;
}

INLINE int store_record(u32 index)
{
	struct sync_record *record = map_elem(sync_records, index);
	if (!record)
		return 0;
	/* Not copied: Linux 6.1 has 512 bytes of stack for this and all that it calls. */
	union tuple *tuple = &record->tuple;
	bool is_ipv6 = record->family == 6;
	struct call *call = record->call ? map_elem(sync_calls, record->call - 1) : NULL;
	if (call) {
		set_synced_call(tuple, call);
		is_ipv6 = true;
	}
	struct found found = find_tuple(tuple, is_ipv6);
	enum sync_result ended = SYNC_CREATED;
	if (found.connection) {
		if (is_known_better(record, READ_ONCE(found.connection->word))) {
			record->result = SYNC_NEWER;
			return 0;
		}
		bool is_same = record->state == STATE_TEMPLATE || has_server(record, found.connection);
		bool changes = changes_destination(record, found.connection);
		if (!is_same && record->inactive) {
			record->result = SYNC_IGNORED;
			return 0;
		}
		if (is_same && !changes) {
			record->result = update_synced(record, &found);
			return 0;
		}
		u64 seen = READ_ONCE(found.connection->word);
		if (!is_complete(found.slot) || !end_conn(tuple, is_ipv6, &found, seen, END_RESTORED)) {
			record->result = SYNC_EXPIRING;
			return 0;
		}
		ended = is_same ? SYNC_UPDATED : SYNC_REPLACED;
	}
	enum sync_result result = insert_synced(record, tuple, is_ipv6, call);
	record->result = result == SYNC_CREATED ? ended : result;
	return 0;
}

static int store_step(u32 index, void *unused)
{
	struct sync_record *record = map_elem(sync_records, index);
	if (!record || !record->family)
		return 1;
	store_record(index);
	return 0;
}

/* Python runs this for each batch of `sync_records`. */
SEC("tc")
int store_synced(struct __sk_buff *skb)
{
	bpf_loop(SYNC_RECORDS, store_step, NULL, 0);
	return 0;
}
