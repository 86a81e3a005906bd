/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Insert and remove entries of the connection table (table.h): reserve, fill, publish, withdraw, free.
 */
#pragma once
#include "conntrack/credits.h"
#include "conntrack/entry.h"
#include "conntrack/table.h"

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
INLINE u32 claim_if_free4(u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	u64 *rest = conn ? rest_at(conn) : NULL, old = rest ? READ_ONCE(*rest) : ~0ULL;
	if (!rest || old & REST_TUPLE)
		return 0;
	return __sync_val_compare_and_swap(rest, old, old | REST_CLAIMED) == old ? slot : 0;
}

VERIFIED_ONCE u32 claim_slot4(u32 slot)
{
	return claim_if_free4(slot);
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

struct group_claim {
	const struct key *key;
	u32 first; /* number of a group */
	u32 slot; /* result */
};

static int claim_in_step(u32 index, struct group_claim *at)
{
	at->slot = claim_in_group(other_group(at->key, at->first + index), is_ipv6_in(at->key->rest));
	return at->slot != 0;
}

/* Claim an entry in one of so many other groups. */
INLINE u32 claim_in_groups(const struct key *key, u32 first, u32 count)
{
	struct group_claim at = {.key = key, .first = first};
	FORGET_BOUNDS(at, slot, slot);
	bpf_loop(count, claim_in_step, &at, 0);
	return at.slot;
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
	if (slot || !can_count(marks, REST_FAR))
		return slot;
	return claim_in_groups(key, 1, other_groups(key, masq));
}

enum { CLAIMED_INDEXED = 1U << 31 }; /* a flag of a slot */

/* Claim an entry for a connection that `overflow_index` will name. */
VERIFIED_ONCE u32 claim_indexed(const struct key *key)
{
	if (!key || kind_in(key->rest) != TUPLE_CONNECTION)
		return 0;
	u32 slot = claim_in_groups(key, OTHER_GROUPS / 2 + 1, OTHER_GROUPS / 2);
	return slot ? slot | CLAIMED_INDEXED : 0;
}

/* Claim an entry for a tuple. Return its slot, perhaps with CLAIMED_INDEXED, or 0. */
VERIFIED_ONCE u32 claim_entry(const struct key *key, u32 masq)
{
	if (!key)
		return 0;
	u32 first = home_of(key) * ENTRIES, is_ipv6 = is_ipv6_in(key->rest);
	u32 slot = is_ipv6 ? claim_slot(first, true) : claim_if_free4(first) ?: claim_if_free4(first + 1);
	return likely(slot) ? slot : claim_overflow(key, masq) ?: claim_indexed(key);
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

/* Count one overflow less. Without any in other groups, the next one may be in the first of them again. */
INLINE void uncount_overflow(u64 *marks, enum rest_bits which)
{
	__sync_fetch_and_add(marks, -(1ULL << which));
	if (which != REST_FAR)
		return;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) { /* other CPUs may change the marks */
		u64 old = READ_ONCE(*marks), farther = old & 1ULL << REST_FARTHER;
		if (!farther || count_in(old, REST_FAR) ||
		    __sync_val_compare_and_swap(marks, old, old ^ farther) == old)
			return;
	}
}

/* Undo the marks and counts of an entry whose tuple was withdrawn. */
VERIFIED_ONCE int unmark(u32 slot, u32 home)
{
	u32 bucket = slot / ENTRIES;
	u64 *own = marks_at(bucket), *marks = marks_at(home);
	if (!own || !marks)
		return 0;
	__sync_fetch_and_and(own, ~((1ULL << REST_MARKS | 1ULL << REST_COMPLETE) << slot % ENTRIES));
	if (unlikely(bucket != home)) {
		uncount_overflow(marks, overflow_of(bucket, home));
		note_slot(slot, home, false);
	}
	return 0;
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
	u64 farther = which == REST_FAR ? (u64)is_farther(key, slot) << REST_FARTHER : 0;
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
		if (__sync_val_compare_and_swap(marks, old, (old + (1ULL << which)) | farther) == old) {
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

/* Delete what names a connection in `overflow_index`. A newer connection may have its replies. */
VERIFIED_ONCE int delete_from_index(const struct key *key, u32 slot)
{
	if (!key)
		return 0;
	u64 hash = key->by_tuple;
	bpf_map_delete_elem(&overflow_index, &hash);
	hash = reply_hash_of(key, slot);
	u32 *owner = hash ? bpf_map_lookup_elem(&overflow_index, &hash) : NULL;
	if (owner && *owner == slot)
		bpf_map_delete_elem(&overflow_index, &hash);
	return 0;
}

/* Add what names a connection to `overflow_index`: 0, or an error. Another CPU's element of the same tuple stays. */
INLINE long add_to_index(const struct key *key, u32 slot)
{
	u64 hash = key->by_tuple;
	long error = bpf_map_update_elem(&overflow_index, &hash, &slot, BPF_NOEXIST);
	if (error == -EEXIST && !search_index(key)) /* its connection is gone; the next attempt succeeds */
		bpf_map_delete_elem(&overflow_index, &hash);
	if (error)
		return error;
	hash = reply_hash_of(key, slot);
	if (!hash)
		return 0;
	error = bpf_map_update_elem(&overflow_index, &hash, &slot, BPF_ANY);
	if (error)
		delete_from_index(key, slot);
	return error;
}

/* Publish an entry that `overflow_index` names. The search behind the insertion finds a CPU that chose another entry:
 * its tuple was stored before it searched `overflow_index`. */
VERIFIED_ONCE int publish_indexed(const struct key *key, u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	if (!key)
		return PUBLISH_FULL;
	u64 *own = marks_at(slot / ENTRIES), *marks = marks_at(home_of(key));
	if (!conn || !own || !marks)
		return PUBLISH_FULL;
	store_tuple(conn, key->rest);
	set_mark(own, slot);
	__sync_fetch_and_or(marks, 1ULL << REST_INDEXED);
	long error = add_to_index(key, slot);
	if (!error && !search_all(key, 1ULL << REST_NEAR | 1ULL << REST_FAR | 1ULL << REST_FARTHER, slot))
		return PUBLISHED;
	if (!withdraw_tuple(slot, key->rest))
		return PUBLISH_EXISTS;
	unmark(slot, slot / ENTRIES);
	if (!error)
		delete_from_index(key, slot);
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
	if (unlikely(conn->connection.flags & CONN_INDEXED))
		return publish_indexed(key, slot);
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

/* --- remove --- */

/* Withdraw an entry's tuple. The entry is not free yet. */
VERIFIED_ONCE int unlink_entry(const struct key *key, u32 slot)
{
	if (!key || !withdraw_tuple(slot, key->rest))
		return false;
	struct conn_entry4 *conn = conn_at(slot);
	bool is_retired = kind_in(key->rest) == TUPLE_RETIRED;
	bool is_indexed = conn && conn->connection.flags & CONN_INDEXED;
	if (unlikely(is_indexed))
		delete_from_index(key, slot);
	/* Neither has a count. */
	unmark(slot, is_retired || is_indexed ? slot / ENTRIES : home_of(key));
	return true;
}

/* --- with a credit --- */

/* FAILED: another CPU changed the template. Unlike a full table this passes at once. NO_ENTRY: connections of one
 * client's port take all entries that they may, and `overflow_index` is full. Or `calls` is full. Others find their
 * entries. */
enum create_result { CREATED, CREATE_FULL, CREATE_EXISTS, CREATE_FAILED, CREATE_NO_ENTRY };

/* Count why there is no space for a connection. */
INLINE enum create_result refuse(enum reason reason)
{
	count(reason);
	return reason == REASON_REFUSED_TABLE_FULL ? CREATE_FULL : CREATE_NO_ENTRY;
}

/* Forget what the template of a SIP call stands for. The slot is still reserved. */
VERIFIED_ONCE int forget_call(u32 slot)
{
	bpf_map_delete_elem(&calls, &slot);
	return 0;
}

/* Forget the sequence data of a connection. */
VERIFIED_ONCE int forget_sequence(u32 slot)
{
	bpf_map_delete_elem(&synced_sequences, &slot);
	return 0;
}

/* Reserve an entry, and choose the generation of its state word. Afterwards call publish or unreserve. */
INLINE enum create_result reserve(const struct key *key, struct found *new_conn, enum slot_user user, bool nat)
{
	struct percpu_credits *m = credits_of(user);
	bool masq = new_conn->connection->method == METHOD_MASQ;
	if (!m || !(user == BY_COMMAND ? take_credit_at_once() : take_credit(m, nat)))
		return refuse(REASON_REFUSED_TABLE_FULL);
	u32 slot = claim_entry(key, masq);
	new_conn->slot = slot & ~CLAIMED_INDEXED;
	if (unlikely(slot & CLAIMED_INDEXED))
		new_conn->connection->flags |= CONN_INDEXED;
	if (unlikely(!new_conn->slot)) {
		return_credit(m, user);
		return refuse(REASON_REFUSED_INDEX_FULL);
	}
	new_conn->connection->word |= (u64)m->generation++ << WORD_GENERATION;
	return CREATED;
}

VERIFIED_ONCE int unreserve(u32 slot, u32 user)
{
	struct percpu_credits *m = credits_of(user);
	release_entry(slot);
	if (m)
		return_credit(m, user);
	return 0;
}

/* Insert what was reserved: from now on packets find it. It fails if another CPU was first or the table is full. Then
 * nothing is reserved any more, and the connection's word is the one that was left. */
INLINE enum create_result publish(const struct key *key, const struct found *new_conn, enum slot_user user)
{
	struct conn_entry4 *conn = conn_at(new_conn->slot);
	if (!conn)
		return CREATE_FULL;
	fill_entry(key, new_conn->slot, new_conn->connection);
	bool complete = new_conn->connection->method != METHOD_MASQ; /* NAT has yet to publish its replies */
	int result = publish_entry(key, new_conn->slot, complete);
	if (likely(result == PUBLISHED_COMPLETE))
		return CREATED;
	if (likely(result == PUBLISHED)) {
		if (complete)
			mark_complete(new_conn->slot);
		return CREATED;
	}
	new_conn->connection->word = __sync_fetch_and_or(&conn->connection.word, 1ULL << WORD_DYING);
	if (unlikely(new_conn->connection->flags & CONN_CALL))
		forget_call(new_conn->slot);
	if (unlikely(new_conn->connection->flags & CONN_SEQUENCED))
		forget_sequence(new_conn->slot);
	unreserve(new_conn->slot, user);
	return result == PUBLISH_FULL ? refuse(REASON_REFUSED_INDEX_FULL) : CREATE_EXISTS;
}
