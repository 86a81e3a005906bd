/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The table of IPv4 connections: an array of entries, and a hash index to it. IPv6 uses a hash map of the kernel.
 *
 * `connections4` has an entry of half a cache line for each slot. `index4` has buckets of one cache line each. A
 * tuple's hash selects the bucket, and the two index entries that are tried first. An index entry is a slot, XORed with
 * hash bits above the slot's, so a lookup rarely reads a wrong connection. NAT connections have a second index entry,
 * by replies, in the second half of the index. So a packet of a known connection waits for two cache lines, the first
 * of them in a small memory. A new connection waits for the first only, because its entry follows the previous one's.
 *
 * If a bucket is full, its entries overflow into one of four other buckets, and its mark word counts them. The hash is
 * keyed, so a client cannot choose colliding tuples.
 *
 * There is no lock. To insert, a CPU fills the entry, claims a free index entry by compare-exchange, and sets its mark.
 * The atomic operation that sets the mark returns the marks before. So of two CPUs with the same tuple the later one
 * finds the other's entry, and removes its own. If one entry is in an overflow bucket, both CPUs may remove theirs.
 * Removal invalidates the index entry, clears its mark, frees it, then clears the tuple. A reader may still hold the
 * connection, as with any hash map. A slot without an expiry tick is never removed: its creator has not finished.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

enum {
	MARK_ALL = (1 << ENTRIES) - 1,
	MARK_ELSEWHERE = 1 << ENTRIES, /* in the upper half: the number of entries that overflowed from this bucket */
};

#define NO_ENTRY 0xffffffffu

/* A tuple as two words: the addresses; ports, protocol, kind and number. */
struct key4 {
	u64 addresses;
	u64 rest;
};

INLINE struct key4 key4_of(const struct tuple4 *tuple)
{
	const u64 *words = (const void *)tuple;
	return (struct key4){words[0], words[1]};
}

/* Return the first bucket of one side's half of the index. */
INLINE u32 first_of(enum side side, u32 buckets)
{
	return side == SIDE_REPLY ? buckets + OTHER_BUCKETS : 0;
}

struct hashed {
	u64 mixed;
	u32 bucket;
	u32 first; /* index entry to try first */
	u32 tag; /* hash bits in an index entry */
};

/* Multiply-shift over two words, with secret odd factors (Dietzfelbinger 1996). A second round separates consecutive
 * ports, which would cluster otherwise. */
INLINE struct hashed hash_of(u64 addresses, u64 rest, enum side side)
{
	const volatile struct table_key *key = barrier_var(&table_key4); /* one base address for all its fields */
	u32 buckets = key->buckets;
	u64 factor = key->seeds[0], mixed = addresses * factor + rest * key->seeds[1];
	mixed = (mixed ^ mixed >> 32) * factor;
	u64 part = (mixed >> 32) * buckets;
	u32 bucket = (part >> 32) + first_of(side, buckets);
	return (struct hashed){mixed, bucket, part >> 28 & (ENTRIES - 1), (u32)mixed & ~key->slots_mask};
}

/* Return the first of the four overflow buckets. */
INLINE u32 second_bucket_of(const struct hashed *h, enum side side)
{
	u32 buckets = table_key4.buckets;
	u64 mixed = (h->mixed ^ h->mixed >> 29) * table_key4.seeds[1];
	return ((mixed >> 32) * buckets >> 32) + first_of(side, buckets);
}

INLINE bool is_tuple(const struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	const u64 *words = (const void *)&conn->tuple;
	return words[0] == addresses && words[1] == rest;
}

/* Whether a packet is from the connection's NAT server to its client. The server's address is not compared here: the
 * destination has it. */
INLINE bool is_reply_tuple(const struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	const u64 *words = (const void *)&conn->tuple;
	return (u32)words[0] == (u32)(addresses >> 32) && (u16)words[1] == (u16)(rest >> 16) &&
	       (words[1] ^ rest) >> 32 == 0 && conn->connection.port == (u16)rest &&
	       conn->connection.method == METHOD_MASQ;
}

/* Whether a packet may belong to the connection. For a reply the server's address is not compared. */
INLINE bool may_match(const struct conn_entry4 *conn, u64 addresses, u64 rest, enum side side)
{
	return side == SIDE_REPLY ? is_reply_tuple(conn, addresses, rest) : is_tuple(conn, addresses, rest);
}

