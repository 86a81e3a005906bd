/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Allocation of slots. A slot numbers a connection or template in all maps: first those of IPv4, then those of IPv6. A
 * slot of IPv4 is a position in the table (table4.h).
 *
 * Each CPU keeps a pool of free slots of IPv6 and of credits: a credit is the right to one more connection. It refills
 * the pool in bundles, so CPUs seldom share a cache line. Both families share the credits.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/reverse6.h"
#include "conntrack/table4.h"

enum {
	CREDITS = BUNDLE, /* that move at once between a CPU and the pool */
	PLENTY = 1024, /* with fewer free credits, move them one by one: any CPU can then take the last one */
};

INLINE bool has_plenty(const struct pool *pool)
{
	return READ_ONCE(pool->used) + PLENTY <= pool->capacity;
}

/* Take the right to one more connection from the pool. */
INLINE bool take_credit_at_once(void)
{
	struct pool *pool = map_elem(pools, 0);
	if (!pool)
		return false;
	if (__sync_fetch_and_add(&pool->used, 1) < pool->capacity)
		return true;
	__sync_fetch_and_add(&pool->used, -1);
	return false;
}

/* Likewise, from a CPU's pool. */
INLINE bool take_credit(struct magazine *m)
{
	if (likely(m->credits)) {
		m->credits -= 1;
		return true;
	}
	struct pool *pool = map_elem(pools, 0);
	if (!pool)
		return false;
	if (unlikely(!has_plenty(pool)))
		return take_credit_at_once();
	__sync_fetch_and_add(&pool->used, CREDITS);
	m->credits = CREDITS - 1;
	return true;
}

INLINE void give_credit_at_once(void)
{
	struct pool *pool = map_elem(pools, 0);
	if (pool)
		__sync_fetch_and_add(&pool->used, -1);
}

INLINE void give_credit(struct magazine *m)
{
	struct pool *pool = map_elem(pools, 0);
	if (!pool)
		return;
	if (unlikely(!has_plenty(pool))) {
		__sync_fetch_and_add(&pool->used, -1);
		return;
	}
	m->credits += 1;
	if (m->credits < MAGAZINE)
		return;
	m->credits -= CREDITS;
	__sync_fetch_and_add(&pool->used, -CREDITS);
}

/* Refill a CPU's empty pool of slots. Return false if there are no slots. */
VERIFIED_ONCE int refill_slots(struct free_slots *own)
{
	struct bundle bundle;
	struct pool *pool = map_elem(pools, 0);
	if (!own || !pool)
		return false;
	u32 first = 0;
	long none = bpf_map_pop_elem(&free_slots6, &bundle);
	if (none) {
		if (READ_ONCE(pool->fresh) >= slots6)
			return false;
		first = __sync_fetch_and_add(&pool->fresh, BUNDLE);
		if (first >= slots6) {
			__sync_fetch_and_add(&pool->fresh, -BUNDLE);
			return false;
		}
	}
	for (u32 i = 0; i < BUNDLE; i++)
		own->slots[i] = none ? first_slot6 + first + BUNDLE - 1 - i : bundle.slots[i];
	own->count = BUNDLE;
	return true;
}

/* Return 0 if there is none. */
INLINE u32 take_slot(struct magazine *m)
{
	struct free_slots *own = &m->free;
	if (unlikely(!own->count) && !refill_slots(own))
		return 0;
	own->count -= 1;
	return own->slots[own->count % MAGAZINE];
}

INLINE void give_slot(struct magazine *m, u32 slot)
{
	struct free_slots *own = &m->free;
	if (unlikely(own->count >= MAGAZINE)) {
		if (bpf_map_push_elem(&free_slots6, &own->slots[BUNDLE], 0))
			return; /* cannot happen: the map holds all slots */
		own->count = BUNDLE;
	}
	own->slots[own->count % MAGAZINE] = slot;
	own->count += 1;
}

/* Return the number of slots of IPv6 that were ever used. */
INLINE u32 fresh6(const struct pool *pool)
{
	u32 fresh = READ_ONCE(pool->fresh);
	return fresh < slots6 ? fresh : slots6;
}

/* --- insert and remove --- */

/* FAILED: no memory at the moment, or a lock that was not available. Unlike a full table this passes at once. NO_ENTRY:
 * connections of one client's port take all entries that they may, and `crowd4` is full; those of others find theirs. */
enum create_result { CREATED, CREATE_FULL, CREATE_EXISTS, CREATE_FAILED, CREATE_NO_ENTRY };

INLINE enum create_result result_of(long error)
{
	return !error ? CREATED : error == -EEXIST ? CREATE_EXISTS : error == -E2BIG ? CREATE_FULL : CREATE_FAILED;
}

/* Count why there is no space for a connection. */
INLINE enum create_result refuse(enum reason reason)
{
	count(reason);
	return reason == REASON_REFUSED_INDEX_FULL ? CREATE_NO_ENTRY : CREATE_FULL;
}

