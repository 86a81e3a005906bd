/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The connection table, for both families.
 *
 * `connections` has buckets of one cache line. A bucket holds two entries of IPv4, or one of IPv6. A hash of the
 * client's address and port names the bucket, so requests and NAT's replies find the same entry. Its position is the
 * connection's slot. So a packet of a known connection waits for one line, and a new one writes that line, too.
 *
 * Eight consecutive buckets form a group. If a bucket is full, its connections overflow into the others of its group,
 * then into other groups. The bucket counts both kinds, so most searches end in it. It also has the slots of those in
 * its group, so their packets touch one more line. A client that uses the same port for many services fills more groups:
 * by the hash of the whole tuple, except for NAT. If those are full, too, its further connections are in any free entry,
 * and the hash map `crowd` names their slots: by the hash of the tuple, and of that of NAT's replies.
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
	u64 wanted = (rest >> 16 & 0xffff) | protocol_in(rest) << REST_PROTOCOL | (rest & REST_IPV6);
	u64 port = (rest_in(conn) ^ wanted) & (0xffff | 0xffffULL << REST_PROTOCOL);
	const struct connection *c = &conn->connection;
	return port | (u64)(c->port ^ (u16)rest) | (c->method ^ METHOD_MASQ) | (c->word & 1ULL << WORD_NO_REPLIES);
}

/* Return 0 if the entry's connection gets replies with this tuple. The saddr is not compared: the destination has it. */
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
	if (other || (is_reply && !is_from_its_server(&conn->connection, key)))
		return 0;
	return AFTER((u64)slot, other);
}

/* Search the slots to which a bucket's connections overflowed in its group. */
VERIFIED_ONCE u32 search_near(const struct key *key, u32 own)
{
	u64 *word = key ? slots_at(home_of(key)) : NULL;
	if (!key || !word)
		return 0;
	u32 first = (home_of(key) & ~(GROUP - 1)) * ENTRIES, bits = READ_ONCE(*word) >> REST_SLOTS;
#pragma nounroll
	for (u32 i = 0; i < GROUP_SLOTS && bits; i++) {
		u32 slot = first + lowest_of_16(bits);
		u32 found = slot == own ? 0 : match_slot(slot, key);
		if (found)
			return found;
		bits &= bits - 1;
	}
	return 0;
}

/* Search another group, in the order of claim_in_group. */
VERIFIED_ONCE u32 search_group(u32 bucket, const struct key *key, u32 own)
{
	if (!key)
		return 0;
#pragma nounroll
	for (u32 i = 0; i < GROUP_SLOTS; i++) {
		u32 slot = bucket * ENTRIES ^ i;
		u32 found = slot == own ? 0 : match_slot(slot, key);
		if (found)
			return found;
	}
	return 0;
}

/* Search `crowd`, by the hash of the whole tuple. The kernel may have refused to delete an element, so its slot may have
 * another connection. */
VERIFIED_ONCE u32 search_crowd(const struct key *key)
{
	if (!key)
		return 0;
	u64 hash = key->by_tuple;
	u32 *slot = bpf_map_lookup_elem(&crowd, &hash);
	return slot ? match_slot(*slot, key) : 0;
}

/* Search where a bucket's connections overflow to, by its marks. */
VERIFIED_ONCE u32 search_overflow(const struct key *key, u64 marks, u32 own)
{
	u32 slot = 0;
	if (!key)
		return 0;
	if (marks >> REST_CROWD)
		slot = search_crowd(key);
	if (slot && slot != own)
		return slot;
	slot = 0;
	if (count_in(marks, REST_NEAR))
		slot = search_near(key, own);
	if (slot || !count_in(marks, REST_FAR))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++) {
		if (i <= other_groups(key, false))
			slot = search_group(other_group(key, i), key, own);
	}
	return slot;
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
	if (likely(!difference))
		return AFTER((u64)slot, difference);
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
	u32 home = hashed_bucket(hash_client4(client, client_port_in(rest, is_reply), protocol_in(rest)));
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
		return AFTER(entry_in(bucket, which), first);
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
	*home = hashed_bucket(hash_client6(client[0], client[1], client_port_in(rest, is_reply), protocol_in(rest)));
	struct bucket *bucket = map_elem(connections, *home);
	if (bucket)
		*difference = difference_of_packet6(bucket, addresses, rest, is_reply);
	return bucket;
}

