/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The table of IPv4 connections. IPv6 uses a hash map of the kernel.
 *
 * `connections4` has buckets of one cache line with two entries each. A hash of the client's address and port names the
 * bucket, as in IPVS, so requests and NAT's replies find the same entry. Its position is the connection's slot. So a
 * packet of a known connection waits for one line, and a new one writes that line, too.
 *
 * Eight consecutive buckets form a group. If a bucket is full, its connections overflow into the others of its group,
 * then into other groups. The bucket counts both kinds, so most searches end in it. The hash is keyed, so a client
 * cannot choose colliding addresses and ports. One that uses the same port for many services fills more groups: by the
 * hash of the whole tuple, except for NAT. If those are full, too, its further connections are in any free entry, and
 * the hash map `crowd4` names their slots: by the tuple, and by that of NAT's replies.
 *
 * There is no lock. To insert, a CPU claims a free entry by compare-exchange, fills it, stores its tuple, and sets its
 * mark in the bucket: the first one of a bucket by one exchange. The atomic operation that sets the mark returns the marks before. So of two CPUs with the same
 * tuple the later one finds the other's entry, and removes its own. An entry that overflowed is in force once the bucket
 * counts it. Rarely both CPUs remove theirs, and try again. Removal withdraws the tuple, clears the marks, then frees the
 * entry. A reader may still hold the connection, as with any hash map. An entry that is not complete is never removed:
 * its creator has not finished.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

/* The word of a tuple with the ports. Bits 0-47: ports, protocol, kind; all 0 in a free entry. In the first entry of a
 * bucket the bucket's marks follow: entries in force, complete ones, counts of those that overflowed. */
enum rest_bits {
	REST_PROTOCOL = 32,
	REST_KIND = 40,
	REST_MARKS = 48,
	REST_COMPLETE = 50,
	REST_NEAR = 52, /* overflowed into the same group */
	REST_FAR = 56, /* into others */
	REST_CROWD = 63, /* `crowd4` has some of its connections, or had */
};

enum { MOST_NEAR = 0xf, MOST_FAR = 0x7f };

#define REST_TUPLE ((1ULL << REST_MARKS) - 1)
#define REST_CLAIMED ((u64)TUPLE_CLAIMED << REST_KIND)
#define REST_REPLY ((u64)TUPLE_REPLY << REST_KIND)

INLINE u32 kind_in(u64 rest)
{
	return (u8)(rest >> REST_KIND);
}

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
			     port | (u64)request->sport << 16 | (u64)request->protocol << REST_PROTOCOL | REST_REPLY};
}

/* Multiply-shift with secret odd factors (Dietzfelbinger 1996). A second round separates consecutive ports, which would
 * cluster otherwise. */
INLINE u64 mix4(u64 addresses, u64 rest)
{
	u64 mixed = addresses * table_key4.seeds[0] + rest * table_key4.seeds[1];
	return (mixed ^ mixed >> 32) * table_key4.seeds[0];
}

/* The hash of a request by client, port and protocol. */
INLINE u64 hash_request(u64 addresses, u64 rest)
{
	return mix4((u32)addresses | (rest & 0xffff) << 32 | (rest >> REST_PROTOCOL & 0xff) << 48, 0);
}

INLINE u64 hash_reply(u64 addresses, u64 rest)
{
	return mix4(addresses >> 32 | (rest >> 16 & 0xffff) << 32 | (rest >> REST_PROTOCOL & 0xff) << 48, 0);
}

/* The hash of any tuple. Templates have no port, so theirs is by the whole tuple. */
INLINE u64 hash4(u64 addresses, u64 rest)
{
	switch (kind_in(rest)) {
	case TUPLE_CONNECTION:
		return hash_request(addresses, rest);
	case TUPLE_REPLY:
		return hash_reply(addresses, rest);
	default:
		return mix4(addresses, rest);
	}
}

/* Return the bucket of a hash. Slot 0 means "none", so the first group is not used. */
INLINE u32 bucket4_of(u64 hash)
{
	return ((hash >> 32) * table_key4.buckets >> 32) + GROUP;
}

/* Return the bucket of a tuple. */
VERIFIED_ONCE u32 home_of(u64 addresses, u64 rest)
{
	return bucket4_of(hash4(addresses, rest));
}

