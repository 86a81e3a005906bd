/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The connection table, for both families: its layout, and searches. conntrack/insert.h changes it.
 *
 * `connections` has buckets of one cache line. A bucket holds two entries of IPv4, or one of IPv6. A hash of the
 * client's address and port names the bucket, so requests and NAT's replies find the same entry. Its position is the
 * connection's slot. So a packet of a known connection waits for one line, and a new one writes that line, too.
 *
 * Eight consecutive buckets form a group. If a bucket is full, its connections overflow into the others of its group,
 * then into other groups. The bucket counts both kinds, so most searches end in it. It also has the slots of those in
 * its group, so their packets touch one more line. It knows whether the first few of the other groups have all others.
 * A client that uses the same port for many services fills more groups: by the hash of the whole tuple, except for NAT.
 * If those are full, too, its further connections are in any free entry, and the hash map `overflow_index` names their
 * slots: by the hash of the tuple, and of that of NAT's replies.
 *
 * There is no lock. To insert, a CPU claims a free entry by compare-exchange, fills it, stores its tuple, and sets its
 * mark in the bucket: for the first one of a bucket by one exchange. For IPv6 it claims the first entry of a bucket,
 * then the second one. The atomic operation that sets the mark returns the marks before. So of two CPUs with the same
 * tuple the later one finds the other's entry, and removes its own. An entry that overflowed is in force once the
 * bucket counts it. Rarely both CPUs remove theirs, and try again. Removal withdraws the tuple, clears the marks, then
 * frees the entry. A reader may still hold the connection, as with any hash map. An entry that is not complete is never
 * removed: its creator has not finished.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/key.h"

INLINE struct conn_entry4 *entry_in(struct bucket *bucket, u32 number)
{
	return bucket ? &bucket->entry[barrier_var(number) & (ENTRIES - 1)] : NULL;
}

INLINE struct bucket *bucket_at(u32 slot)
{
	return map_elem(connections, slot / ENTRIES);
}

/* Return the entry of a slot. What IPv6 has beyond one of IPv4 is in conn6_at. */
INLINE struct conn_entry4 *conn_at(u32 slot)
{
	return entry_in(bucket_at(slot), slot);
}

INLINE struct conn_entry6 *conn6_at(u32 slot)
{
	struct bucket *bucket = bucket_at(slot);
	return bucket ? &bucket->entry6 : NULL;
}

/* Return the slots of the table. */
INLINE u32 all_slots(void)
{
	return (GROUP + table_key.buckets) * ENTRIES;
}

INLINE u64 *rest_at(struct conn_entry4 *conn)
{
	return (u64 *)&conn->tuple + 1;
}

INLINE u64 rest_in(const struct conn_entry4 *conn)
{
	return READ_ONCE(((const u64 *)&conn->tuple)[1]);
}

INLINE u64 addresses_at(const struct conn_entry4 *conn)
{
	return READ_ONCE(*(const u64 *)&conn->tuple);
}

/* Return 0 if the entry has this tuple. */
INLINE u64 difference_of4(const struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	return (addresses_at(conn) ^ addresses) | ((rest_in(conn) ^ rest) & REST_TUPLE);
}

/* Return 0 if port and kind of an entry are those of a connection that gets replies with this word. */
INLINE u64 difference_of_server(const struct conn_entry4 *conn, u64 rest)
{
	u64 port = (rest_in(conn) ^ client_in(rest, true)) & REST_CLIENT;
	const struct connection *c = &conn->connection;
	u64 lost = c->word & 1ULL << WORD_NO_REPLIES & ~(rest >> (REST_ANY_OWNER - WORD_NO_REPLIES));
	return port | (u64)(c->port ^ (u16)rest) | (c->method ^ METHOD_MASQ) | lost;
}

/* Return 0 if the entry's connection gets replies with this tuple. The saddr is not compared: the destination has
 * it. */
INLINE u64 difference_of_reply4(const struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	u64 client = (u32)addresses_at(conn) ^ addresses >> 32;
	return client | difference_of_server(conn, rest);
}

