/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_END_HALF_OPEN: end a half-open connection before a new one, because the table fills.
 *
 * Reads service, flow and template. Leaves flow for PROG_CONNECT.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/half_open.h"
#include "conntrack/lookup.h"
#include "ctx/scratch.h"

enum half_open_result { HALF_OPEN_GONE, HALF_OPEN_STAYS, HALF_OPEN_ENDED };

/* End the template of an ended connection, if no other one refers to it and it was never assured. A flood makes
 * templates faster than the expiry timer ends them. */
VERIFIED_ONCE int end_its_template(u32 slot)
{
	struct slot_conn entry;
	struct control *control = control_of(slot);
	if (!control || control->controls || control->assured || !is_complete(slot) || !conn_of_slot(slot, &entry))
		return false;
	u64 seen = READ_ONCE(entry.found.connection->word);
	return word_state(seen) == STATE_TEMPLATE &&
	       end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_KILLED);
}

/* End the connection if it is still half-open, unless its service has a reserved share. Return whether it ended or had
 * to stay. Its template ends with it, but for the one that the new connection uses. */
VERIFIED_ONCE int end_half_open(u32 slot, u32 generation, u32 used_template)
{
	struct slot_conn entry;
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!is_complete(slot) || !conn_of_slot(slot, &entry))
		return HALF_OPEN_GONE;
	struct connection *c = entry.found.connection;
	u64 seen = READ_ONCE(c->word);
	bool is_template = word_state(seen) == STATE_TEMPLATE; /* of one-packet scheduling */
	if (seen >> WORD_GENERATION != generation || word_dying(seen) ||
	    !(is_template || is_evictable(seen)))
		return HALF_OPEN_GONE;
	struct destination *d = map_elem(destinations, c->destination);
	if (!d && c->method != METHOD_BYPASS)
		return HALF_OPEN_GONE;
	if (d && queue && has_reserved_share(d->service, queue))
		return HALF_OPEN_STAYS;
	if (is_template) {
		if (slot == used_template || !end_its_template(slot))
			return HALF_OPEN_GONE;
		count(REASON_HALF_OPEN_ENDED);
		return HALF_OPEN_ENDED;
	}
	struct control *control = c->flags & CONN_CONTROLLED ? control_of(slot) : NULL;
	u32 template = control ? control->template : NO_TEMPLATE;
	if (!end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_KILLED))
		return HALF_OPEN_GONE;
	if (template != NO_TEMPLATE && template != used_template)
		end_its_template(template);
	count(REASON_HALF_OPEN_ENDED);
	return HALF_OPEN_ENDED;
}

/* Return the time that the packet takes, as in cost_of_syn. */
INLINE u32 cost_of(const struct scratch *w)
{
	return w->flow.by_hash ? 1 : cost_of_syn(w->service.scheduler, w->service.count);
}

/* End the oldest half-open connections, for a new one. One with a reserved share becomes the newest instead. Two,
 * because while all had a reserved share, none was ended. */
INLINE void end_oldest_half_open(const struct scratch *w)
{
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!queue)
		return;
	u32 ended = 0;
#pragma nounroll
	for (u32 i = 0; i < HALF_OPEN_STEPS && must_end_half_open(); i++) {
		struct half_open oldest = next_oldest(queue);
		if (!oldest.slot)
			continue;
		switch (end_half_open(oldest.slot, oldest.generation, w->template.slot)) {
		case HALF_OPEN_ENDED:
			note_ended(queue, ticks(), cost_of(w));
			if (++ended == HALF_OPEN_ENDS)
				return;
			break;
		case HALF_OPEN_STAYS:
			append_half_open(oldest.slot, oldest.generation, BY_PACKET);
			queue->stays += 1;
			break;
		}
	}
}

INLINE int prog_end_half_open(struct ctx ctx, struct scratch *w, struct root *root)
{
	w->flow.half_open_ended = true;
	if (is_dry())
		return tail_call(ctx, PROG_CONNECT);
	end_oldest_half_open(w);
	return tail_call(ctx, PROG_CONNECT);
}
