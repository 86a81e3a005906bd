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
