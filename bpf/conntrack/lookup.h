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
	struct place4 *conn = find_conn4(words.addresses, words.rest, SIDE_REQUEST, &found.slot);
	if (conn)
		found.connection = &conn->connection;
	return found;
}

INLINE struct found find_connection(const struct packet *p)
{
	return find_tuple(&p->tuple, p->is_ipv6);
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
		struct place4 *conn = map_elem(connections4, slot);
		if (!conn || !conn->tuple.target)
			return false;
		held->tuple.v4 = conn->tuple;
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
		to->v6.source = from->v6.target;
		to->v6.target = from->v6.source;
		to->v6.source_port = from->v6.target_port;
		to->v6.target_port = from->v6.source_port;
		to->v6.protocol = from->v6.protocol;
	} else {
		to->v4.source = from->v4.target;
		to->v4.target = from->v4.source;
		to->v4.source_port = from->v4.target_port;
		to->v4.target_port = from->v4.source_port;
		to->v4.protocol = from->v4.protocol;
	}
}