INLINE u64 difference_of_client6(const struct conn_entry6 *conn, u64 first, u64 last)
{
	return (READ_ONCE(conn->saddr_first) ^ first) | (READ_ONCE(conn->saddr_last) ^ last);
}

/* Likewise for IPv6: of an entry, or of the first entry of IPv4 in its bucket. */
INLINE u64 difference_of6(const struct bucket *bucket, const u64 *client, const u64 *other, u64 rest)
{
	const struct conn_entry6 *conn = &bucket->entry6;
	u64 daddr = (READ_ONCE(conn->daddr[0]) ^ other[0]) | (READ_ONCE(conn->daddr[1]) ^ other[1]);
	return difference_of_client6(conn, client[0], client[1]) | daddr |
	       ((rest_in(&bucket->entry[0]) ^ rest) & REST_TUPLE);
}

INLINE u64 difference_of_reply6(const struct bucket *bucket, const u64 *client, u64 rest)
{
	return difference_of_client6(&bucket->entry6, client[0], client[1]) |
	       difference_of_server(&bucket->entry[0], rest);
}

struct addresses6 { /* saddr and daddr of a packet */
	u64 word[4];
};

/* Return 0 if the entry's connection has a packet with these addresses and ports. */
INLINE u64 difference_of_packet6(const struct bucket *bucket, const struct addresses6 *addresses, u64 rest,
				 bool is_reply)
{
	const u64 *words = addresses->word;
	return is_reply ? difference_of_reply6(bucket, words + 2, rest) : difference_of6(bucket, words, words + 2, rest);
}

/* Return the word that has a bucket's marks. */
INLINE u64 *marks_at(u32 bucket)
{
	struct conn_entry4 *first = conn_at(bucket * ENTRIES);
	return first ? rest_at(first) : NULL;
}

/* Return the word that has the slots of the group to which a bucket's connections overflowed. */
INLINE u64 *slots_at(u32 bucket)
{
	struct conn_entry4 *second = conn_at(bucket * ENTRIES + 1);
	return second ? rest_at(second) : NULL;
}

enum { FIRST_SLOTS = 0x5555 }; /* of the buckets of a group */

INLINE u64 slot_bit(u32 slot)
{
	return 1ULL << (REST_SLOTS + slot % GROUP_SLOTS);
}

/* Return the number of the lowest bit of 16 that is set. */
INLINE u32 lowest_of_16(u32 bits)
{
	u32 number = (0x09af * (bits & -bits) & 0xffff) >> 12; /* a de Bruijn sequence */
	return 0xcd7ea84fb6935210ULL >> number * 4 & 0xf;
}

INLINE u32 count_in(u64 marks, enum rest_bits which)
{
	return which == REST_FAR ? marks >> REST_FAR & MOST_FAR : marks >> REST_NEAR & MOST_NEAR;
}

/* Whether a bucket can count one more overflow. */
INLINE bool can_count(u64 marks, enum rest_bits which)
{
	return count_in(marks, which) < (which == REST_FAR ? MOST_FAR : MOST_NEAR);
}

/* Let other CPUs end it from now on. */
INLINE void mark_complete(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES);
	if (marks)
		__sync_fetch_and_or(marks, 1ULL << (REST_COMPLETE + slot % ENTRIES));
}

/* Whether the CPU that created it has finished. No other CPU ends it before. */
INLINE bool is_complete(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES);
	return marks && READ_ONCE(*marks) >> (REST_COMPLETE + slot % ENTRIES) & 1;
}

/* Return the bucket of a slot if its entry is complete. */
INLINE struct bucket *complete_bucket(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES), seen = marks ? READ_ONCE(*marks) : 0;
	return seen >> (REST_COMPLETE + slot % ENTRIES) & 1 ? bucket_at(AFTER((u64)slot, seen)) : NULL;
}

