/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The table of IPv4 connections. IPv6 uses a hash map of the kernel.
 *
 * `connections4` has buckets of one cache line with two entries each. A tuple's hash names the bucket, and the position
 * of its entry is the connection's slot. So a packet of a known connection waits for one line, and a new one writes that
 * line, too. NAT connections have a second entry in the second half of the table, by the tuple of replies.
 *
 * Eight consecutive buckets form a group. If a bucket is full, its connections overflow into the others of its group,
 * then into three other groups. The bucket counts both kinds, so most searches end in it. The hash is keyed, so a client
 * cannot choose colliding tuples.
 *
 * There is no lock. To insert, a CPU claims a free entry by compare-exchange, fills it, publishes its tuple, and sets its
 * mark in the bucket. The atomic operation that sets the mark returns the marks before. So of two CPUs with the same
 * tuple the later one finds the other's entry, and removes its own. An entry that overflowed is in force once the bucket
 * counts it. Rarely both CPUs remove theirs, and try again.
 * Removal withdraws the tuple, clears the mark, then frees the entry. A reader may still hold the connection, as with
 * any hash map. An entry that is not `complete` is never removed: its creator has not finished.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

/* The word of a tuple with the ports. Bits 0-47: ports, protocol, kind; all 0 in a free entry. In the first entry of a
 * bucket there follow the bucket's marks: entries in force, and counts of those that overflowed. */
enum rest_bits { REST_KIND = 40, REST_MARKS = 48, REST_NEAR = 50, REST_FAR = 53 };

#define REST_TUPLE ((1ULL << REST_MARKS) - 1)
#define REST_OVERFLOWS (0x3fULL << REST_NEAR)
#define REST_CLAIMED ((u64)TUPLE_CLAIMED << REST_KIND)
#define REST_REPLY ((u64)TUPLE_REPLY << REST_KIND)

/* A tuple as two words: the addresses; ports, protocol and kind. */
struct key4 {
	u64 addresses;
	u64 rest;
};

INLINE struct key4 key4_of(const struct tuple4 *tuple)
{
	const u64 *words = (const void *)tuple;
	return (struct key4){words[0], words[1] & REST_TUPLE};
}

/* The tuple of a NAT server's packets. */
INLINE struct key4 reply_key4(const struct tuple4 *request, be32 real, be16 port)
{
	return (struct key4){real | (u64)request->saddr << 32,
			     port | (u64)request->sport << 16 | (u64)request->protocol << 32 | REST_REPLY};
}

/* Return the first bucket of one side's half of the table. Slot 0 means "none", so the first group is not used. */
INLINE u32 first_of(enum side side)
{
	return GROUP + (side == SIDE_REPLY ? table_key4.buckets : 0);
}

INLINE enum side side_of(u64 rest)
{
	return (u8)(rest >> REST_KIND) == TUPLE_REPLY ? SIDE_REPLY : SIDE_REQUEST;
}

struct hashed {
	u64 mixed;
	u32 bucket;
};

/* Multiply-shift over two words, with secret odd factors (Dietzfelbinger 1996). A second round separates consecutive
 * ports, which would cluster otherwise. */
INLINE struct hashed hash_of(u64 addresses, u64 rest, enum side side)
{
	const volatile struct table_key *key = barrier_var(&table_key4); /* one base address for all its fields */
	u32 buckets = key->buckets;
	u64 factor = key->seeds[0], mixed = addresses * factor + rest * key->seeds[1];
	mixed = (mixed ^ mixed >> 32) * factor;
	u32 bucket = (mixed >> 32) * buckets >> 32;
	return (struct hashed){mixed, bucket + GROUP + (side == SIDE_REPLY ? buckets : 0)};
}

/* Return the first bucket of one of the other groups of a hash. */
INLINE u32 other_group(u64 mixed, u32 number, enum side side)
{
	u64 other = (mixed ^ mixed >> 29) * (table_key4.seeds[1] + 2 * number);
	return ((other >> 32) * (table_key4.buckets / GROUP) >> 32) * GROUP + first_of(side);
}

INLINE struct conn_entry4 *entry_in(struct bucket *bucket, u32 number)
{
	return bucket ? &bucket->entry[barrier_var(number) & (ENTRIES - 1)] : NULL;
}