/* Who takes and gives slots. Commands run their programs in process context, where packets can interrupt them before
 * Linux 6.3, so they have a pool of their own. */
enum slot_user { BY_PACKET, BY_COMMAND };

INLINE struct magazine *magazine_of(enum slot_user user)
{
	return user == BY_COMMAND ? map_elem(commands_magazine, 0) : map_elem(magazines, 0);
}

INLINE void return_credit(struct magazine *m, enum slot_user user)
{
	if (user == BY_COMMAND)
		give_credit_at_once();
	else
		give_credit(m);
}

/* Reserve a slot, and choose the generation of its state word. Afterwards call publish or unreserve. */
INLINE enum create_result reserve(const union tuple *tuple, bool is_ipv6, struct found *new_conn, enum slot_user user)
{
	struct magazine *m = magazine_of(user);
	if (!m || !(user == BY_COMMAND ? take_credit_at_once() : take_credit(m)))
		return refuse(REASON_REFUSED_TABLE_FULL);
	struct key4 key = key4_of(&tuple->v4);
	u32 slot = is_ipv6 ? take_slot(m)
			   : claim_entry(key.addresses, key.rest, new_conn->connection->method == METHOD_MASQ);
	new_conn->slot = slot & ~CLAIMED_CROWDED;
	if (unlikely(slot & CLAIMED_CROWDED))
		new_conn->connection->flags |= CONN_CROWDED;
	if (unlikely(!new_conn->slot)) {
		return_credit(m, user);
		return refuse(is_ipv6 ? REASON_REFUSED_IPV6_FULL : REASON_REFUSED_INDEX_FULL);
	}
	new_conn->connection->word |= (u64)m->generation++ << WORD_GENERATION;
	if (is_ipv6) {
		struct registered *registered = map_elem(registry6, new_conn->slot - first_slot6);
		if (registered)
			registered->tuple = tuple->v6;
	}
	return CREATED;
}

VERIFIED_ONCE int unreserve(u32 is_ipv6, u32 slot, u32 user)
{
	struct magazine *m = magazine_of(user);
	if (!is_ipv6)
		release_entry(slot);
	if (!m)
		return 0;
	if (is_ipv6) {
		u32 *noted = look_at(look_of(slot));
		if (noted)
			WRITE_ONCE(*noted, 0);
		give_slot(m, slot);
	}
	return_credit(m, user);
	return 0;
}

INLINE enum create_result publish4(const struct tuple4 *tuple, const struct found *new_conn, enum slot_user user)
{
	struct key4 key = key4_of(tuple);
	struct conn_entry4 *conn = conn4_at(new_conn->slot);
	if (!conn)
		return CREATE_FULL;
	conn->connection = *new_conn->connection;
	WORD_AT(u64, &conn->tuple, 0) = key.addresses;
	bool complete = new_conn->connection->method != METHOD_MASQ; /* NAT has yet to publish its replies */
	int result = publish_entry(key.addresses, key.rest, new_conn->slot, complete);
	if (likely(result == PUBLISHED_COMPLETE))
		return CREATED;
	if (likely(result == PUBLISHED)) {
		if (complete)
			set_complete4(new_conn->slot);
		return CREATED;
	}
	new_conn->connection->word = __sync_fetch_and_or(&conn->connection.word, 1ULL << WORD_DYING);
	unreserve(false, new_conn->slot, user);
	return result == PUBLISH_FULL ? refuse(REASON_REFUSED_INDEX_FULL) : CREATE_EXISTS;
}

/* Insert what was reserved: from now on packets find it. It fails if another CPU was first or the table is full. Then
 * nothing is reserved any more, and the connection's word is the one that was left. */
INLINE enum create_result publish(const union tuple *tuple, bool is_ipv6, const struct found *new_conn,
				  enum slot_user user)
{
	if (!is_ipv6)
		return publish4(&tuple->v4, new_conn, user);
	struct connection6 value = {.connection = *new_conn->connection, .slot = new_conn->slot};
	enum create_result result = result_of(bpf_map_update_elem(&connections6, &tuple->v6, &value, BPF_NOEXIST));
	if (unlikely(result != CREATED))
		unreserve(is_ipv6, new_conn->slot, user);
	if (unlikely(result == CREATE_FULL))
		return refuse(REASON_REFUSED_IPV6_FULL);
	return result;
}

/* Remove a connection whose word this CPU has marked as dying from the table. Return false if the kernel refused. */
INLINE bool unlink_conn(const union tuple *tuple, bool is_ipv6, u32 slot)
{
	if (is_ipv6)
		return is_deleted(bpf_map_delete_elem(&connections6, &tuple->v6));
	struct key4 key = key4_of(&tuple->v4);
	unlink_entry(key.addresses, key.rest, slot);
	return true;
}
