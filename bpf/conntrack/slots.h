/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Reserve, publish and free entries of the connection table. A slot numbers a connection or template in all maps; it is
 * a position in the table (table.h).
 *
 * Each CPU keeps some credits: a credit is the right to one more connection. It refills them in bundles, so CPUs seldom
 * share a cache line.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table.h"

enum {
	CREDITS = MAGAZINE / 2, /* that move at once between a CPU and the pool */
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

/* --- insert and remove --- */

/* FAILED: another CPU changed the template. Unlike a full table this passes at once. NO_ENTRY: connections of
 * one client's port take all entries that they may, and `crowd` is full; those of others find theirs. */
enum create_result { CREATED, CREATE_FULL, CREATE_EXISTS, CREATE_FAILED, CREATE_NO_ENTRY };

/* Count why there is no space for a connection. */
INLINE enum create_result refuse(enum reason reason)
{
	count(reason);
	return reason == REASON_REFUSED_INDEX_FULL ? CREATE_NO_ENTRY : CREATE_FULL;
}

/* Who takes and gives credits. Commands run their programs in process context, where packets can interrupt them before
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

/* Forget what the template of a SIP call stands for. The slot is still reserved. */
VERIFIED_ONCE int forget_call(u32 slot)
{
	bpf_map_delete_elem(&calls, &slot);
	return 0;
}

/* Reserve an entry, and choose the generation of its state word. Afterwards call publish or unreserve. */
INLINE enum create_result reserve(const struct key *key, struct found *new_conn, enum slot_user user)
{
	struct magazine *m = magazine_of(user);
	if (!m || !(user == BY_COMMAND ? take_credit_at_once() : take_credit(m)))
		return refuse(REASON_REFUSED_TABLE_FULL);
	u32 slot = claim_entry(key, new_conn->connection->method == METHOD_MASQ);
	new_conn->slot = slot & ~CLAIMED_CROWDED;
	if (unlikely(slot & CLAIMED_CROWDED))
		new_conn->connection->flags |= CONN_CROWDED;
	if (unlikely(!new_conn->slot)) {
		return_credit(m, user);
		return refuse(REASON_REFUSED_INDEX_FULL);
	}
	new_conn->connection->word |= (u64)m->generation++ << WORD_GENERATION;
	return CREATED;
}

VERIFIED_ONCE int unreserve(u32 slot, u32 user)
{
	struct magazine *m = magazine_of(user);
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
	unreserve(new_conn->slot, user);
	return result == PUBLISH_FULL ? refuse(REASON_REFUSED_INDEX_FULL) : CREATE_EXISTS;
}