/* Return the bucket with a packet's connection of IPv6. A reply's saddr is not compared. */
INLINE struct bucket *find_entry6(const struct addresses6 *addresses, u64 rest, bool is_reply)
{
	u32 home;
	u64 difference;
	struct bucket *bucket = named_bucket6(addresses, rest, is_reply, &home, &difference);
	if (!bucket || likely(!difference))
		return bucket ? AFTER(bucket, difference) : NULL;
	if (likely(rest_in(&bucket->entry[0]) < 1ULL << REST_NEAR))
		return NULL;
	u32 slot = search_overflow6(addresses, rest, home);
	return slot ? bucket_at(slot) : NULL;
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
	if (!bucket || likely(!difference))
		return bucket ? AFTER((u64)home * ENTRIES, difference) : 0;
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

/* --- insert: claim an entry, fill it, then publish or release it --- */

/* Return the word that tells whether the second entry of a bucket is free. */
INLINE u64 *second_at(u32 slot)
{
	struct conn_entry6 *conn = conn6_at(slot);
	return conn ? &conn->second : NULL;
}

/* Free an entry that was claimed, or withdrawn. */
VERIFIED_ONCE int release_entry(u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	u64 *second = slot % ENTRIES ? NULL : second_at(slot);
	if (second && (READ_ONCE(*second) & REST_TUPLE) == REST_SECOND)
		__sync_fetch_and_and(second, ~REST_TUPLE);
	return conn ? __sync_fetch_and_and(rest_at(conn), ~REST_TUPLE) & 0 : 0;
}

/* Claim a free entry of IPv4. Return its slot, or 0. */
VERIFIED_ONCE u32 claim_slot4(u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	u64 *rest = conn ? rest_at(conn) : NULL, old = rest ? READ_ONCE(*rest) : ~0ULL;
	if (!rest || old & REST_TUPLE)
		return 0;
	return __sync_val_compare_and_swap(rest, old, old | REST_CLAIMED) == old ? slot : 0;
}

/* Likewise, an entry of either family. One of IPv6 needs both entries of a bucket. */
VERIFIED_ONCE u32 claim_slot(u32 slot, u32 is_ipv6)
{
	if (!is_ipv6)
		return claim_slot4(slot);
	u64 *second = second_at(slot);
	if (slot % ENTRIES || !second || READ_ONCE(*second) & REST_TUPLE || !claim_slot4(slot))
		return 0;
	u64 old = READ_ONCE(*second);
	if (likely(!(old & REST_TUPLE)) && __sync_val_compare_and_swap(second, old, old | REST_SECOND) == old)
		return slot;
	release_entry(slot);
	return 0;
}

/* Claim an entry of a group: from a bucket on, then the one beside it, which a processor may load with it. */
VERIFIED_ONCE u32 claim_in_group(u32 bucket, u32 is_ipv6)
{
	u32 slot = 0;
#pragma nounroll
	for (u32 i = 0; i < GROUP_SLOTS && !slot; i++)
		slot = claim_slot(bucket * ENTRIES ^ i, is_ipv6);
	return slot;
}

/* Claim an entry that is not in the tuple's own bucket. */
VERIFIED_ONCE u32 claim_overflow(const struct key *key, u32 masq)
{
	u32 slot = 0;
	if (!key)
		return 0;
	u64 *word = marks_at(home_of(key)), marks = word ? READ_ONCE(*word) : ~0ULL;
	if (can_count(marks, REST_NEAR))
		slot = claim_in_group(home_of(key), is_ipv6_in(key->rest));
	if (!can_count(marks, REST_FAR))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++) {
		if (i <= other_groups(key, masq))
			slot = claim_in_group(other_group(key, i), is_ipv6_in(key->rest));
	}
	return slot;
}

enum { CLAIMED_CROWDED = 1U << 31 }; /* a flag of a slot */

/* Claim an entry for a connection that `crowd` will name. */
VERIFIED_ONCE u32 claim_crowded(const struct key *key)
{
	u32 slot = 0;
	if (!key || kind_in(key->rest) != TUPLE_CONNECTION)
		return 0;
#pragma nounroll
	for (u32 i = OTHER_GROUPS / 2 + 1; i <= OTHER_GROUPS && !slot; i++)
		slot = claim_in_group(other_group(key, i), is_ipv6_in(key->rest));
	return slot ? slot | CLAIMED_CROWDED : 0;
}

/* Claim an entry for a tuple. Return its slot, perhaps with CLAIMED_CROWDED, or 0. */
VERIFIED_ONCE u32 claim_entry(const struct key *key, u32 masq)
{
	if (!key)
		return 0;
	u32 first = home_of(key) * ENTRIES, is_ipv6 = is_ipv6_in(key->rest);
	return claim_slot(first, is_ipv6) ?: claim_slot(first + 1, is_ipv6) ?: claim_overflow(key, masq)
		?: claim_crowded(key);
}

