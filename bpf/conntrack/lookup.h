/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Look up the connection of a tuple, in the table of its family.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table4.h"
#include "parse/packet.h"

INLINE struct found find_tuple(const union tuple *key, bool is_ipv6)
{
	struct found found = {};
	if (is_ipv6) {
		struct connection6 *value = bpf_map_lookup_elem(&connections6, &key->v6);
		if (value)
			found = (struct found){&value->connection, value->slot};
		return found;
	}
	struct key4 words = key4_of(&key->v4);
	found.slot = find_slot4(words.addresses, words.rest);
	struct conn_entry4 *conn = conn4_at(found.slot);
	if (found.slot && conn)
		found.connection = &conn->connection;
	return found;
}

INLINE struct found find_connection(const struct packet *p)
{
	return find_tuple(&p->tuple, p->is_ipv6);
}

/* Whether the CPU that created it has finished. No other CPU ends it before. */
INLINE bool is_complete(u32 slot)
{
	if (slot < first_slot6)
		return is_complete4(slot);
	u32 *noted = look_at(look_of(slot));
	return noted && READ_ONCE(*noted);
}

/* Let the expiry timer visit a new connection. Of IPv6 it is complete from now on. */
VERIFIED_ONCE int note_first_expiry(u32 slot, u32 expiry)
{
	note_expiry(slot, expiry);
	return 0;
}

struct slot_conn {
	union tuple tuple;
	struct found found;
	bool is_ipv6;
};

/* Load the connection of a slot. Return false while another CPU creates or ends it. */
INLINE bool conn_of_slot(u32 slot, struct slot_conn *held)
{
	held->is_ipv6 = slot >= first_slot6;
	if (!held->is_ipv6) {
		struct conn_entry4 *conn = complete_entry4(slot);
		if (!conn)
			return false;
		struct key4 key = key4_of(&conn->tuple);
		if (!key.rest || key.rest == REST_CLAIMED)
			return false;
		WORD_AT(u64, &held->tuple, 0) = key.addresses;
		WORD_AT(u64, &held->tuple, 8) = key.rest;
		held->found = (struct found){&conn->connection, slot};
		return true;
	}
	struct registered *registered = map_elem(registry6, slot - first_slot6);
	if (!registered)
		return false;
	held->tuple.v6 = registered->tuple;
	held->found = find_tuple(&held->tuple, true);
	return held->found.connection && held->found.slot == slot;
}

/* Swap the ends of a tuple. */
INLINE void tuple_reverse(union tuple *to, const union tuple *from, bool is_ipv6)
{
	__builtin_memset(to, 0, sizeof(*to));
	if (is_ipv6) {
		to->v6.saddr = from->v6.daddr;
		to->v6.daddr = from->v6.saddr;
		to->v6.sport = from->v6.dport;
		to->v6.dport = from->v6.sport;
		to->v6.protocol = from->v6.protocol;
	} else {
		to->v4.saddr = from->v4.daddr;
		to->v4.daddr = from->v4.saddr;
		to->v4.sport = from->v4.dport;
		to->v4.dport = from->v4.sport;
		to->v4.protocol = from->v4.protocol;
	}
}