/* Whether a reply is from the connection's own real server. */
INLINE bool is_from_its_server(const struct conn_entry4 *conn, u64 addresses)
{
	const struct destination *d = map_elem(destinations, conn->connection.destination);
	return d && d->address.word[0] == (u32)addresses;
}

INLINE bool matches(const struct conn_entry4 *conn, u64 addresses, u64 rest, enum side side)
{
	return may_match(conn, addresses, rest, side) && (side == SIDE_REQUEST || is_from_its_server(conn, addresses));
}

struct index_spot {
	u32 at; /* or NO_ENTRY */
	u32 slot;
};

/* Return how many index entries have the tag. No branches: the result cannot be predicted before the cache line
 * arrives. */
INLINE u32 count_tagged(const struct bucket *bucket, u32 tag)
{
	const u64 *pairs = (const void *)bucket;
	u64 both = (u64)tag << 32 | tag, beyond = (u64)table_key4.slots_mask + 1, found = 0;
#pragma unroll
	for (u32 i = 0; i < ENTRIES / 2; i++) {
		u64 pair = READ_ONCE(pairs[i]) ^ both;
		/* Negative: a slot. */
		u64 low = barrier_var((u32)pair - beyond), high = barrier_var((pair >> 32) - beyond);
		found = barrier_var(found + (low >> 63) + (high >> 63));
	}
	return found;
}

/* Whether the connection in a slot matches. */
VERIFIED_ONCE int matches_slot(u32 slot, u64 addresses, u64 rest, u32 side)
{
	struct conn_entry4 *conn = map_elem(connections4, slot);
	return conn && matches(conn, addresses, rest, side);
}

/* Search the marked entries of a bucket for the connection of a tuple. Return an index_spot with the slot in the lower
 * half. */
VERIFIED_ONCE u64 search_bucket(u32 number, u32 marks, u32 tag, u64 addresses, u64 rest)
{
	struct bucket *bucket = map_elem(index4, number);
	enum side side = number < first_of(SIDE_REPLY, table_key4.buckets) ? SIDE_REQUEST : SIDE_REPLY;
	marks = bucket ? marks & MARK_ALL : 0;
#pragma nounroll
	for (u32 i = 0; i < ENTRIES && marks; i++, marks >>= 1) {
		u32 slot = READ_ONCE(bucket->entry[i]) ^ tag;
		if (!(marks & 1) || slot > table_key4.slots_mask)
			continue;
		if (matches_slot(slot, addresses, rest, side))
			return (u64)(number * ENTRIES + i) << 32 | slot;
	}
	return (u64)NO_ENTRY << 32;
}

/* Likewise, except for the caller's `own` entry. */
INLINE struct index_spot find_in(u32 number, u32 marks, u32 tag, u64 addresses, u64 rest, u32 own)
{
	struct bucket *bucket = map_elem(index4, number);
	bool has_own = number == own / ENTRIES;
	if (!bucket || !(marks & MARK_ALL) || likely(count_tagged(bucket, tag) <= has_own))
		return (struct index_spot){NO_ENTRY, 0};
	u64 spot = search_bucket(number, has_own ? marks & ~(1u << own % ENTRIES) : marks, tag, addresses, rest);
	return (struct index_spot){spot >> 32, spot};
}

INLINE u32 *marks_at(u32 number)
{
	struct marks *some = map_elem(marks4, number / ENTRIES);
	return some ? &some->of[number % ENTRIES] : NULL;
}

INLINE u32 marks_of(u32 number)
{
	u32 *marks = marks_at(number);
	return marks ? READ_ONCE(*marks) : 0;
}

/* Search the overflow buckets. Return an index_spot, as search_bucket does. */
VERIFIED_ONCE u64 find_elsewhere(u64 addresses, u64 rest, u32 own, u32 side)
{
	struct hashed h = hash_of(addresses, rest, side);
	u32 second = second_bucket_of(&h, side);
#pragma nounroll
	for (u32 i = 0; i < OTHER_BUCKETS; i++) {
		u32 number = second + i, marks = marks_of(number);
		if (number == own / ENTRIES)
			marks &= ~(1u << own % ENTRIES);
		u64 spot = search_bucket(number, marks, h.tag, addresses, rest);
		if (spot >> 32 != NO_ENTRY)
			return spot;
	}
	return (u64)NO_ENTRY << 32;
}

