/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What a packet does to its connection: state, expiry, and the destination's counts (IPVS-SEMANTICS 4.3 to 4.8, 6.1).
 *
 * A connection's word changes by compare-exchange, and only the winner of the exchange moves the counts, so they always
 * equal what is in the table. The fast path alone stores a later expiry without an exchange: that counts nothing.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/state.h"
#include "ctx/ctx.h"

INLINE u32 *count_of(struct destination *d, u32 state)
{
	if (unlikely(state == STATE_TEMPLATE))
		return &d->persistent;
	return is_active(state) ? &d->active : &d->inactive;
}

/* Bypass connections have no destination, and count nowhere. */
INLINE void count_conn(struct destination *d, u32 state)
{
	if (!d)
		return;
	d = barrier_var(d); /* no address is computed of it before */
	__sync_fetch_and_add(count_of(d, state), 1);
	if (unlikely(d->upper) && d->active + d->inactive >= d->upper)
		d->overloaded = 1;
}

/* Whether it has room again. */
INLINE void note_removed(struct destination *d)
{
	if (likely(!d->overloaded))
		return;
	u64 total = d->active + d->inactive;
	if (d->lower ? total < d->lower : !d->upper || 4 * total < 3 * (u64)d->upper)
		d->overloaded = 0;
}

INLINE void uncount_conn(struct destination *d, u32 state)
{
	if (!d)
		return;
	d = barrier_var(d);
	__sync_fetch_and_add(count_of(d, state), -1);
	note_removed(d);
}

/* A connection of one packet comes and goes (4.10). */
INLINE void count_one_packet(struct destination *d)
{
	if (unlikely(d->upper) && d->active + d->inactive + 1 >= d->upper)
		d->overloaded = 1;
	note_removed(d);
}

INLINE void move_count(struct destination *d, u32 from, u32 to)
{
	if (!d || is_active(from) == is_active(to))
		return;
	d = barrier_var(d);
	__sync_fetch_and_add(is_active(to) ? &d->active : &d->inactive, 1);
	__sync_fetch_and_add(is_active(from) ? &d->active : &d->inactive, -1);
}

/* A connection made under a template proved good: the template is ASSURED (IPVS-SEMANTICS 5.3). */
INLINE void assure(u32 slot)
{
	struct control *mine = control_of(slot);
	struct control *template = mine ? control_of(mine->template) : NULL;
	if (template)
		WRITE_ONCE(template->assured, 1);
}

enum update_result { UPDATED, UPDATE_DYING /* it is being removed */, UPDATE_RACED /* meanwhile; `old` is what it is now */ };

/* What a packet is to a connection, in one number for `update_state_slow`. */
enum { STEP_DIRECTION = 0, STEP_EVENT = 8, STEP_CONTROLLED = 16 };

/* The word after a packet. */
INLINE u64 word_after(u64 old, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u32 seen_from = direction & ~(u32)(old >> (WORD_ANSWERED - 1) & DIRECTION_INPUT_ONLY);
	u32 next = next_state(seen_from, event, word_state(old));
	u32 expiry = now + facts->timeouts[next & (STATES - 1)];
	u64 kept = old & (0xffffULL << WORD_GENERATION | 1ULL << WORD_ANSWERED);
	return kept | (u64)(direction & DIRECTION_OUTPUT) << WORD_ANSWERED | (u64)next << WORD_STATE | expiry;
}

INLINE enum update_result update_state_once(u64 *word, u64 *old_word, u32 slot, bool controlled, u32 direction, u32 event,
			       struct destination *d, const struct facts *facts, u32 now)
{
	u64 old = *old_word;
	if (unlikely(word_dying(old)))
		return UPDATE_DYING;
	u64 new = word_after(old, direction, event, facts, now);
	u32 state = word_state(old), next = word_state(new), expiry = new;
	if (new == old)
		return UPDATED;
	u64 seen = __sync_val_compare_and_swap(word, old, new);
	if (unlikely(seen != old)) {
		*old_word = seen;
		return UPDATE_RACED;
	}
	move_count(d, state, next);
	if (unlikely(controlled) && is_established(next) && state != next)
		assure(slot);
	if ((s32)(expiry - (u32)old) < 0)
		set_expiry_tick(slot, expiry ?: 1);
	return UPDATED;
}

/* `advance` in general. If other CPUs move the connection at the same time: again, at most twice. */
VERIFIED_ONCE int update_state_slow(u64 *word, u32 slot, u32 step, struct destination *d, u32 now)
{
	if (!word)
		return UPDATED;
	u64 old = READ_ONCE(*word);
	u32 direction = step >> STEP_DIRECTION & (DIRECTIONS - 1), event = step >> STEP_EVENT & (EVENTS - 1);
	bool controlled = step >> STEP_CONTROLLED & 1;
	const struct facts *facts = facts_of(get_root());
	enum update_result moved = UPDATE_RACED;
#pragma nounroll
	for (u32 i = 0; i < 3 && moved == UPDATE_RACED; i++)
		moved = update_state_once(word, &old, slot, controlled, direction, event, d, facts, now);
	return moved;
}

/* Whether the connection stays in its state, which is usual, and now lives longer. */
INLINE bool refresh(u64 *word, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u64 old = READ_ONCE(*word), new = word_after(old, direction, event, facts, now);
	if (unlikely(word_dying(old)) || word_state(new) != word_state(old) || (s32)((u32)new - (u32)old) < 0)
		return false;
	return new == old || __sync_val_compare_and_swap(word, old, new) == old;
}

/* Move the connection on by one packet. False if it is being removed. Once a reply was seen, the requests of direct
 * routing and tunnels follow the same table as NAT's. */
INLINE bool update_state(u64 *word, u32 slot, bool controlled, u32 direction, u32 event, struct destination *d,
		    const struct facts *facts, u32 now, enum hook hook)
{
	if (hook == HOOK_XDP && likely(refresh(word, direction, event, facts, now))) /* a call costs there */
		return true;
	u32 step = direction << STEP_DIRECTION | event << STEP_EVENT | (u32)controlled << STEP_CONTROLLED;
	u32 moved = update_state_slow(word, slot, step, d, now);
	return likely(moved != UPDATE_DYING);
}