/* Fill an entry that was claimed. */
INLINE void fill_entry(const struct key *key, u32 slot, const struct connection *c)
{
	struct bucket *bucket = bucket_at(slot);
	struct conn_entry4 *conn = entry_in(bucket, slot);
	if (!bucket || !conn)
		return;
	conn->connection = *c;
	WORD_AT(u64, &conn->tuple, 0) = key->addresses[0];
	if (is_ipv6_in(key->rest)) {
		bucket->entry6.saddr_last = key->addresses[1];
		bucket->entry6.daddr[0] = key->addresses[2];
		bucket->entry6.daddr[1] = key->addresses[3];
	}
}

/* Return which count of its own bucket an overflowed entry is in. */
INLINE enum rest_bits overflow_of(u32 bucket, u32 home)
{
	return bucket / GROUP == home / GROUP ? REST_NEAR : REST_FAR;
}

/* Let packets of a bucket search a slot of its group, or no longer. */
VERIFIED_ONCE int note_slot(u32 slot, u32 home, u32 has_entry)
{
	u64 *slots = slots_at(home);
	if (!slots || overflow_of(slot / ENTRIES, home) != REST_NEAR)
		return 0;
	if (has_entry)
		__sync_fetch_and_or(slots, slot_bit(slot));
	else
		__sync_fetch_and_and(slots, ~slot_bit(slot));
	return 0;
}

/* Undo the marks and counts of an entry whose tuple was withdrawn. */
INLINE void unmark(u32 slot, u32 home)
{
	u32 bucket = slot / ENTRIES;
	u64 *own = marks_at(bucket), *marks = marks_at(home);
	if (!own || !marks)
		return;
	__sync_fetch_and_and(own, ~((1ULL << REST_MARKS | 1ULL << REST_COMPLETE) << slot % ENTRIES));
	if (unlikely(bucket != home)) {
		__sync_fetch_and_add(marks, -(1ULL << overflow_of(bucket, home)));
		note_slot(slot, home, false);
	}
}

/* Replace an entry's tuple by the mark of a claimed one. Return false if it has changed: only the CPU that replaces it
 * does the rest. */
VERIFIED_ONCE int withdraw_tuple(u32 slot, u64 rest)
{
	struct conn_entry4 *conn = conn_at(slot);
	u64 *word = conn ? rest_at(conn) : NULL;
	if (!word)
		return false;
#pragma nounroll
	for (u32 i = 0; i < 8; i++) { /* other CPUs may change the marks */
		u64 old = READ_ONCE(*word);
		if ((old ^ rest) & REST_TUPLE)
			return false;
		if (__sync_val_compare_and_swap(word, old, (old & ~REST_TUPLE) | REST_CLAIMED) == old)
			return true;
	}
	return false;
}

/* Store the tuple of an entry that was filled. */
INLINE void store_tuple(struct conn_entry4 *conn, u64 rest)
{
	__sync_fetch_and_add(rest_at(conn), rest - REST_CLAIMED);
}

/* Set an entry's mark. Return the marks before. */
INLINE u64 set_mark(u64 *marks, u32 slot)
{
	return __sync_fetch_and_or(marks, 1ULL << (REST_MARKS + slot % ENTRIES));
}

/* Search for another entry than `own` with this tuple, if the marks of its bucket allow for one. */
INLINE u32 find_other(const struct key *key, u64 marks, u32 own)
{
	bool may_exist = marks >> REST_MARKS & ((1 << ENTRIES) - 1) || marks >= 1ULL << REST_NEAR;
	return unlikely(may_exist) ? search_all(key, marks, own) : 0;
}

/* PUBLISHED_COMPLETE: its mark of a complete entry is set, too. */
enum publish_result { PUBLISHED, PUBLISHED_COMPLETE, PUBLISH_EXISTS, PUBLISH_FULL };

/* Publish an entry that overflowed. It is in force once its own bucket counts it, by a compare-exchange that fails if
 * another entry came first. */
INLINE int publish_overflow(const struct key *key, u32 slot)
{
	u32 home = home_of(key);
	struct conn_entry4 *conn = conn_at(slot);
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home);
	enum rest_bits which = overflow_of(slot / ENTRIES, home);
	int result = PUBLISH_FULL;
	if (!conn || !own || !marks)
		return result;
	store_tuple(conn, key->rest);
	note_slot(slot, home, true);