/* Return the entry of a slot. */
INLINE struct conn_entry4 *conn4_at(u32 slot)
{
	return entry_in(map_elem(connections4, slot / ENTRIES), slot);
}

INLINE u64 *rest_at(struct conn_entry4 *conn)
{
	return (u64 *)&conn->tuple + 1;
}

INLINE u64 addresses_at(const struct conn_entry4 *conn)
{
	return READ_ONCE(*(const u64 *)&conn->tuple);
}

/* Return 0 if the entry has this tuple. */
INLINE u64 difference_of(struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	return (addresses_at(conn) ^ addresses) | ((READ_ONCE(*rest_at(conn)) ^ rest) & REST_TUPLE);
}

/* Return the word that has a bucket's marks. */
INLINE u64 *marks_at(u32 bucket)
{
	struct conn_entry4 *first = conn4_at(bucket * ENTRIES);
	return first ? rest_at(first) : NULL;
}

/* Whether a bucket can count one more overflow. */
INLINE bool can_count(u64 marks, u32 which)
{
	return (marks >> which & OVERFLOW_MAX) < OVERFLOW_MAX;
}

/* Whether the slot's connection has this tuple. */
INLINE bool has_tuple(u32 slot, u64 addresses, u64 rest)
{
	struct conn_entry4 *conn = conn4_at(slot);
	return conn && !difference_of(conn, addresses, rest);
}

/* --- search: all functions return a slot, or 0 --- */

/* Search a group, from behind the bucket `home`. */
VERIFIED_ONCE u32 search_group(u32 home, u64 addresses, u64 rest, u32 own)
{
#pragma nounroll
	for (u32 i = 1; i <= GROUP_SLOTS; i++) {
		u32 slot = (home & ~(GROUP - 1)) * ENTRIES + ((home * ENTRIES + i) & (GROUP_SLOTS - 1));
		if (slot != own && has_tuple(slot, addresses, rest))
			return slot;
	}
	return 0;
}

/* Search where a bucket's connections overflow to, by its marks. */
VERIFIED_ONCE u32 search_overflow(u64 addresses, u64 rest, u64 marks, u32 own)
{
	enum side side = side_of(rest);
	struct hashed h = hash_of(addresses, rest, side);
	u32 slot = 0;
	if (marks >> REST_NEAR & OVERFLOW_MAX)
		slot = search_group(h.bucket, addresses, rest, own);
	if (slot || !(marks >> REST_FAR & OVERFLOW_MAX))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++)
		slot = search_group(other_group(h.mixed, i, side), addresses, rest, own);
	return slot;
}

/* Return the entry with this tuple, and its slot. */
INLINE struct conn_entry4 *find_entry4(u64 addresses, u64 rest, enum side side, u32 *slot)
{
	struct hashed h = hash_of(addresses, rest, side);
	struct bucket *bucket = map_elem(connections4, h.bucket);
	if (!bucket)
		return NULL;
	/* No branch selects the entry, because none could be predicted before the cache line arrives. */
	u64 first = difference_of(&bucket->entry[0], addresses, rest),
	    second = difference_of(&bucket->entry[1], addresses, rest);
	u32 which = barrier_var((first | -first) >> 63);
	*slot = h.bucket * ENTRIES + which;
	if (likely(!first | !second))
		return AFTER(entry_in(bucket, which), first);
	u64 marks = READ_ONCE(*rest_at(&bucket->entry[0]));
	if (likely(!(marks & REST_OVERFLOWS)))
		return NULL;
	*slot = search_overflow(addresses, rest, marks, 0);
	return *slot ? conn4_at(*slot) : NULL;
}

/* The same for paths that are not as frequent: return the slot, or 0. */
VERIFIED_ONCE u32 find_slot4(u64 addresses, u64 rest)
{
	u32 slot;
	return find_entry4(addresses, rest, side_of(rest), &slot) ? slot : 0;
}

/* Whether a reply's tuple belongs to the connection, whose slot may have another owner than when the reply was found. */
INLINE bool is_reply_tuple(const struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	const u64 *words = (const void *)&conn->tuple;
	return (u32)words[0] == (u32)(addresses >> 32) && (u16)words[1] == (u16)(rest >> 16) &&
	       (u8)(words[1] >> 32) == (u8)(rest >> 32) && conn->connection.method == METHOD_MASQ;
}

