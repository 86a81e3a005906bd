/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Slots: what a connection or a template has by a number. Of IPv4 it is its place in the table, of IPv6 one of a pool; both
 * families share the capacity, of which each CPU keeps some credits, so that CPUs seldom meet.
 */
#pragma once
#include "table.h"

/* NAT over IPv6 has its word where answers find it by the slot alone. */
INLINE u64 *word_of6(u32 slot)
{
	return LOOKUP(words6, slot - first_slot6);
}

/* What persistence keeps of a slot. */
INLINE struct control *control_of(u32 slot)
{
	if (slot >= first_slot6)
		return LOOKUP(controls6, slot - first_slot6);
	struct place4 *place = LOOKUP(connections4, slot);
	return place ? &OPAQUE(place)->control : NULL; /* no address is computed of NULL */
}

enum { CREDITS = MAGAZINE / 2, /* that a CPU takes or gives back at once */
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

/* Of IPv6; 0: none. */
INLINE u32 take_slot6(struct magazine *m)
{
	if (!m->count) {
		for (u32 i = 0; i < MAGAZINE / 2; i++) {
			u32 slot;
			if (bpf_map_pop_elem(&free_slots6, &slot))
				break;
			m->slots[i] = slot;
			m->count = i + 1;
		}
	}
	if (m->count) {
		m->count -= 1;
		return m->slots[m->count & (MAGAZINE - 1)];
	}
	struct pool *pool = LOOKUP(pools, 0);
	if (!pool || READ_ONCE(pool->fresh) >= slots6)
		return 0;
	u32 slot = __sync_fetch_and_add(&pool->fresh, 1);
	if (slot < slots6)
		return first_slot6 + slot;
	__sync_fetch_and_add(&pool->fresh, -1);
	return 0;
}

INLINE void give_slot6(struct magazine *m, u32 slot)
{
	if (m->count < MAGAZINE) {
		m->slots[m->count & (MAGAZINE - 1)] = slot;
		m->count += 1;
	} else {
		bpf_map_push_elem(&free_slots6, &slot, 0);
	}
}

INLINE void look_at(u32 slot, u32 tick)
{
	struct looks *line = LOOKUP(looks, slot / LOOKS);
	if (line)
		WRITE_ONCE(line->at[slot % LOOKS], tick);
}

/* --- putting in and taking out --- */

enum made { MADE, MADE_FULL, MADE_EXISTS };

/* Make room for a tuple, which is not found yet: `c` gets its slot and the generation of its word. What follows is
 * publish or give_up. */
INLINE enum made reserve(const union tuple *tuple, bool six, struct connection *c)
{
	struct magazine *m = LOOKUP(magazines, 0);
	if (!m || !take_credit(m))
		return MADE_FULL;
	c->word = (u64)m->generation++ << WORD_GENERATION;
	if (six) {
		c->slot = take_slot6(m);
		struct registered *registered = LOOKUP(registry6, c->slot - first_slot6);
		if (c->slot && registered) {
			registered->tuple = tuple->v6;
			return MADE;
		}
	} else {
		struct key4 key = key4_of(&tuple->v4);
		c->slot = take_place(key.addresses, key.rest);
		if (likely(c->slot != NO_PLACE && c->slot != STANDS_ALREADY))
			return MADE;
	}
	give_credit(m);
	return c->slot == STANDS_ALREADY ? MADE_EXISTS : MADE_FULL;
}

INLINE void give_up(bool six, u32 slot)
{
	struct magazine *m = LOOKUP(magazines, 0);
	struct place4 *place = six ? NULL : LOOKUP(connections4, slot);
	look_at(slot, 0);
	if (place)
		free_place(place);
	if (six && m)
		give_slot6(m, slot);
	if (m)
		give_credit(m);
}

/* Put in what was reserved: from now on packets find it. If another CPU was faster, or of IPv6 memory is short, nothing
 * is reserved any more; `c` then has the word that is left. */
INLINE enum made publish(const union tuple *tuple, bool six, struct connection *c, const struct control *control)
{
	struct control *kept = control_of(c->slot);
	if (kept)
		*kept = *control;
	if (six) {
		long error = bpf_map_update_elem(&connections6, &tuple->v6, c, BPF_NOEXIST);
		if (likely(!error))
			return MADE;
		give_up(six, c->slot);
		return error == -17 /* EEXIST */ ? MADE_EXISTS : MADE_FULL;
	}
	struct key4 key = key4_of(&tuple->v4);
	struct place4 *place = LOOKUP(connections4, c->slot);
	if (!place)
		return MADE_FULL;
	place->connection = *c;
	barrier();
	place->tuple = tuple->v4; /* without which the expirer takes no place for filled */
	if (likely(publish_place(key.addresses, key.rest, c->slot)))
		return MADE;
	c->word = __sync_fetch_and_or(&place->connection.word, 1ULL << WORD_DYING);
	hide_place(key.addresses, key.rest, c->slot);
	give_up(false, c->slot);
	return MADE_EXISTS;
}

/* Take out what nobody else ends, its word is dying, and let its slot go. */
INLINE void take_out(const union tuple *tuple, bool six, u32 slot)
{
	struct magazine *m = LOOKUP(magazines, 0);
	if (six) {
		bpf_map_delete_elem(&connections6, &tuple->v6);
		look_at(slot, 0);
		if (m)
			give_slot6(m, slot);
	} else {
		struct key4 key = key4_of(&tuple->v4);
		struct place4 *place = LOOKUP(connections4, slot);
		hide_place(key.addresses, key.rest, slot);
		look_at(slot, 0);
		if (place)
			free_place(place);
	}
	if (m)
		give_credit(m);
}