#pragma nounroll
	for (u32 i = 0; i < 4; i++) {
		u64 old = READ_ONCE(*marks);
		if (!can_count(old, which))
			break;
		if (find_other(key, old, slot)) {
			result = PUBLISH_EXISTS;
			break;
		}
		if (__sync_val_compare_and_swap(marks, old, old + (1ULL << which)) == old) {
			set_mark(own, slot);
			return PUBLISHED;
		}
	}
	withdraw_tuple(slot, key->rest);
	note_slot(slot, home, false);
	return result;
}

/* Return the hash of the replies to a connection; 0 if its method is not NAT. */
VERIFIED_ONCE u64 reply_hash_of(const struct key *key, u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	if (!key || !conn || conn->connection.method != METHOD_MASQ)
		return 0;
	const struct destination *d = map_elem(destinations, conn->connection.destination);
	return d ? hash_server_tuple(key, &d->address, conn->connection.port) : 0;
}

/* Delete what names a connection in `crowd`. A newer connection may have its replies. */
VERIFIED_ONCE int leave_crowd(const struct key *key, u32 slot)
{
	if (!key)
		return 0;
	u64 hash = key->by_tuple;
	bpf_map_delete_elem(&crowd, &hash);
	hash = reply_hash_of(key, slot);
	u32 *owner = hash ? bpf_map_lookup_elem(&crowd, &hash) : NULL;
	if (owner && *owner == slot)
		bpf_map_delete_elem(&crowd, &hash);
	return 0;
}

/* Add what names a connection to `crowd`: 0, or an error. Another CPU's element of the same tuple stays. */
INLINE long join_crowd(const struct key *key, u32 slot)
{
	u64 hash = key->by_tuple;
	long error = bpf_map_update_elem(&crowd, &hash, &slot, BPF_NOEXIST);
	if (error == -EEXIST && !search_crowd(key)) /* its connection is gone; the next attempt succeeds */
		bpf_map_delete_elem(&crowd, &hash);
	if (error)
		return error;
	hash = reply_hash_of(key, slot);
	if (!hash)
		return 0;
	error = bpf_map_update_elem(&crowd, &hash, &slot, BPF_ANY);
	if (error)
		leave_crowd(key, slot);
	return error;
}

/* Publish an entry that `crowd` names. The search behind the insertion finds a CPU that chose another entry: its tuple
 * was stored before it searched `crowd`. */
VERIFIED_ONCE int publish_crowded(const struct key *key, u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	if (!key)
		return PUBLISH_FULL;
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home_of(key));
	if (!conn || !own || !marks)
		return PUBLISH_FULL;
	store_tuple(conn, key->rest);
	set_mark(own, slot);
	__sync_fetch_and_or(marks, 1ULL << REST_CROWD);
	long error = join_crowd(key, slot);
	if (!error && !search_all(key, 1ULL << REST_NEAR | 1ULL << REST_FAR, slot))
		return PUBLISHED;
	if (!withdraw_tuple(slot, key->rest))
		return PUBLISH_EXISTS;
	unmark(slot, slot / ENTRIES);
	if (!error)
		leave_crowd(key, slot);
	return error && error != -EEXIST ? PUBLISH_FULL : PUBLISH_EXISTS;
}

/* Publish a filled entry under its tuple. If another one has that tuple, withdraw this one. `complete`: the creator has
 * finished, so other CPUs may end it. */
VERIFIED_ONCE int publish_entry(const struct key *key, u32 slot, u32 complete)
{
	if (!key)
		return PUBLISH_FULL;
	u32 home = home_of(key);
	struct conn_entry4 *conn = conn_at(slot);
	u64 *marks = marks_at(home);
	if (!conn || !marks)
		return PUBLISH_FULL;
	if (unlikely(kind_in(key->rest) == TUPLE_RETIRED)) { /* no packet looks for it */
		store_tuple(conn, key->rest);
		marks = marks_at(slot / ENTRIES);
		if (marks)
			set_mark(marks, slot);
		return PUBLISHED;
	}
	if (unlikely(conn->connection.flags & CONN_CROWDED))
		return publish_crowded(key, slot);
	/* One exchange, if the bucket has no other connection, and none that overflowed: so none has this tuple. */
	u64 published = key->rest | 1ULL << REST_MARKS | (u64)(complete & 1) << REST_COMPLETE;
	if (likely(slot == home * ENTRIES) &&
	    likely(__sync_val_compare_and_swap(marks, REST_CLAIMED, published) == REST_CLAIMED))
		return complete ? PUBLISHED_COMPLETE : PUBLISHED;
	if (unlikely(slot / ENTRIES != home))
		return publish_overflow(key, slot);
	store_tuple(conn, key->rest);
	if (likely(!find_other(key, set_mark(marks, slot), slot)))
		return PUBLISHED;
	if (withdraw_tuple(slot, key->rest))
		unmark(slot, home);
	return PUBLISH_EXISTS;
}