/* Return the connection that an entry by replies names, and its slot. */
INLINE struct conn_entry4 *conn_of_reply4(const struct conn_entry4 *reply, u64 addresses, u64 rest, u32 *slot)
{
	if (!reply)
		return NULL;
	*slot = reply->connection.destination;
	struct conn_entry4 *conn = conn4_at(*slot);
	return conn && is_reply_tuple(conn, addresses, rest) ? conn : NULL;
}

/* Return the connection that a reply's tuple belongs to, and its slot. */
INLINE struct conn_entry4 *find_reply4(u64 addresses, u64 rest, u32 *slot)
{
	return conn_of_reply4(conn4_at(find_slot4(addresses, rest | REST_REPLY)), addresses, rest, slot);
}

/* --- insert: claim an entry, fill it, then publish or release it --- */

/* Claim a free entry. Return its slot, or 0. */
INLINE u32 claim_slot(u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *rest = conn ? rest_at(conn) : NULL;
	u64 old = rest ? READ_ONCE(*rest) : ~0ULL;
	if (!rest || old & REST_TUPLE)
		return 0;
	return __sync_val_compare_and_swap(rest, old, old | REST_CLAIMED) == old ? slot : 0;
}

/* Claim an entry of a group, from behind the bucket `home`. */
VERIFIED_ONCE u32 claim_in_group(u32 home)
{
	u32 slot = 0;
#pragma nounroll
	for (u32 i = 2; i < 2 + GROUP_SLOTS && !slot; i++)
		slot = claim_slot((home & ~(GROUP - 1)) * ENTRIES + ((home * ENTRIES + i) & (GROUP_SLOTS - 1)));
	return slot;
}

/* Claim an entry that is not in the tuple's own bucket. */
VERIFIED_ONCE u32 claim_overflow(u64 addresses, u64 rest)
{
	enum side side = side_of(rest);
	struct hashed h = hash_of(addresses, rest, side);
	u64 *word = marks_at(h.bucket), marks = word ? READ_ONCE(*word) : ~0ULL;
	u32 slot = 0;
	if (can_count(marks, REST_NEAR))
		slot = claim_in_group(h.bucket);
	if (!can_count(marks, REST_FAR))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++)
		slot = claim_in_group(other_group(h.mixed, i, side));
	return slot;
}

VERIFIED_ONCE u32 claim_entry(u64 addresses, u64 rest)
{
	u32 first = hash_of(addresses, rest, side_of(rest)).bucket * ENTRIES;
	return claim_slot(first) ?: claim_slot(first + 1) ?: claim_overflow(addresses, rest);
}

/* Free an entry that was claimed, or withdrawn. */
VERIFIED_ONCE int release_entry(u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	if (!conn)
		return 0;
	u64 *word = rest_at(conn);
	WRITE_ONCE(*(u64 *)&conn->tuple, 0);
	WRITE_ONCE(conn->tuple.complete, 0);
	return __sync_fetch_and_and(word, ~REST_TUPLE) & 0;
}

/* Return which count of its own bucket an overflowed entry is in. */
INLINE u32 overflow_of(u32 bucket, u32 home)
{
	return bucket / GROUP == home / GROUP ? REST_NEAR : REST_FAR;
}

/* Undo the marks and counts of an entry whose tuple was withdrawn. */
INLINE void unmark(u32 slot, u32 home)
{
	u32 bucket = slot / ENTRIES;
	u64 *own = marks_at(bucket), *marks = marks_at(home);
	if (!own || !marks)
		return;
	__sync_fetch_and_and(own, ~(1ULL << (REST_MARKS + slot % ENTRIES)));
	if (unlikely(bucket != home))
		__sync_fetch_and_add(marks, -(1ULL << overflow_of(bucket, home)));
}

/* Replace an entry's tuple by the mark of a claimed one. Return false if it has changed: only the CPU that replaces it
 * does the rest. */
