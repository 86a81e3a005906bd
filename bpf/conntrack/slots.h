/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Slots: what a connection or a template has by a number, IPv4's first, then IPv6's. Those that were given back are used
 * again, those of a bundle one after the other, so that connections made in turn lie side by side. Both families share the
 * capacity, of which each CPU keeps some credits, as it does of free slots, so that CPUs seldom meet.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table4.h"

enum { CREDITS = BUNDLE, /* that a CPU takes or gives back at once */
       AMPLE = 1024 }; /* while so many are left; else one by one, so that the last is found wherever it is */

INLINE bool is_ample(const struct pool *pool)
{
	return READ_ONCE(pool->used) + AMPLE <= pool->capacity;
}

/* Room for one more connection, out of the pool's capacity. */
INLINE bool take_credit(struct magazine *m)
{
	if (likely(m->credits)) {
		m->credits -= 1;
		return true;
	}
	struct pool *pool = LOOKUP(pools, 0);
	if (!pool)
		return false;
	if (likely(is_ample(pool))) {
		__sync_fetch_and_add(&pool->used, CREDITS);
		m->credits = CREDITS - 1;
		return true;
	}
	if (__sync_fetch_and_add(&pool->used, 1) < pool->capacity)
		return true;
	__sync_fetch_and_add(&pool->used, -1);
	return false;
}

INLINE void give_credit_at_once(void)
{
	struct pool *pool = LOOKUP(pools, 0);
	if (pool)
		__sync_fetch_and_add(&pool->used, -1);
}

INLINE void give_credit(struct magazine *m)
{
	struct pool *pool = LOOKUP(pools, 0);
	if (!pool)
		return;
	if (unlikely(!is_ample(pool))) {
		__sync_fetch_and_add(&pool->used, -1);
		return;
	}
	m->credits += 1;
	if (m->credits < MAGAZINE)
		return;
	m->credits -= CREDITS;
	__sync_fetch_and_add(&pool->used, -CREDITS);
}

/* Slots for a CPU that has none; false: there are none. */
VERIFIED_ONCE int fetch_slots(struct free_slots *own, u32 six)
{
	struct bundle bundle;
	struct pool *pool = LOOKUP(pools, 0);
	if (!own || !pool)
		return false;
	u32 first = 0, total = six ? slots6 : slots4, base = six ? first_slot6 : 1;
	long none;
	if (six) {
		none = bpf_map_pop_elem(&free_slots6, &bundle);
		APART(none, 6);
	} else {
		none = bpf_map_pop_elem(&free_slots4, &bundle);
		APART(none, 4);
	}
	if (none) {
		u32 *fresh = &pool->fresh[six & 1];
		if (READ_ONCE(*fresh) >= total)
			return false;
		first = __sync_fetch_and_add(fresh, BUNDLE);
		if (first >= total) {
			__sync_fetch_and_add(fresh, -BUNDLE);
			return false;
		}
	}
	for (u32 i = 0; i < BUNDLE; i++)
		own->slots[i] = none ? base + first + BUNDLE - 1 - i : bundle.slots[i];
	own->count = BUNDLE;
	return true;
}

/* 0: none. */
INLINE u32 take_slot(struct magazine *m, bool six)
{
	struct free_slots *own = &m->free[six];
	if (unlikely(!own->count) && !fetch_slots(own, six))
		return 0;
	own->count -= 1;
	return own->slots[own->count % MAGAZINE];
}

INLINE void give_slot(struct magazine *m, bool six, u32 slot)
{
	struct free_slots *own = &m->free[six];
	if (unlikely(own->count >= MAGAZINE)) {
		long error;
		if (six) {
			error = bpf_map_push_elem(&free_slots6, &own->slots[BUNDLE], 0);
			APART(error, 6);
		} else {
			error = bpf_map_push_elem(&free_slots4, &own->slots[BUNDLE], 0);
			APART(error, 4);
		}
		if (error)
			return; /* not in memory that was set aside */
		own->count = BUNDLE;
	}
	own->slots[own->count % MAGAZINE] = slot;
	own->count += 1;
}