/* Whether a reply is from the connection's own real server. */
INLINE bool is_from_its_server(const struct connection *c, const struct key *key)
{
	const struct destination *d = map_elem(destinations, c->destination);
	if (!d)
		return false;
	if (!is_ipv6_in(key->rest))
		return d->address.word[0] == (u32)key->addresses[0];
	const u32 *real = (const u32 *)&key->addresses[2];
	return !((d->address.word[0] ^ real[0]) | (d->address.word[1] ^ real[1]) | (d->address.word[2] ^ real[2]) |
		 (d->address.word[3] ^ real[3]));
}

/* --- search: all functions return a slot, or 0 --- */

/* Return the slot if its connection has this tuple. */
VERIFIED_ONCE u32 match_slot(u32 slot, const struct key *key)
{
	struct bucket *bucket = bucket_at(slot);
	struct conn_entry4 *conn = entry_in(bucket, slot);
	if (!bucket || !conn || !key)
		return 0;
	bool is_reply = kind_in(key->rest) == TUPLE_REPLY;
	u64 other = slot % ENTRIES;
	if (!is_ipv6_in(key->rest))
		other = is_reply ? difference_of_reply4(conn, key->addresses[0], key->rest)
				 : difference_of4(conn, key->addresses[0], key->rest);
	else if (!other)
		other = is_reply ? difference_of_reply6(bucket, key->addresses, key->rest)
				 : difference_of6(bucket, key->addresses, key->addresses + 2, key->rest);
	u64 found = AFTER((u64)slot, other);
	return other || (is_reply && !is_from_its_server(&conn->connection, key)) ? 0 : found;
}

/* Return the first slot of a bucket's group. */
INLINE u32 group_start(u32 bucket)
{
	return (bucket & ~(GROUP - 1)) * ENTRIES;
}

/* Return 1 if a slot is in none of the first of a tuple's other groups, else 0. */
VERIFIED_ONCE u32 is_farther(const struct key *key, u32 slot)
{
	u32 start = group_start(slot / ENTRIES), farther = 1;
	if (!key)
		return 0;
#pragma nounroll
	for (u32 number = 1; number <= FIRST_GROUPS; number++)
		farther &= is_nonzero(group_start(other_group(key, number)) ^ start);
	return farther;
}

/* Return how many other groups to search, by the marks of the tuple's bucket. */
INLINE u32 groups_to_search(const struct key *key, u64 marks)
{
	if (!count_in(marks, REST_FAR))
		return 0;
	return marks >> REST_FARTHER & 1 ? other_groups(key, false) : FIRST_GROUPS;
}

/* Return the slots of a group whose entries have this client's port, protocol and kind. No branch depends on an entry,
 * so the lines arrive together. */
VERIFIED_ONCE u32 slots_of_port(u32 start, u64 wanted)
{
	u32 others = 0;
#pragma nounroll
	for (u32 i = 0; i < GROUP_SLOTS; i += ENTRIES) {
		const struct bucket *bucket = bucket_at(start + i);
		if (!bucket)
			return 0;
		u64 first = (rest_in(&bucket->entry[0]) & REST_CLIENT) ^ wanted,
		    second = (rest_in(&bucket->entry[1]) & REST_CLIENT) ^ wanted;
		others |= (is_nonzero(first) | is_nonzero(second) << 1) << i;
	}
	return others ^ ((1U << GROUP_SLOTS) - 1);
}

/* A search in some slots of a group, then in other groups. */
struct slot_search {
	const struct key *key;
	u32 own; /* slot to leave out */
	u32 start; /* first slot of the group */
	u32 bits; /* its slots to search */
	u32 group; /* number of the next group, until `groups` */
	u32 groups;
	u32 slot; /* result */
};

/* Search a slot, or find out which slots of the next group to search. */
static int search_step(u32 index, struct slot_search *at)
{
	u32 bits = at->bits;
	u64 rest = at->key->rest;
	if (bits) {
		u32 slot = at->start + lowest_of_16(bits);
		at->bits = bits & (bits - 1);
		at->slot = slot == at->own ? 0 : match_slot(slot, at->key);
		return at->slot != 0;
	}
	if (at->group >= at->groups)
		return 1;
	at->start = group_start(other_group(at->key, at->group));
	at->bits = slots_of_port(at->start, client_in(rest, kind_in(rest) == TUPLE_REPLY));
	at->group += 1;
	return 0;
}