INLINE struct index_spot find_with(const struct hashed *h, u32 marks, u64 addresses, u64 rest, u32 own, enum side side)
{
	struct index_spot found = find_in(h->bucket, marks, h->tag, addresses, rest, own);
	if (likely(found.at != NO_ENTRY) || likely(marks < MARK_ELSEWHERE))
		return found;
	u64 spot = find_elsewhere(addresses, rest, own, side);
	return (struct index_spot){spot >> 32, spot};
}

/* Return the slot of the tuple's connection, or 0. Reads all buckets that it may be in. */
VERIFIED_ONCE u32 find_slot(u64 addresses, u64 rest, u32 side)
{
	struct hashed h = hash_of(addresses, rest, side);
	return find_with(&h, marks_of(h.bucket), addresses, rest, NO_ENTRY, side).slot;
}

INLINE struct conn_entry4 *find_conn4_slow(u64 addresses, u64 rest, enum side side, u32 *slot)
{
	*slot = find_slot(addresses, rest, side);
	return *slot ? map_elem(connections4, *slot) : NULL;
}

/* Return the slot in one of the two entries that are tried first. With a wrong tag the result exceeds all slots. */
INLINE u32 slot_in(const struct bucket *bucket, const struct hashed *h, u32 which)
{
	return READ_ONCE(bucket->entry[h->first ^ which]) ^ h->tag;
}

/* Return the connection that the tuple's packets may belong to, and its slot. */
INLINE struct conn_entry4 *find_conn4(u64 addresses, u64 rest, enum side side, u32 *slot)
{
	struct hashed h = hash_of(addresses, rest, side);
	struct bucket *bucket = map_elem(index4, h.bucket);
	if (!bucket)
		return NULL;
#pragma unroll
	for (u32 i = 0; i < 2; i++) {
		*slot = slot_in(bucket, &h, i);
		struct conn_entry4 *conn = map_elem(connections4, *slot);
		if (likely(conn) && likely(may_match(conn, addresses, rest, side)))
			return conn;
	}
	return find_conn4_slow(addresses, rest, side, slot);
}

/* Likewise for a reply, with the server's address compared. */
INLINE struct conn_entry4 *find_reply4(u64 addresses, u64 rest, u32 *slot)
{
	struct conn_entry4 *conn = find_conn4(addresses, rest, SIDE_REPLY, slot);
	if (!conn || likely(is_from_its_server(conn, addresses)))
		return conn;
	return find_conn4_slow(addresses, rest, SIDE_REPLY, slot);
}

/* Whether the slot's connection has this tuple. */
INLINE bool has_tuple(u32 slot, u64 addresses, u64 rest)
{
	struct conn_entry4 *conn = map_elem(connections4, slot);
	return conn && is_tuple(conn, addresses, rest);
}

/* --- insert: fill the entry, claim an index entry, then publish or release it --- */

VERIFIED_ONCE u32 free_entry_in(u32 number, u32 first, u32 entry)
{
	struct bucket *bucket = map_elem(index4, number);
	if (!bucket)
		return NO_ENTRY;
#pragma nounroll
	for (u32 i = 0; i < ENTRIES; i++) {
		u32 n = barrier_var(first ^ i) & (ENTRIES - 1); /* The verifier of Linux 6.1 loses bounds at an XOR. */
		if (!READ_ONCE(bucket->entry[n]) && !__sync_val_compare_and_swap(&bucket->entry[n], 0, entry))
			return number * ENTRIES + n;
	}
	return NO_ENTRY;
}

/* Claim an index entry for a slot whose entry is filled. */
VERIFIED_ONCE u32 take_entry(u64 addresses, u64 rest, u32 slot, u32 side)
{
	struct hashed h = hash_of(addresses, rest, side);
	u32 at = free_entry_in(h.bucket, h.first, slot ^ h.tag);
	if (likely(at != NO_ENTRY))
		return at;
	u32 second = second_bucket_of(&h, side);
#pragma nounroll
	for (u32 i = 0; i < OTHER_BUCKETS && at == NO_ENTRY; i++)
		at = free_entry_in(second + i, 0, slot ^ h.tag);
	return at;
}

/* Invalidate and free an index entry. Return false if it has changed: only the CPU that invalidates it does the
 * rest. */
