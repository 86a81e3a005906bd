/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Update a connection by a packet: state, expiry, and the destination's counts (IPVS-SEMANTICS 4.3 to 4.8, 6.1).
 *
 * The state word changes by compare-exchange, and only the winner updates the counts, so they always equal the table.
 * The fast path stores a later expiry tick without an exchange: no count depends on it.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/handshake.h"
#include "conntrack/state.h"
#include "conntrack/table.h"
#include "ctx/ctx.h"
#include "lb/winners.h"
#include "parse/packet.h"

INLINE u32 *count_of(struct conn_counts *n, u32 state)
{
	if (unlikely(state == STATE_TEMPLATE))
		return &n->persistent;
	return is_active(state) ? &n->active : &n->inactive;
}

/* A packet may interrupt a command on this CPU, so the count is atomic. */
INLINE void add_half_open(s32 more)
{
	u64 *count = more ? map_elem(half_open_counts, 0) : NULL;
	if (count)
		__sync_fetch_and_add(count, (s64)more);
}

/* Set the overload flag. The exchange orders it before the load of the leaves in follow_load. */
INLINE void set_overloaded(struct conn_counts *n, u32 value)
{
	__sync_lock_test_and_set(&n->overloaded, value);
}

/* Set it if the destination has reached its threshold. Return whether it was set here. */
INLINE bool note_added(struct conn_counts *n, u32 added)
{
	if (likely(!n->upper) || n->active + n->inactive + added < n->upper || n->overloaded)
		return false;
	set_overloaded(n, 1);
	return true;
}

VERIFIED_ONCE int count_conn(u32 destination, u32 state)
{
	state &= STATES - 1;
	add_half_open(is_half_open_state(state));
	struct conn_counts *n = conn_counts_of(destination);
	if (!n)
		return 0;
	u32 before = __sync_fetch_and_add(count_of(n, state), 1);
	bool is_full = note_added(n, 0);
	follow_load(AFTER(n, before), true, is_full);
	return 0;
}

/* Clear the overload flag if the destination is below its threshold again. Return whether it was cleared here. */
INLINE bool note_removed(struct conn_counts *n)
{
	if (likely(!n->overloaded))
		return false;
	u64 total = n->active + n->inactive;
	if (!(n->lower ? total < n->lower : !n->upper || 4 * total < 3 * (u64)n->upper))
		return false;
	set_overloaded(n, 0);
	return true;
}

VERIFIED_ONCE int uncount_conn(u32 destination, u32 last)
{
	u32 state = last & (STATES - 1);
	if (is_dry())
		return 0;
	add_half_open(-(s32)is_half_open_state(state));
	struct conn_counts *n = conn_counts_of(destination);
	if (!n)
		return 0;
	if (__sync_fetch_and_add(count_of(n, state), -1) == 1)
		note_idle(n);
	bool is_usable = note_removed(n);
	follow_load(n, false, is_usable);
	return 0;
}

/* Count a one-packet connection, which ends at once (4.10). */
VERIFIED_ONCE int count_one_packet(u32 destination)
{
	struct conn_counts *n = conn_counts_of(destination);
	if (!n || is_dry())
		return 0;
	bool was_set = note_added(n, 1); /* another CPU may have seen that, also if it is cleared at once */
	bool was_cleared = note_removed(n);
	if (unlikely(was_set || was_cleared))
		follow_load(n, true, true);
	return 0;
}

VERIFIED_ONCE int move_count(u32 destination, u32 from, u32 to)
{
	add_half_open((s32)is_half_open_state(to) - (s32)is_half_open_state(from));
	struct conn_counts *n = is_active(from) == is_active(to) ? NULL : conn_counts_of(destination);
	if (!n)
		return 0;
	__sync_fetch_and_add(is_active(to) ? &n->active : &n->inactive, 1);
	u32 before = __sync_fetch_and_add(is_active(from) ? &n->active : &n->inactive, -1);
	follow_load(AFTER(n, before), false, false);
	return 0;
}

/* Mark the connection's template as ASSURED (IPVS-SEMANTICS 5.3), or as CONFIRMED. */
INLINE void assure(u32 slot, enum assurance how)
{
	struct control *control = control_of(slot);
	struct control *template = control ? control_of(control->template) : NULL;
	if (template && !is_dry() && (how == ASSURED || !template->assured))
		WRITE_ONCE(template->assured, how);
}

