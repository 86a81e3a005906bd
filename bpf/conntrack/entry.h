/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Accessors of a connection: its state word, and what other maps have for its slot.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

INLINE u64 make_word(u32 state, u32 expiry, u16 generation)
{
	return (u64)generation << WORD_GENERATION | (u64)state << WORD_STATE | expiry;
}

INLINE u32 word_state(u64 word)
{
	return word >> WORD_STATE & (STATES - 1);
}

/* Whether a packet of the server was seen. From then on IPVS's flag NOOUTPUT is off (IPVS-SEMANTICS 4.3). */
INLINE bool word_has_reply(u64 word)
{
	return word >> WORD_SEEN_REPLY & 1;
}

INLINE bool word_dying(u64 word)
{
	return word >> WORD_DYING & 1;
}

/* A connection and its slot. */
struct found {
	struct connection *connection;
	u32 slot;
};

/* Persistence data of a slot. */
INLINE struct control *control_of(u32 slot)
{
	return map_elem(controls, slot);
}

/* Add to the number of connections that refer to a template. */
INLINE void add_references(u32 template, s32 by)
{
	struct control *control = control_of(template);
	if (control && !is_dry())
		__sync_fetch_and_add(&control->controls, by);
}

/* Return the counts of a destination; NULL for NO_INDEX, which bypass connections have. */
INLINE struct conn_counts *conn_counts_of(u32 destination)
{
	struct conn_counts *n = map_elem(conn_counts, destination);
	return n ? barrier_var(n) : NULL; /* keep the compiler from computing addresses earlier */
}

enum { NS_PER_SECOND = 1000000000 };

/* Record when the last reference to a destination went: a deleted one is kept for a time from then on
 * (IPVS-SEMANTICS 1.8). Call it after an atomic operation that has returned a value, because that orders the loads. Two
 * CPUs may drop the last connection and the last template at once: one of them then finds all counts at 0. */
INLINE void note_idle(struct conn_counts *n)
{
	if (!(READ_ONCE(n->active) | READ_ONCE(n->inactive) | READ_ONCE(n->persistent)))
		WRITE_ONCE(n->idle_s, bpf_ktime_get_boot_ns() / NS_PER_SECOND);
}

/* Whether the table has a connection: of a deleted service, if there is no other. */
INLINE bool has_conns(void)
{
	const struct pool *pool = map_elem(pools, 0);
	return pool && READ_ONCE(pool->used);
}

/* Whether a packet may belong to a connection that is still to be copied from a former table. */
INLINE bool may_be_copied(u32 now)
{
	const struct pool *pool = map_elem(pools, 0);
	u32 until = pool ? READ_ONCE(pool->copy_until) : 0;
	return unlikely(until) && (s32)(until - now) > 0;
}

enum { COPY_HOLDS_SYN = 1 }; /* bit 0 of `copy_until`, which Python sets: packets that open a connection wait, too */

/* Whether a packet without a connection must wait until the copy has ended. */
INLINE bool waits_for_copy(u32 now, bool is_syn)
{
	const struct pool *pool = map_elem(pools, 0);
	return unlikely(may_be_copied(now)) && (!is_syn || (pool && READ_ONCE(pool->copy_until) & COPY_HOLDS_SYN));
}

/* --- `expiry_ticks`: ticks for the expiry timer --- */

INLINE u32 *expiry_tick_at(u32 position)
{
	struct expiry_line *line = map_elem(expiry_ticks, position / LINE_TICKS);
	return line ? &line->at[position % LINE_TICKS] : NULL;
}

/* Set a tick unless an earlier one is there. */
VERIFIED_ONCE int note_earlier(u32 position, u32 tick)
{
	u32 *noted = expiry_tick_at(position);
	if (!noted)
		return 0;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) {
		u32 old = READ_ONCE(*noted);
		if ((old && (s32)(tick - old) >= 0) || __sync_val_compare_and_swap(noted, old, tick) == old)
			return 0;
	}
	return 0;
}

/* Let the expiry timer visit a slot at this tick. Many slots share a tick, so all ticks stay in the cache, and most are
 * early enough. */
INLINE void note_expiry(u32 slot, u32 tick)
{
	u32 *noted = expiry_tick_at(slot / TICK_SLOTS), old = noted ? READ_ONCE(*noted) : 0;
	if (!old || (s32)(tick - old) < 0)
		note_earlier(slot / TICK_SLOTS, tick ?: 1);
}