/* Search `overflow_index`, by the hash of the whole tuple. The kernel may have refused to delete an element, so its
 * slot may have another connection. */
VERIFIED_ONCE u32 search_index(const struct key *key)
{
	if (!key)
		return 0;
	u64 hash = key->by_tuple;
	u32 *slot = bpf_map_lookup_elem(&overflow_index, &hash);
	return slot ? match_slot(*slot, key) : 0;
}

/* Search where a bucket's connections overflow to, by its marks: slots of its group, then other groups. */
VERIFIED_ONCE u32 search_overflow(const struct key *key, u64 marks, u32 own)
{
	if (!key)
		return 0;
	u32 slot = marks >> REST_INDEXED ? search_index(key) : 0;
	if (slot && slot != own)
		return slot;
	u32 home = home_of(key);
	u64 *slots = slots_at(home);
	struct slot_search at = {.key = key, .own = own, .start = group_start(home), .group = 1, .groups = 1};
	if (count_in(marks, REST_NEAR))
		at.bits = slots ? READ_ONCE(*slots) >> REST_SLOTS : 0;
	at.groups += groups_to_search(key, marks);
	FORGET_BOUNDS(at, start, slot);
	bpf_loop(GROUP_SLOTS + OTHER_GROUPS * (1 + GROUP_SLOTS), search_step, &at, 0);
	return at.slot;
}

VERIFIED_ONCE u32 search_overflow4(u64 addresses, u64 rest, u64 marks)
{
	struct key key;
	set_key4(&key, addresses, rest);
	return search_overflow(&key, marks, 0);
}

/* Search where IPv6 overflows to. The first slot of the group is usually the right one: it costs one more line than a
 * bucket that is not full. A reply's saddr is not compared. */
VERIFIED_ONCE u32 search_overflow6(const struct addresses6 *addresses, u64 rest, u32 home)
{
	struct key key;
	u64 *slots = slots_at(home), *marks = marks_at(home);
	if (!addresses || !slots || !marks)
		return 0;
	bool is_reply = kind_in(rest) == TUPLE_REPLY;
	const u64 *client = addresses->word + (is_reply ? 2 : 0), *other = addresses->word + (is_reply ? 0 : 2);
	u32 slot = (home & ~(GROUP - 1)) * ENTRIES + lowest_of_16(READ_ONCE(*slots) >> REST_SLOTS & FIRST_SLOTS);
	struct bucket *bucket = bucket_at(slot);
	u64 difference = bucket ? difference_of_packet6(bucket, addresses, rest, is_reply) : 1;
	u64 found = AFTER((u64)slot, difference);
	if (likely(!difference))
		return found;
	set_key6(&key, client, other, rest);
	return search_overflow(&key, READ_ONCE(*marks), 0);
}

/* Search a bucket, and where its connections overflow to. */
VERIFIED_ONCE u32 search_all(const struct key *key, u64 marks, u32 own)
{
	if (!key)
		return 0;
	u32 first = home_of(key) * ENTRIES;
	u32 slot = first == own ? 0 : match_slot(first, key);
	if (!slot && first + 1 != own)
		slot = match_slot(first + 1, key);
	return slot ?: search_overflow(key, marks, own);
}

/* Return the entry with this tuple, and its slot. A reply's saddr is not compared. */
INLINE struct conn_entry4 *find_entry4(u64 addresses, u64 rest, bool is_reply, u32 *slot)
{
	u32 client = is_reply ? addresses >> 32 : addresses;
	u32 home = hashed_bucket(hash_client4(client, rest, is_reply));
	struct bucket *bucket = map_elem(connections, home);
	if (!bucket)
		return NULL;
	/* No branch selects the entry, because none could be predicted before the cache line arrives. */
	struct conn_entry4 *one = &bucket->entry[0], *other = &bucket->entry[1];
	u64 first = is_reply ? difference_of_reply4(one, addresses, rest) : difference_of4(one, addresses, rest),
	    second = is_reply ? difference_of_reply4(other, addresses, rest) : difference_of4(other, addresses, rest);
	u64 which = is_nonzero(first);
	*slot = home * ENTRIES + which;
	if (likely(!(which & is_nonzero(second))))
		return AFTER(entry_in(bucket, which), first | second);
	u64 marks = rest_in(one);
	if (likely(marks < 1ULL << REST_NEAR))
		return NULL;
	*slot = search_overflow4(addresses, rest, marks);
	return *slot ? conn_at(*slot) : NULL;
}

