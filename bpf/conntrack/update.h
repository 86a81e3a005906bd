/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Update a connection by a packet: state, expiry, and the destination's counts (IPVS-SEMANTICS 4.3 to 4.8, 6.1).
 *
 * The state word changes by compare-exchange, and only the winner updates the counts, so they always equal the table.
 * The fast path stores a later expiry tick without an exchange: no count depends on it.
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

/* A bypass connection has no destination. */
INLINE void count_conn(struct destination *d, u32 state)
{
	if (!d)
		return;
	d = barrier_var(d); /* keep the compiler from computing addresses earlier */
	__sync_fetch_and_add(count_of(d, state), 1);
	if (unlikely(d->upper) && d->active + d->inactive >= d->upper)
		d->overloaded = 1;
}

/* Clear the overload flag if the destination is below its threshold again. */
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

/* Count a one-packet connection, which ends at once (4.10). */
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

/* Mark the connection's template as ASSURED (IPVS-SEMANTICS 5.3). */
INLINE void assure(u32 slot)
{
	struct control *mine = control_of(slot);
	struct control *template = mine ? control_of(mine->template) : NULL;
	if (template)
		WRITE_ONCE(template->assured, 1);
}

enum update_result { UPDATED, UPDATE_DYING /* being removed */, UPDATE_RACED /* another CPU changed the word; the new one is in `old_word` */ };

/* Arguments of update_state_slow, packed: BPF functions have at most five. */
enum { STEP_DIRECTION = 0, STEP_EVENT = 8, STEP_CONTROLLED = 16 };

/* Return the state word after a packet. */
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

/* The general case of update_state. If other CPUs change the word meanwhile, retry at most twice. */
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

/* Whether the packet only refreshes the expiry, which is the usual case; if so, do it. */
INLINE bool refresh(u64 *word, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u64 old = READ_ONCE(*word), new = word_after(old, direction, event, facts, now);
	if (unlikely(word_dying(old)) || word_state(new) != word_state(old) || (s32)((u32)new - (u32)old) < 0)
		return false;
	return new == old || __sync_val_compare_and_swap(word, old, new) == old;
}

/* Update state and expiry by a packet. Return false if the connection is being removed. Once a reply was seen, requests
 * of direct routing and tunnels follow the same rows as NAT's. */
INLINE bool update_state(u64 *word, u32 slot, bool controlled, u32 direction, u32 event, struct destination *d,
		    const struct facts *facts, u32 now, enum hook hook)
{
	if (hook == HOOK_XDP && likely(refresh(word, direction, event, facts, now))) /* Inlined at XDP only, where a call would be too slow. */
		return true;
	u32 step = direction << STEP_DIRECTION | event << STEP_EVENT | (u32)controlled << STEP_CONTROLLED;
	u32 moved = update_state_slow(word, slot, step, d, now);
	return likely(moved != UPDATE_DYING);
}