/* Mark a connection whose replies a newer one gets. If the slot changes hands before the exchange, the word has another
 * generation. */
VERIFIED_ONCE int lose_replies(const struct key *reply, u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	if (!conn || !reply)
		return 0;
	u64 *word = &conn->connection.word;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) { /* packets may change the word */
		u64 seen = READ_ONCE(*word);
		if (seen & 1ULL << WORD_DYING || !match_slot(AFTER((u64)slot, seen), reply))
			return 0;
		if (__sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_NO_REPLIES) == seen)
			return 0;
	}
	return 0;
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

enum rival { RIVAL_GONE, RIVAL_LOSES, RIVAL_WINS };

/* Decide whether another connection gets the replies. An older one loses them (4.1). Of two that two CPUs make at once,
 * the one with the greater slot gets them, or the one that `crowd` names. An entry that another CPU has made for the same
 * request is no rival: that CPU withdraws it. It is in force before and behind the comparison, so it is that entry. */
VERIFIED_ONCE int judge_rival(const struct key *request, const struct key *reply, u32 slot, u32 other)
{
	struct conn_entry4 *own = conn_at(slot), *its = conn_at(other);
	if (!own || !its || !request || !reply)
		return RIVAL_GONE;
	u64 *word = &its->connection.word, seen = READ_ONCE(*word);
	if (is_complete(other))
		return RIVAL_LOSES;
	if (!match_slot(other, reply))
		return RIVAL_GONE;
	if (match_slot(other, request))
		return RIVAL_LOSES;
	if (!match_slot(other, reply) || (READ_ONCE(*word) ^ seen) >> WORD_GENERATION)
		return RIVAL_GONE;
	bool crowded = own->connection.flags & its->connection.flags & CONN_CROWDED;
	return (unlikely(crowded) ? search_crowd(reply) == other : other > slot) ? RIVAL_WINS : RIVAL_LOSES;
}

enum { RIVALS = 32 }; /* that a connection meets: those of other CPUs, and entries that they withdraw */

/* Publish a NAT connection for its server's packets. Of all connections with the same reply tuple one gets them. Each of
 * two that come at once may find the other, and both mark the same one. A CPU that has finished has marked its rival
 * before, so the rival finds its own mark. */
VERIFIED_ONCE int publish_reply(const struct key *request, const struct address *real, u32 port, u32 slot)
{
	struct key key;
	if (!request || !real)
		return 0;
	set_server_key(&key, request, real, port);
	u64 *word = marks_at(home_of(&key));
#pragma nounroll
	for (u32 i = 0; i < RIVALS && word; i++) {
		u32 other = search_all(&key, READ_ONCE(*word), slot);
		if (likely(!other))
			break;
		u64 rival = judge_rival(request, &key, slot, other);
		if (!match_slot(AFTER((u64)slot, rival), &key)) /* it has lost them */
			break;
		if (rival != RIVAL_GONE)
			lose_replies(&key, rival == RIVAL_WINS ? slot : other);
	}
	return 0;
}

/* Return the bucket of a slot if its entry is complete. */
INLINE struct bucket *complete_bucket(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES), seen = marks ? READ_ONCE(*marks) : 0;
	return seen >> (REST_COMPLETE + slot % ENTRIES) & 1 ? bucket_at(AFTER((u64)slot, seen)) : NULL;
}

/* --- remove --- */

/* Withdraw an entry's tuple. The entry is not free yet. */
VERIFIED_ONCE int unlink_entry(const struct key *key, u32 slot)
{
	if (!key || !withdraw_tuple(slot, key->rest))
		return false;
	struct conn_entry4 *conn = conn_at(slot);
	bool is_retired = kind_in(key->rest) == TUPLE_RETIRED;
	bool is_crowded = conn && conn->connection.flags & CONN_CROWDED;
	if (unlikely(is_crowded))
		leave_crowd(key, slot);
	/* Neither has a count. */
	unmark(slot, is_retired || is_crowded ? slot / ENTRIES : home_of(key));
	return true;
}