VERIFIED_ONCE int withdraw_tuple(u32 slot, u64 rest)
{
	struct conn_entry4 *conn = conn4_at(slot);
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

/* Search for another entry than `own` with this tuple, by the marks of its bucket. */
INLINE u32 find_other(u64 addresses, u64 rest, u32 home, u64 marks, u32 own)
{
	u32 first = home * ENTRIES;
#pragma unroll
	for (u32 i = 0; i < ENTRIES; i++) {
		if (unlikely(marks >> (REST_MARKS + i) & 1) && first + i != own && has_tuple(first + i, addresses, rest))
			return first + i;
	}
	return likely(!(marks & REST_OVERFLOWS)) ? 0 : search_overflow(addresses, rest, marks, own);
}

enum publish_result { PUBLISHED, PUBLISH_EXISTS, PUBLISH_FULL };

/* Publish an entry that overflowed. It is in force once its own bucket counts it, by a compare-exchange that fails if
 * another entry came first. */
VERIFIED_ONCE int publish_overflow(u64 addresses, u64 rest, u32 slot, u32 home)
{
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home);
	u32 which = overflow_of(slot / ENTRIES, home);
	int result = PUBLISH_FULL;
	if (!conn || !own || !marks)
		return result;
	store_tuple(conn, rest);
#pragma nounroll
	for (u32 i = 0; i < 4; i++) {
		u64 old = READ_ONCE(*marks);
		if (!can_count(old, which))
			break;
		if (find_other(addresses, rest, home, old, slot)) {
			result = PUBLISH_EXISTS;
			break;
		}
		if (__sync_val_compare_and_swap(marks, old, old + (1ULL << which)) == old) {
			set_mark(own, slot);
			return PUBLISHED;
		}
	}
	withdraw_tuple(slot, rest);
	return result;
}

/* Publish a filled entry under its tuple. If another one has that tuple, withdraw this one. */
VERIFIED_ONCE int publish_request(u64 addresses, u64 rest, u32 slot)
{
	u32 home = hash_of(addresses, rest, SIDE_REQUEST).bucket;
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *marks = marks_at(home);
	if (!conn || !marks)
		return PUBLISH_FULL;
	if (unlikely((u8)(rest >> REST_KIND) == TUPLE_RETIRED)) { /* no packet looks for it */
		store_tuple(conn, rest);
		return PUBLISHED;
	}
	if (unlikely(slot / ENTRIES != home))
		return publish_overflow(addresses, rest, slot, home);
	store_tuple(conn, rest);
	if (likely(!find_other(addresses, rest, home, set_mark(marks, slot), slot)))
		return PUBLISHED;
	if (withdraw_tuple(slot, rest))
		unmark(slot, home);
	return PUBLISH_EXISTS;
}

/* --- remove --- */

/* Withdraw an entry's tuple. The entry is not free yet. */
VERIFIED_ONCE int unlink_entry(u64 addresses, u64 rest, u32 slot)
{
	u32 home = hash_of(addresses, rest, side_of(rest)).bucket;
	if (!withdraw_tuple(slot, rest))
		return false;
	if (likely((u8)(rest >> REST_KIND) != TUPLE_RETIRED))
		unmark(slot, home);
	return true;
}

/* --- entries by replies --- */

/* Publish a NAT connection for its server's packets. An older connection with the same reply tuple loses them (4.1). */
VERIFIED_ONCE int publish_reply(u64 addresses, u64 rest, u32 entry, u32 slot)
{
	u32 home = hash_of(addresses, rest, SIDE_REPLY).bucket;
	struct conn_entry4 *reply = conn4_at(entry);
	u64 *marks = marks_at(home);
	if (!reply || !marks)
		return 0;
	reply->connection.destination = slot;
	WRITE_ONCE(*(u64 *)&reply->tuple, addresses);
	bool overflows = entry / ENTRIES != home;
	u32 older = 0;
	if (likely(!overflows)) {
		store_tuple(reply, rest);
		older = find_other(addresses, rest, home, set_mark(marks, entry), entry);
	} else {
		older = find_slot4(addresses, rest);
	}
	if (unlikely(older) && unlink_entry(addresses, rest, older))
		release_entry(older);
	if (unlikely(overflows) && publish_overflow(addresses, rest, entry, home) != PUBLISHED)
		release_entry(entry);
	return 0;
}

/* Remove a connection's entry by replies, unless a newer connection has replaced it. */
VERIFIED_ONCE int remove_reply(u64 addresses, u64 rest, u32 slot)
{
	u32 entry;
	struct conn_entry4 *reply = find_entry4(addresses, rest, SIDE_REPLY, &entry);
	if (reply && reply->connection.destination == slot && unlink_entry(addresses, rest, entry))
		release_entry(entry);
	return 0;
}
