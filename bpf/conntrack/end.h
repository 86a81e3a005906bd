/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Remove a connection from the table.
 */
#pragma once
#include "conntrack/insert.h"
#include "conntrack/log.h"
#include "conntrack/update.h"

/* Let the expiry timer end a template that no connection refers to and that was never assured or confirmed. Return
 * whether it is such a template. */
INLINE bool end_unused_template(u32 template)
{
	struct control *control = control_of(template);
	if (!control || control->controls || control->assured)
		return false;
	if (is_dry())
		return true;
	WRITE_ONCE(control->timeout, 0);
	note_expiry(template, ticks());
	return true;
}

/* Drop a connection's reference to its template. */
INLINE void release_template(u32 slot, bool with_template)
{
	struct control *control = control_of(slot);
	if (!control)
		return;
	add_references(control->template, -1);
	if (with_template)
		end_unused_template(control->template);
}

/* EXPIRED: its timeout. KILLED: drop_entry. ORPHAN: its destination was deleted. REPLACED: a new connection takes its
 * tuple; it still counts until that is scheduled. RESTORED: a record has its tuple and another destination. KILLED and
 * ORPHAN also end a template that was never assured, with its last connection. In a table that
 * is half full, so does EXPIRED of one that gives way. */
enum end_reason { END_EXPIRED, END_KILLED, END_ORPHAN, END_REPLACED, END_RESTORED };

/* Whether connections refer to a template. Asked after it was marked as dying, because a CPU that takes a reference
 * counts it first (ref_template). */
INLINE bool is_referenced(u32 slot)
{
	struct control *control = control_of(slot);
	return control && READ_ONCE(control->controls);
}

/* Remove the connection, unless another CPU does. `seen` is the word as last read: it belonged to this tuple if the
 * slot still does. If the slot changes hands later, the word's generation differs. */
INLINE bool end_conn(const union tuple *tuple, bool is_ipv6, const struct found *found, u64 seen,
		     enum end_reason ending)
{
	if (is_dry())
		return !word_dying(seen);
	struct connection copy = *found->connection;
	struct key key = {};
	u64 *word = &found->connection->word;
	u32 slot = found->slot;
	set_key(&key, tuple, is_ipv6);
	if (word_dying(seen) || !match_slot(slot, &key) ||
	    __sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_DYING) != seen)
		return false;
	if (unlikely(word_state(seen) == STATE_TEMPLATE) && is_referenced(slot)) {
		__sync_fetch_and_and(word, ~(1ULL << WORD_DYING));
		return false;
	}
	if (is_logged(ticks()) && word_state(seen) != STATE_TEMPLATE && ending != END_RESTORED)
		log_end(slot, CONN_EXPIRED + ending | word_state(seen) << 8);
	unlink_entry(&key, slot);
	if (ending != END_REPLACED)
		uncount_conn(copy.destination, word_state(seen));
	if (unlikely(copy.flags & CONN_CONTROLLED)) {
		const struct pool *pool = map_elem(pools, 0);
		bool unfinished = ending == END_EXPIRED && is_evictable(seen) && pool &&
				  is_half_full(pool);
		release_template(slot, unfinished || ending == END_KILLED || ending == END_ORPHAN);
	}
	if (unlikely(copy.flags & CONN_CALL))
		forget_call(slot);
	if (unlikely(copy.flags & CONN_SEQUENCED))
		forget_sequence(slot);
	unreserve(slot, ending == END_ORPHAN || ending == END_RESTORED ? BY_COMMAND : BY_PACKET);
	return true;
}