/* Return the first bucket of one of the other groups of a tuple. */
INLINE u32 other_group(u64 addresses, u64 rest, u32 number)
{
	u64 hash = number <= OTHER_GROUPS / 2 ? hash4(addresses, rest) : mix4(addresses, rest);
	hash = (hash ^ hash >> 29) * (table_key4.seeds[1] + 2 * number);
	return bucket4_of(hash) & ~(GROUP - 1);
}

/* Return how many other groups may have a tuple. */
INLINE u32 other_groups(u64 rest, bool masq)
{
	return kind_in(rest) == TUPLE_REPLY || masq ? OTHER_GROUPS / 2 : OTHER_GROUPS;
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

/* Return 0 if the entry's connection gets replies with this tuple. The saddr is not compared: the destination has it. */
INLINE u64 difference_of_reply(struct conn_entry4 *conn, u64 addresses, u64 rest)
{
	u64 client = (u32)addresses_at(conn) ^ addresses >> 32;
	u64 port = (READ_ONCE(*rest_at(conn)) ^ (rest >> 16 & 0xffff) ^ (rest & 0xffULL << REST_PROTOCOL)) &
		   (0xffff | 0xffffULL << REST_PROTOCOL);
	const struct connection *c = &conn->connection;
	return client | port | (u64)(c->port ^ (u16)rest) | (c->method ^ METHOD_MASQ) | (c->word & 1ULL << WORD_NO_REPLIES);
}

/* Return the word that has a bucket's marks. */
INLINE u64 *marks_at(u32 bucket)
{
	struct conn_entry4 *first = conn4_at(bucket * ENTRIES);
	return first ? rest_at(first) : NULL;
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
INLINE bool is_from_its_server(const struct conn_entry4 *conn, u64 addresses)
{
	const struct destination *d = map_elem(destinations, conn->connection.destination);
	return d && d->address.word[0] == (u32)addresses;
}

/* --- search: all functions return a slot, or 0 --- */

/* Return the slot if its connection has this tuple. */
VERIFIED_ONCE u32 match_slot(u32 slot, u64 addresses, u64 rest)
{
	struct conn_entry4 *conn = conn4_at(slot);
	if (!conn)
		return 0;
	bool is_reply = kind_in(rest) == TUPLE_REPLY;
	u64 other = is_reply ? difference_of_reply(conn, addresses, rest) : difference_of(conn, addresses, rest);
	if (other || (is_reply && !is_from_its_server(conn, addresses)))
		return 0;
	return AFTER((u64)slot, other);
}

/* Search a group, from behind the bucket `home`. */
VERIFIED_ONCE u32 search_group(u32 home, u64 addresses, u64 rest, u32 own)
{
#pragma nounroll
	for (u32 i = 1; i <= GROUP_SLOTS; i++) {
		u32 slot = (home & ~(GROUP - 1)) * ENTRIES + ((home * ENTRIES + i) & (GROUP_SLOTS - 1));
		u32 found = slot == own ? 0 : match_slot(slot, addresses, rest);
		if (found)
			return found;
	}
	return 0;
}

/* Search `crowd4`. The kernel may have refused to delete an element, so its slot may have another connection. */
VERIFIED_ONCE u32 search_crowd(u64 addresses, u64 rest)
{
	u64 key[2] = {addresses, rest};
	u32 *slot = bpf_map_lookup_elem(&crowd4, key);
	return slot ? match_slot(*slot, addresses, rest) : 0;
}

/* Search where a bucket's connections overflow to, by its marks. */
VERIFIED_ONCE u32 search_overflow(u64 addresses, u64 rest, u64 marks, u32 own)
{
	u32 home = home_of(addresses, rest), slot = 0;
	if (marks >> REST_CROWD)
		slot = search_crowd(addresses, rest);
	if (slot && slot != own)
		return slot;
	slot = 0;
	if (count_in(marks, REST_NEAR))
		slot = search_group(home, addresses, rest, own);
	if (slot || !count_in(marks, REST_FAR))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++) {
		if (i <= other_groups(rest, false))
			slot = search_group(other_group(addresses, rest, i), addresses, rest, own);
	}
	return slot;
}

/* Search a bucket, and where its connections overflow to. */
VERIFIED_ONCE u32 search_all(u64 addresses, u64 rest, u64 marks, u32 own)
{
	u32 first = home_of(addresses, rest) * ENTRIES;
	u32 slot = first == own ? 0 : match_slot(first, addresses, rest);
	if (!slot && first + 1 != own)
		slot = match_slot(first + 1, addresses, rest);
	return slot ?: search_overflow(addresses, rest, marks, own);
}

/* Return the entry with this tuple, and its slot. A reply's saddr is not compared. */
INLINE struct conn_entry4 *find_entry4(u64 addresses, u64 rest, bool is_reply, u32 *slot)
{
	u32 home = bucket4_of(is_reply ? hash_reply(addresses, rest) : hash_request(addresses, rest));
	struct bucket *bucket = map_elem(connections4, home);
	if (!bucket)
		return NULL;
	/* No branch selects the entry, because none could be predicted before the cache line arrives. */
	struct conn_entry4 *one = &bucket->entry[0], *other = &bucket->entry[1];
	u64 first = is_reply ? difference_of_reply(one, addresses, rest) : difference_of(one, addresses, rest),
	    second = is_reply ? difference_of_reply(other, addresses, rest) : difference_of(other, addresses, rest);
	u32 which = barrier_var((first | -first) >> 63);
	*slot = home * ENTRIES + which;
	if (likely(!first | !second))
		return AFTER(entry_in(bucket, which), first);
	u64 marks = READ_ONCE(*rest_at(one));
	if (likely(marks < 1ULL << REST_NEAR))
		return NULL;
	*slot = search_overflow(addresses, rest, marks, 0);
	return *slot ? conn4_at(*slot) : NULL;
}

/* The same for paths that are not as frequent, with a reply's saddr compared: return the slot, or 0. */
VERIFIED_ONCE u32 find_slot4(u64 addresses, u64 rest)
{
	if (likely(kind_in(rest) == TUPLE_CONNECTION)) {
		u32 slot;
		return find_entry4(addresses, rest, false, &slot) ? slot : 0;
	}
	u64 *word = marks_at(home_of(addresses, rest));
	return word ? search_all(addresses, rest, READ_ONCE(*word), 0) : 0;
}

/* Return the connection that a reply's tuple belongs to, and its slot. */
INLINE struct conn_entry4 *find_reply4(u64 addresses, u64 rest, u32 *slot)
{
	*slot = find_slot4(addresses, rest | REST_REPLY);
	return *slot ? conn4_at(*slot) : NULL;
}

/* --- insert: claim an entry, fill it, then publish or release it --- */

/* Claim a free entry. Return its slot, or 0. */
VERIFIED_ONCE u32 claim_slot(u32 slot)
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
VERIFIED_ONCE u32 claim_overflow(u64 addresses, u64 rest, u32 masq)
{
	u32 home = home_of(addresses, rest), slot = 0;
	u64 *word = marks_at(home), marks = word ? READ_ONCE(*word) : ~0ULL;
	if (can_count(marks, REST_NEAR))
		slot = claim_in_group(home);
	if (!can_count(marks, REST_FAR))
		return slot;
#pragma nounroll
	for (u32 i = 1; i <= OTHER_GROUPS && !slot; i++) {
		if (i <= other_groups(rest, masq))
			slot = claim_in_group(other_group(addresses, rest, i));
	}
	return slot;
}

enum { CLAIMED_CROWDED = 1U << 31 }; /* a flag of a slot */

/* Claim an entry for a connection that `crowd4` will name. */
VERIFIED_ONCE u32 claim_crowded(u64 addresses, u64 rest)
{
	u32 slot = 0;
	if (kind_in(rest) != TUPLE_CONNECTION)
		return 0;
#pragma nounroll
	for (u32 i = OTHER_GROUPS / 2 + 1; i <= OTHER_GROUPS && !slot; i++)
		slot = claim_in_group(other_group(addresses, rest, i));
	return slot ? slot | CLAIMED_CROWDED : 0;
}

/* Claim an entry for a tuple. Return its slot, perhaps with CLAIMED_CROWDED, or 0. */
VERIFIED_ONCE u32 claim_entry(u64 addresses, u64 rest, u32 masq)
{
	u32 first = home_of(addresses, rest) * ENTRIES;
	return claim_slot(first) ?: claim_slot(first + 1) ?: claim_overflow(addresses, rest, masq)
		?: claim_crowded(addresses, rest);
}

/* Free an entry that was claimed, or withdrawn. */
VERIFIED_ONCE int release_entry(u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	if (!conn)
		return 0;
	u64 *word = rest_at(conn);
	WRITE_ONCE(*(u64 *)&conn->tuple, 0);
	return __sync_fetch_and_and(word, ~REST_TUPLE) & 0;
}

/* Return which count of its own bucket an overflowed entry is in. */
INLINE enum rest_bits overflow_of(u32 bucket, u32 home)
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
	__sync_fetch_and_and(own, ~((1ULL << REST_MARKS | 1ULL << REST_COMPLETE) << slot % ENTRIES));
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

/* Search for another entry than `own` with this tuple, if the marks of its bucket allow for one. */
INLINE u32 find_other(u64 addresses, u64 rest, u64 marks, u32 own)
{
	bool may_exist = marks >> REST_MARKS & ((1 << ENTRIES) - 1) || marks >= 1ULL << REST_NEAR;
	return unlikely(may_exist) ? search_all(addresses, rest, marks, own) : 0;
}

/* PUBLISHED_COMPLETE: its mark of a complete entry is set, too. */
enum publish_result { PUBLISHED, PUBLISHED_COMPLETE, PUBLISH_EXISTS, PUBLISH_FULL };

/* Publish an entry that overflowed. It is in force once its own bucket counts it, by a compare-exchange that fails if
 * another entry came first. */
INLINE int publish_overflow(u64 addresses, u64 rest, u32 slot)
{
	u32 home = home_of(addresses, rest);
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home);
	enum rest_bits which = overflow_of(slot / ENTRIES, home);
	int result = PUBLISH_FULL;
	if (!conn || !own || !marks)
		return result;
	store_tuple(conn, rest);
#pragma nounroll
	for (u32 i = 0; i < 4; i++) {
		u64 old = READ_ONCE(*marks);
		if (!can_count(old, which))
			break;
		if (find_other(addresses, rest, old, slot)) {
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

/* The tuple of the replies to a connection of NAT. Return false for other methods. */
INLINE bool reply_key_of(struct conn_entry4 *conn, u64 addresses, u64 rest, struct key4 *key)
{
	const struct destination *d = map_elem(destinations, conn->connection.destination);
	if (!d || conn->connection.method != METHOD_MASQ)
		return false;
	union {
		u64 words[2];
		struct tuple4 tuple;
	} request = {.words = {addresses, rest}};
	*key = reply_key4(&request.tuple, d->address.word[0], conn->connection.port);
	return true;
}

/* Delete what names a connection in `crowd4`. A newer connection may have its replies. */
VERIFIED_ONCE int leave_crowd(u64 addresses, u64 rest, u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	struct key4 key = {addresses, rest};
	bpf_map_delete_elem(&crowd4, &key);
	if (!conn || !reply_key_of(conn, addresses, rest, &key))
		return 0;
	u32 *owner = bpf_map_lookup_elem(&crowd4, &key);
	if (owner && *owner == slot)
		bpf_map_delete_elem(&crowd4, &key);
	return 0;
}

/* Add what names a connection to `crowd4`: 0, or an error. Another CPU's element of the same tuple stays. */
INLINE long join_crowd(struct conn_entry4 *conn, u64 addresses, u64 rest, u32 slot)
{
	struct key4 key = {addresses, rest};
	long error = bpf_map_update_elem(&crowd4, &key, &slot, BPF_NOEXIST);
	if (error == -EEXIST && !search_crowd(addresses, rest)) /* its connection is gone; the next attempt succeeds */
		bpf_map_delete_elem(&crowd4, &key);
	if (error || !reply_key_of(conn, addresses, rest, &key))
		return error;
	error = bpf_map_update_elem(&crowd4, &key, &slot, BPF_ANY);
	if (error)
		leave_crowd(addresses, rest, slot);
	return error;
}

/* Publish an entry that `crowd4` names. The search behind the insertion finds a CPU that chose another entry: its tuple
 * was stored before it searched `crowd4`. */
INLINE int publish_crowded(u64 addresses, u64 rest, u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home_of(addresses, rest));
	if (!conn || !own || !marks)
		return PUBLISH_FULL;
	store_tuple(conn, rest);
	set_mark(own, slot);
	__sync_fetch_and_or(marks, 1ULL << REST_CROWD);
	long error = join_crowd(conn, addresses, rest, slot);
	if (!error && !search_all(addresses, rest, 1ULL << REST_NEAR | 1ULL << REST_FAR, slot))
		return PUBLISHED;
	if (!withdraw_tuple(slot, rest))
		return PUBLISH_EXISTS;
	unmark(slot, slot / ENTRIES);
	if (!error)
		leave_crowd(addresses, rest, slot);
	return error && error != -EEXIST ? PUBLISH_FULL : PUBLISH_EXISTS;
}

/* Publish a filled entry under its tuple. If another one has that tuple, withdraw this one. `complete`:
 * the creator has finished, so other CPUs may end it. */
VERIFIED_ONCE int publish_entry(u64 addresses, u64 rest, u32 slot, u32 complete)
{
	u32 home = home_of(addresses, rest);
	struct conn_entry4 *conn = conn4_at(slot);
	u64 *marks = marks_at(home);
	if (!conn || !marks)
		return PUBLISH_FULL;
	if (unlikely(kind_in(rest) == TUPLE_RETIRED)) { /* no packet looks for it */
		store_tuple(conn, rest);
		marks = marks_at(slot / ENTRIES);
		if (marks)
			set_mark(marks, slot);
		return PUBLISHED;
	}
	if (unlikely(conn->connection.flags & CONN_CROWDED))
		return publish_crowded(addresses, rest, slot);
	/* One exchange, if the bucket has no other connection, and none that overflowed: so none has this tuple. */
	u64 published = rest | 1ULL << REST_MARKS | (u64)(complete & 1) << REST_COMPLETE;
	if (likely(slot == home * ENTRIES) &&
	    likely(__sync_val_compare_and_swap(marks, REST_CLAIMED, published) == REST_CLAIMED))
		return complete ? PUBLISHED_COMPLETE : PUBLISHED;
	if (unlikely(slot / ENTRIES != home))
		return publish_overflow(addresses, rest, slot);
	store_tuple(conn, rest);
	if (likely(!find_other(addresses, rest, set_mark(marks, slot), slot)))
		return PUBLISHED;
	if (withdraw_tuple(slot, rest))
		unmark(slot, home);
	return PUBLISH_EXISTS;
}

/* Mark a connection whose replies a newer one gets. If the slot changes hands before the exchange, the word has another
 * generation. */
VERIFIED_ONCE int lose_replies(u64 addresses, u64 rest, u32 slot)
{
	struct conn_entry4 *conn = conn4_at(slot);
	if (!conn)
		return 0;
	u64 *word = &conn->connection.word;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) { /* packets may change the word */
		u64 seen = READ_ONCE(*word);
		if (seen & 1ULL << WORD_DYING || !match_slot(AFTER((u64)slot, seen), addresses, rest))
			return 0;
		if (__sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_NO_REPLIES) == seen)
			return 0;
	}
	return 0;
}