/* Mark the template by the state that a connection under it has reached. */
INLINE void note_confirmed(u32 slot, u32 state)
{
	if (is_established(state))
		assure(slot, ASSURED);
	else if (state == STATE_UDP)
		assure(slot, CONFIRMED);
}

enum update_result {
	UPDATED,
	UPDATE_DYING, /* being removed, or gone */
	UPDATE_RACED, /* another CPU changed the word; the new one is in `old_word` */
};

/* Arguments of update_state_slow, packed: BPF functions have at most five. */
enum { STEP_DIRECTION = 0, STEP_EVENT = 8, STEP_CONTROLLED = 16, STEP_HOOK = 17, STEP_IPV6 = 18, STEP_FOUND_BY = 19 };

/* Which tuple of a packet found its connection: its own, that of a reply of NAT, or its own with the ends swapped. */
enum found_by { BY_TUPLE, BY_SERVER, BY_REVERSE };

/* Whether the slot still has the connection of a packet. If so after its word was read, a later exchange of this word
 * changes no other connection: the slot's next one has another generation. No key, because the stack is short. */
VERIFIED_ONCE int is_still_there(u32 slot, const union tuple *tuple, u32 step, u32 destination)
{
	struct bucket *bucket = bucket_at(slot);
	struct conn_entry4 *conn = entry_in(bucket, slot);
	if (!bucket || !conn || !tuple || conn->connection.destination != destination)
		return false; /* a new connection with this tuple may have another destination, whose counts would change */
	bool is_ipv6 = step >> STEP_IPV6 & 1;
	u32 by = step >> STEP_FOUND_BY & 3;
	u64 rest = is_ipv6 ? rest_of6(&tuple->v6) : rest_of4(&tuple->v4), addresses = addresses_of4(&tuple->v4);
	const u64 *words = addresses_of6(&tuple->v6);
	if (by == BY_SERVER) /* the destination has its saddr */
		return !(is_ipv6 ? difference_of_reply6(bucket, words + 2, rest)
				 : difference_of_reply4(conn, addresses, rest));
	if (by == BY_REVERSE) {
		rest = rest >> 32 << 32 | (u32)(rest << 16) | (rest >> 16 & 0xffff);
		return !(is_ipv6 ? difference_of6(bucket, words + 2, words, rest)
				 : difference_of4(conn, addresses << 32 | addresses >> 32, rest));
	}
	return !(is_ipv6 ? difference_of6(bucket, words, words + 2, rest) : difference_of4(conn, addresses, rest));
}

/* Return the state word after a packet. TC may see a packet for which XDP made the connection, so there only a packet
 * of a later tick confirms it. */
INLINE u64 word_after(u64 old, u32 direction, u32 event, const struct facts *facts, u32 now, enum hook hook)
{
	u32 rows = direction & ~(u32)(old >> (WORD_SEEN_REPLY - 1) & DIRECTION_INPUT_ONLY), state = word_state(old);
	u32 next = next_state(rows, event, state);
	if (hook == HOOK_TC && unlikely(is_unconfirmed(state)) && first_state(next) == state &&
	    now + facts->timeouts[state] == (u32)old)
		next = state;
	u32 expiry = now + facts->timeouts[next & (STATES - 1)];
	u64 kept = old & (0xffffULL << WORD_GENERATION | (u64)WORD_KEPT << WORD_SEEN_REPLY | 1ULL << WORD_JUDGED |
			  1ULL << WORD_ANSWERED);
	kept |= (u64)is_proof(rows, event) << WORD_IN_USE;
	kept &= ~((u64)is_half_open_state(next) << WORD_IN_USE);
	return kept | (u64)(direction & DIRECTION_OUTPUT) << WORD_SEEN_REPLY | (u64)next << WORD_STATE | expiry;
}