/* Slots that were ever used are in two ranges: where the one ends that `at` is in, which is moved to the next first. */
INLINE u32 end_of_range(const struct pool *pool, u32 *at)
{
	u32 fresh4 = READ_ONCE(pool->fresh[0]), fresh6 = READ_ONCE(pool->fresh[1]);
	u32 end4 = 1 + (fresh4 < slots4 ? fresh4 : slots4);
	if (*at < end4)
		return end4;
	if (*at < first_slot6)
		*at = first_slot6;
	return first_slot6 + (fresh6 < slots6 ? fresh6 : slots6);
}

/* Whether any slot from `at` on was ever used. */
INLINE bool any_from(const struct pool *pool, u32 at)
{
	u32 end = end_of_range(pool, &at);
	return at < end;
}

/* --- putting in and taking out --- */

enum made { MADE, MADE_FULL, MADE_EXISTS };

/* Make room for a tuple, which is not found yet: a slot, and the generation of its word. What follows is publish or
 * give_up. */
INLINE enum made reserve(const union tuple *tuple, bool six, struct found *made)
{
	struct magazine *m = LOOKUP(magazines, 0);
	if (!m || !take_credit(m))
		return MADE_FULL;
	made->slot = take_slot(m, six);
	if (unlikely(!made->slot)) {
		give_credit(m);
		return MADE_FULL;
	}
	made->connection->word = (u64)m->generation++ << WORD_GENERATION;
	if (six) {
		struct registered *registered = LOOKUP(registry6, made->slot - first_slot6);
		if (registered)
			registered->tuple = tuple->v6;
	}
	return MADE;
}

/* The place is nobody's any more. */
INLINE void empty_place(u32 slot)
{
	struct place4 *place = LOOKUP(connections4, slot);
	if (!place)
		return;
	u64 *words = (void *)&OPAQUE(place)->tuple;
	WRITE_ONCE(words[1], 0);
	WRITE_ONCE(words[0], 0);
}

/* `apart`: by a program that packets may interrupt (end_orphans before Linux 6.3), which has a magazine of its own. */
VERIFIED_ONCE int give_up(u32 six, u32 slot, u32 apart)
{
	struct magazine *m = apart ? LOOKUP(orphans_magazine, 0) : LOOKUP(magazines, 0);
	look_at(slot, 0);
	if (!six)
		empty_place(slot);
	if (!m)
		return 0;
	give_slot(m, six & 1, slot);
	if (apart)
		give_credit_at_once();
	else
		give_credit(m);
	return 0;
}

INLINE enum made publish4(const struct tuple4 *tuple, const struct found *made)
{
	struct key4 key = key4_of(tuple);
	struct place4 *place = LOOKUP(connections4, made->slot);
	if (!place)
		return MADE_FULL;
	place->connection = *made->connection;
	barrier();
	place->tuple = *tuple; /* without which the expirer takes no place for filled */
	u32 at = take_entry(key.addresses, key.rest, made->slot, SIDE_REQUEST);
	if (likely(at != NO_ENTRY) && likely(publish_request(key.addresses, key.rest, made->slot, at)))
		return MADE;
	made->connection->word = __sync_fetch_and_or(&place->connection.word, 1ULL << WORD_DYING);
	give_up(false, made->slot, false);
	return at == NO_ENTRY ? MADE_FULL : MADE_EXISTS;
}

/* Put in what was reserved: from now on packets find it. If another CPU was faster, or memory is short, nothing is
 * reserved any more; the connection then has the word that is left. */
INLINE enum made publish(const union tuple *tuple, bool six, const struct found *made)
{
	if (!six)
		return publish4(&tuple->v4, made);
	struct connection6 value = {.connection = *made->connection, .slot = made->slot};
	long error = bpf_map_update_elem(&connections6, &tuple->v6, &value, BPF_NOEXIST);
	if (likely(!error))
		return MADE;
	give_up(six, made->slot, false);
	return error == -17 /* EEXIST */ ? MADE_EXISTS : MADE_FULL;
}

/* Take out what nobody else ends, its word is dying, and let its slot go. */
INLINE void take_out(const union tuple *tuple, bool six, u32 slot, bool apart)
{
	if (six) {
		bpf_map_delete_elem(&connections6, &tuple->v6);
	} else {
		struct key4 key = key4_of(&tuple->v4);
		hide(key.addresses, key.rest, slot, SIDE_REQUEST);
	}
	give_up(six, slot, apart);
}