VERIFIED_ONCE int clear_entry(u32 at, u32 entry)
{
	u32 *marks = marks_at(at / ENTRIES), none = ~table_key4.slots_mask;
	struct bucket *bucket = map_elem(index4, at / ENTRIES);
	if (!bucket || !marks || __sync_val_compare_and_swap(&bucket->entry[at % ENTRIES], entry, none) != entry)
		return false;
	__sync_fetch_and_and(marks, ~(1u << at % ENTRIES));
	__sync_lock_test_and_set(&bucket->entry[at % ENTRIES], 0);
	return true;
}

INLINE u32 add_to_marks(u32 number, u32 more)
{
	u32 *marks = marks_at(number);
	return marks ? __sync_fetch_and_add(marks, more) : 0;
}

/* Likewise, for a published entry. */
INLINE void withdraw(const struct hashed *h, u32 at, u32 slot)
{
	if (clear_entry(at, slot ^ h->tag) && at / ENTRIES != h->bucket)
		add_to_marks(h->bucket, -MARK_ELSEWHERE);
}

/* Put an index entry in force: first in its own bucket's marks, else as an overflow. Return the marks before of the
 * tuple's own bucket, with MARK_ELSEWHERE for an overflow, because other entries may have overflowed, too. */
INLINE u32 publish_entry(const struct hashed *h, u32 at)
{
	u32 *marks = marks_at(at / ENTRIES);
	u32 before = marks ? __sync_fetch_and_or(marks, 1u << at % ENTRIES) : 0;
	return likely(at / ENTRIES == h->bucket) ? before : add_to_marks(h->bucket, MARK_ELSEWHERE) | MARK_ELSEWHERE;
}

/* Publish a connection under its tuple. If another one has that tuple, remove the new index entry and return false. */
VERIFIED_ONCE int publish_request(u64 addresses, u64 rest, u32 slot, u32 at)
{
	struct hashed h = hash_of(addresses, rest, SIDE_REQUEST);
	u32 before = publish_entry(&h, at);
	if (likely(!before) || find_with(&h, before, addresses, rest, at, SIDE_REQUEST).at == NO_ENTRY)
		return true;
	withdraw(&h, at, slot);
	return false;
}

/* Publish a NAT connection for its server's packets. An older connection with the same reply tuple loses them (4.1). */
VERIFIED_ONCE int publish_reply(u64 addresses, u64 rest, u32 slot, u32 at)
{
	struct hashed h = hash_of(addresses, rest, SIDE_REPLY);
	struct index_spot older = find_with(&h, publish_entry(&h, at), addresses, rest, at, SIDE_REPLY);
	if (unlikely(older.at != NO_ENTRY))
		withdraw(&h, older.at, older.slot);
	return 0;
}

/* --- remove --- */

/* Return where a bucket has this index entry. */
VERIFIED_ONCE u32 entry_in(u32 number, u32 entry)
{
	struct bucket *bucket = map_elem(index4, number);
	if (!bucket)
		return NO_ENTRY;
#pragma nounroll
	for (u32 i = 0; i < ENTRIES; i++) {
		if (READ_ONCE(bucket->entry[i]) == entry)
			return number * ENTRIES + i;
	}
	return NO_ENTRY;
}

/* Remove the tuple's index entry of a slot. The connection stays in its slot. */
VERIFIED_ONCE int unlink_entry(u64 addresses, u64 rest, u32 slot, u32 side)
{
	struct hashed h = hash_of(addresses, rest, side);
	u32 at = entry_in(h.bucket, slot ^ h.tag);
	if (unlikely(at == NO_ENTRY) && marks_of(h.bucket) >= MARK_ELSEWHERE) {
		u32 second = second_bucket_of(&h, side);
#pragma nounroll
		for (u32 i = 0; i < OTHER_BUCKETS && at == NO_ENTRY; i++)
			at = entry_in(second + i, slot ^ h.tag);
	}
	if (likely(at != NO_ENTRY))
		withdraw(&h, at, slot);
	return 0;
}

/* Free an index entry that was claimed but never published. */
VERIFIED_ONCE int release_entry(u64 addresses, u64 rest, u32 slot, u32 at)
{
	/* The tag is the same on either side. */
	return clear_entry(at, slot ^ hash_of(addresses, rest, SIDE_REPLY).tag);
}

/* The reply tuple of a NAT connection. */
INLINE struct key4 reply_key4(const struct tuple4 *request, be32 real, be16 port)
{
	return (struct key4){real | (u64)request->saddr << 32,
			     port | (u64)request->sport << 16 | (u64)request->protocol << 32};
}