/* Return the bucket that a packet of IPv6 names; `difference` is 0 if it has the connection. */
INLINE struct bucket *named_bucket6(const struct addresses6 *addresses, u64 rest, bool is_reply, u32 *home,
				    u64 *difference)
{
	const u64 *client = addresses->word + (is_reply ? 2 : 0);
	*home = hashed_bucket(hash_client6(client[0], client[1], rest, is_reply));
	struct bucket *bucket = map_elem(connections, *home);
	if (!bucket)
		return NULL;
	*difference = difference_of_packet6(bucket, addresses, rest, is_reply);
	return AFTER(bucket, *difference);
}

/* Return the bucket with a packet's connection of IPv6, and its slot. A reply's saddr is not compared. */
INLINE struct bucket *find_entry6(const struct addresses6 *addresses, u64 rest, bool is_reply, u32 *slot)
{
	u32 home;
	u64 difference;
	struct bucket *bucket = named_bucket6(addresses, rest, is_reply, &home, &difference);
	*slot = home * ENTRIES;
	if (!bucket || likely(!difference))
		return bucket;
	if (likely(rest_in(&bucket->entry[0]) < 1ULL << REST_NEAR))
		return NULL;
	*slot = search_overflow6(addresses, rest, home);
	return *slot ? bucket_at(*slot) : NULL;
}

/* Search any kind of tuple, with a reply's saddr compared. */
INLINE u32 find_slot(const struct key *key)
{
	u64 *word = marks_at(home_of(key));
	return word ? search_all(key, READ_ONCE(*word), 0) : 0;
}

VERIFIED_ONCE u32 find_template_slot(const union tuple *tuple, u32 is_ipv6)
{
	struct key key = {};
	if (!tuple)
		return 0;
	set_key(&key, tuple, is_ipv6);
	return find_slot(&key);
}

/* Return the slot of the connection that a NAT server's packet belongs to. */
VERIFIED_ONCE u32 find_reply_slot(const union tuple *reply, u32 is_ipv6)
{
	struct key key = {};
	if (!reply)
		return 0;
	set_reply_key(&key, reply, is_ipv6);
	return find_slot(&key);
}

/* Search requests on paths that are not as frequent. */
VERIFIED_ONCE u32 find_request4(u64 addresses, u64 rest)
{
	u32 slot;
	return find_entry4(addresses, rest, false, &slot) ? slot : 0;
}

VERIFIED_ONCE u32 find_request6(const struct tuple6 *tuple)
{
	struct key key;
	if (!tuple)
		return 0;
	u32 home;
	u64 rest = rest_of6(tuple), difference;
	const struct addresses6 *addresses = (const void *)tuple;
	struct bucket *bucket = named_bucket6(addresses, rest, false, &home, &difference);
	if (!bucket)
		return 0;
	u64 found = AFTER((u64)home * ENTRIES, difference);
	if (likely(!difference))
		return found;
	u64 marks = rest_in(&bucket->entry[0]);
	if (likely(marks < 1ULL << REST_NEAR))
		return 0;
	set_key6(&key, addresses->word, addresses->word + 2, rest);
	return search_overflow(&key, marks, 0);
}

/* Return the slot of a tuple. */
INLINE u32 slot_of(const union tuple *tuple, bool is_ipv6)
{
	if (unlikely(tuple_kind_of(tuple, is_ipv6) != TUPLE_CONNECTION))
		return find_template_slot(tuple, is_ipv6);
	return is_ipv6 ? find_request6(&tuple->v6)
		       : find_request4(addresses_of4(&tuple->v4), rest_of4(&tuple->v4));
}
