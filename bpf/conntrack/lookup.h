/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Look up the connection of a tuple, or of a slot.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table.h"
#include "parse/packet.h"

INLINE struct found found_at(u32 slot)
{
	struct conn_entry4 *conn = slot ? conn_at(slot) : NULL;
	return (struct found){conn ? &conn->connection : NULL, slot};
}

INLINE struct found find_tuple(const union tuple *tuple, bool is_ipv6)
{
	return found_at(slot_of(tuple, is_ipv6));
}

INLINE struct found find_connection(const struct packet *p)
{
	const union tuple *tuple = &p->tuple; /* of a connection, not of a template */
	return found_at(p->is_ipv6 ? find_request6(&tuple->v6)
				   : find_request4(addresses_of4(&tuple->v4), rest_of4(&tuple->v4)));
}

/* Load the tick for the expiry timer of the slots where a connection with this tuple will be. A search follows, so both
 * cache lines arrive together. Only for packets that begin connections: other CPUs write the tick.
 */
VERIFIED_ONCE int load_expiry_tick(const union tuple *tuple, u32 is_ipv6)
{
	if (!tuple)
		return 0;
	const u64 *words = addresses_of6(&tuple->v6);
	u64 hash = is_ipv6 ? hash_client6(words[0], words[1], rest_of6(&tuple->v6), false)
			   : hash_client4(words[0], rest_of4(&tuple->v4), false);
	const u32 *noted = expiry_tick_at(hashed_bucket(hash) * ENTRIES / TICK_SLOTS);
	if (noted)
		READ_ONCE(*noted);
	return 0;
}

struct slot_conn {
	union tuple tuple;
	struct found found;
	bool is_ipv6;
};

/* Load the connection of a slot. Return false while another CPU creates or ends it. */
INLINE bool conn_of_slot(u32 slot, struct slot_conn *entry)
{
	struct bucket *bucket = complete_bucket(slot);
	struct conn_entry4 *conn = entry_in(bucket, slot);
	u64 *words = (u64 *)&entry->tuple, rest = conn ? rest_in(conn) & REST_TUPLE : 0;
	if (!bucket || !conn || !rest || rest == REST_CLAIMED || rest == REST_SECOND)
		return false;
	entry->is_ipv6 = is_ipv6_in(rest);
	words[0] = addresses_at(conn);
	words[1] = rest;
	words[2] = words[3] = words[4] = 0;
	if (entry->is_ipv6) {
		words[1] = bucket->entry6.saddr_last;
		words[2] = bucket->entry6.daddr[0];
		words[3] = bucket->entry6.daddr[1];
		words[4] = rest & ~REST_IPV6;
	}
	entry->found = (struct found){&conn->connection, slot};
	return true;
}

/* Return the virtual address and port of a connection. */
INLINE void virtual_of(u32 slot, struct address *address, be16 *port, bool is_ipv6)
{
	struct bucket *bucket = bucket_at(slot);
	struct conn_entry4 *conn = entry_in(bucket, slot);
	if (!bucket || !conn)
		return;
	*port = conn->tuple.dport;
	if (is_ipv6) {
		((u64 *)address)[0] = bucket->entry6.daddr[0];
		((u64 *)address)[1] = bucket->entry6.daddr[1];
	} else {
		address->word[0] = conn->tuple.daddr;
	}
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
