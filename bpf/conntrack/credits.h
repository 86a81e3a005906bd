/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Credits: the right to one more connection each. Each CPU keeps some. It refills them in bundles, so CPUs seldom share
 * a cache line.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

enum {
	NAT_SHARE = 8, /* this part of the table is for connections by NAT alone: others are forwarded without one */
	RARE_SHARE = 16, /* of it, this part of the table is not for UDP of a service that makes many connections */
	CREDITS = PERCPU_CREDITS / 2, /* that move at once between a CPU and the pool */
	PLENTY = 1024, /* with fewer free credits, move them one by one: any CPU can then take the last one */
};

/* Return at how many connections there is space for no other one, by NAT (or under a template for it) or not. Without
 * this share, forged SYNs and ACKs to a service of direct routing could take every entry. */
INLINE u32 capacity_for(const struct pool *pool, bool nat)
{
	return pool->capacity - (!nat && get_root()->nat ? pool->capacity / NAT_SHARE : 0);
}

/* Whether only the last part of the table is free. */
INLINE bool is_nearly_full(const struct pool *pool)
{
	return READ_ONCE(pool->used) >= pool->capacity - pool->capacity / RARE_SHARE;
}

INLINE bool has_plenty(const struct pool *pool)
{
	return READ_ONCE(pool->used) + PLENTY <= pool->capacity;
}

INLINE bool is_half_full(const struct pool *pool)
{
	return READ_ONCE(pool->used) >= pool->capacity / 2;
}

/* Take the right to one more connection from the pool. */
INLINE bool take_credit_at_once(void)
{
	struct pool *pool = map_elem(pools, 0);
	if (!pool)
		return false;
	if (READ_ONCE(pool->used) >= pool->capacity)
		return false;
	if (__sync_fetch_and_add(&pool->used, 1) < pool->capacity)
		return true;
	__sync_fetch_and_add(&pool->used, -1);
	return false;
}

/* Likewise, from a CPU's pool. */
INLINE bool take_credit(struct percpu_credits *m, bool nat)
{
	if (likely(m->credits)) {
		m->credits -= 1;
		return true;
	}
	struct pool *pool = map_elem(pools, 0);
	if (!pool || READ_ONCE(pool->used) >= capacity_for(pool, nat))
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

INLINE void give_credit(struct percpu_credits *m)
{
	struct pool *pool = map_elem(pools, 0);
	if (!pool)
		return;
	if (unlikely(!has_plenty(pool))) {
		__sync_fetch_and_add(&pool->used, -1);
		return;
	}
	m->credits += 1;
	if (m->credits < PERCPU_CREDITS)
		return;
	m->credits -= CREDITS;
	__sync_fetch_and_add(&pool->used, -CREDITS);
}

/* Who takes and gives credits. Commands run their programs in process context, where packets can interrupt them before
 * Linux 6.3, so they have a pool of their own. */
enum slot_user { BY_PACKET, BY_COMMAND };

INLINE struct percpu_credits *credits_of(enum slot_user user)
{
	return user == BY_COMMAND ? map_elem(commands_credits, 0) : map_elem(percpu_credits, 0);
}

INLINE void return_credit(struct percpu_credits *m, enum slot_user user)
{
	if (user == BY_COMMAND)
		give_credit_at_once();
	else
		give_credit(m);
}