VERIFIED_ONCE int update_state_once(u32 slot, u32 step, const union tuple *tuple, u32 destination, u32 now)
{
	struct conn_entry4 *conn = slot ? conn_at(slot) : NULL; /* none with one-packet scheduling */
	if (!conn)
		return UPDATED;
	u64 *word = &conn->connection.word, old = READ_ONCE(*word);
	const struct facts *facts = facts_of(get_root());
	if (unlikely(word_dying(old)))
		return UPDATE_DYING;
	u32 direction = step >> STEP_DIRECTION & (DIRECTIONS - 1), event = step >> STEP_EVENT & (EVENTS - 1);
	bool controlled = step >> STEP_CONTROLLED & 1;
	enum hook hook = step >> STEP_HOOK & 1;
	u64 new = word_after(old, direction, event, facts, now, hook);
	u32 state = word_state(old), next = word_state(new), expiry = new;
	u32 handshake = 0;
	if (new == old)
		return UPDATED;
	/* A wrong expiry is harmless, as in refresh_expiry. A wrong state would break the counts for good. */
	if ((new ^ old) >> WORD_STATE) {
		if (!is_still_there(AFTER((u64)slot, old), tuple, step, destination))
			return UPDATE_DYING;
		handshake = handshake_step(old, next, direction & DIRECTION_OUTPUT, event);
		new |= (u64)(handshake & HANDSHAKE_COMPLETED) << WORD_ANSWERED;
	}
	if (unlikely(__sync_val_compare_and_swap(word, old, new) != old))
		return UPDATE_RACED;
	move_count(destination, state, next);
	if (unlikely(handshake))
		note_handshake(tuple, handshake | (old >> WORD_JUDGED & 1) * HANDSHAKE_JUDGED |
				      (step >> STEP_IPV6 & 1) * HANDSHAKE_IPV6 |
				      ((step >> STEP_FOUND_BY | step >> (STEP_FOUND_BY + 1)) & 1) * HANDSHAKE_BY_SERVER,
			       destination, now);
	if (unlikely(controlled) && state != next)
		note_confirmed(slot, next);
	if ((s32)(expiry - (u32)old) < 0)
		note_expiry(slot, expiry);
	return UPDATED;
}

/* The general case of update_state. While other CPUs change the word, retry at most twice. */
VERIFIED_ONCE int update_state_slow(u32 slot, u32 step, const union tuple *tuple, u32 destination, u32 now)
{
	int moved = UPDATE_RACED;
#pragma nounroll
	for (u32 i = 0; i < 3 && moved == UPDATE_RACED; i++)
		moved = update_state_once(slot, step, tuple, destination, now);
	return moved;
}

/* Whether the packet only refreshes the expiry, which is the usual case; if so, do it. */
INLINE bool refresh(u64 *word, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u64 old = READ_ONCE(*word), new = word_after(old, direction, event, facts, now, HOOK_XDP);
	if (unlikely(word_dying(old)) || (new ^ old) >> WORD_STATE || (s32)((u32)new - (u32)old) < 0)
		return false;
	return new == old || __sync_val_compare_and_swap(word, old, new) == old;
}

/* Return whether update_state would update the connection, and note the state. */
INLINE bool would_update(u64 old, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	if (word_dying(old))
		return false;
	trace_state(word_state(word_after(old, direction, event, facts, now, HOOK_TC)), false);
	return true;
}

/* Update state and expiry by a packet. Return false if the connection is being removed. Once a reply was seen, requests
 * of direct routing and tunnels follow the same rows as NAT's. */
INLINE bool update_state(u64 *word, u32 slot, bool controlled, u32 direction, enum found_by by, const struct packet *p,
			 u32 destination, const struct facts *facts, u32 now, enum hook hook)
{
	if (is_dry())
		return !word || would_update(READ_ONCE(*word), direction, p->event, facts, now); /* as for slot 0 */
	/* Inlined at XDP only, where a call would be too slow. */
	if (hook == HOOK_XDP && likely(refresh(word, direction, p->event, facts, now)))
		return true;
	u32 step = direction << STEP_DIRECTION | (u32)p->event << STEP_EVENT | (u32)controlled << STEP_CONTROLLED |
		   hook << STEP_HOOK | (u32)p->is_ipv6 << STEP_IPV6 | by << STEP_FOUND_BY;
	u32 moved = update_state_slow(slot, step, &p->tuple, destination, now);
	return likely(moved != UPDATE_DYING);
}
