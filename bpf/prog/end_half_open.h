/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_END_HALF_OPEN: end a half-open connection before a new one, because the table fills.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/half_open.h"
#include "conntrack/lookup.h"
#include "ctx/scratch.h"

enum { HALF_OPEN_STEPS = 8 }; /* connections that a new one visits, at most */

enum half_open_fate { HALF_OPEN_GONE, HALF_OPEN_STAYS, HALF_OPEN_ENDED };

/* End the connection if it is still half-open, unless its service has a reserved share. Return whether it ended or had
 * to stay. */
VERIFIED_ONCE int end_half_open(u32 slot, u32 generation, u32 round)
{
	struct slot_conn held;
	if (!is_complete(slot) || !conn_of_slot(slot, &held))
		return HALF_OPEN_GONE;
	struct connection *c = held.found.connection;
	u64 seen = READ_ONCE(c->word);
	if (seen >> WORD_GENERATION != generation || word_dying(seen) || !is_half_open_state(word_state(seen)))
		return HALF_OPEN_GONE;
	struct destination *d = map_elem(destinations, c->destination);
	if (!d && c->method != METHOD_BYPASS)
		return HALF_OPEN_GONE;
	if (d && has_reserved_share(d->service, round))
		return HALF_OPEN_STAYS;
	if (!end_conn(&held.tuple, held.is_ipv6, &held.found, seen, END_KILLED))
		return HALF_OPEN_GONE;
	count(REASON_HALF_OPEN_ENDED);
	return HALF_OPEN_ENDED;
}

/* End the oldest half-open connection, for a new one. One with a reserved share becomes the newest instead. */
INLINE void end_oldest_half_open(void)
{
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!queue)
		return;
#pragma nounroll
	for (u32 i = 0; i < HALF_OPEN_STEPS && queue->first != queue->end; i++) {
		struct half_open *element = ring_entry(queue->first);
		if (!element)
			return;
		struct half_open oldest = *element;
		queue->first += 1;
		switch (end_half_open(oldest.slot, oldest.generation, round_of(queue))) {
		case HALF_OPEN_ENDED:
			return;
		case HALF_OPEN_STAYS:
			append_half_open(queue, &oldest);
			break;
		}
	}
}

INLINE int prog_end_half_open(struct ctx ctx)
{
	struct scratch *w = scratch_of(ctx.hook);
	if (!w)
		return pass_to_stack(ctx.hook);
	end_oldest_half_open();
	w->half_open_ended = true;
	return tail_call(ctx, PROG_CONNECT);
}