/* Publish a NAT connection for its server's packets. An older connection with the same reply tuple loses them (4.1). */
VERIFIED_ONCE int publish_reply(u64 addresses, u64 rest, u32 slot)
{
	u64 *word = marks_at(home_of(addresses, rest));
	u32 older = word ? search_all(addresses, rest, READ_ONCE(*word), slot) : 0;
	if (unlikely(older))
		lose_replies(addresses, rest, older);
	return 0;
}

/* Let other CPUs end it from now on. */
INLINE void set_complete4(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES);
	if (marks)
		__sync_fetch_and_or(marks, 1ULL << (REST_COMPLETE + slot % ENTRIES));
}

INLINE bool is_complete4(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES);
	return marks && READ_ONCE(*marks) >> (REST_COMPLETE + slot % ENTRIES) & 1;
}

/* Return the entry of a slot if it is complete. */
INLINE struct conn_entry4 *complete_entry4(u32 slot)
{
	u64 *marks = marks_at(slot / ENTRIES), seen = marks ? READ_ONCE(*marks) : 0;
	return seen >> (REST_COMPLETE + slot % ENTRIES) & 1 ? conn4_at(AFTER((u64)slot, seen)) : NULL;
}

/* --- remove --- */

/* Withdraw an entry's tuple. The entry is not free yet. */
VERIFIED_ONCE int unlink_entry(u64 addresses, u64 rest, u32 slot)
{
	if (!withdraw_tuple(slot, rest))
		return false;
	struct conn_entry4 *conn = conn4_at(slot);
	bool is_retired = kind_in(rest) == TUPLE_RETIRED, is_crowded = conn && conn->connection.flags & CONN_CROWDED;
	if (unlikely(is_crowded))
		leave_crowd(addresses, rest, slot);
	/* Neither has a count. */
	unmark(slot, is_retired || is_crowded ? slot / ENTRIES : home_of(addresses, rest));
	return true;
}
