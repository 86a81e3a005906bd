/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPVS's protection against SYN floods (IPVS-SEMANTICS 2.8). drop_packet drops every am_droprate-th packet that would
 * be scheduled: none if that is 0, all if it is negative. drop_entry ends half-open connections. Both act in mode 3
 * alone: modes 1 and 2 react to low memory, and the table is allocated beforehand.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table.h"

enum synflood {
	SYNFLOOD_ON = 3,
	DROP_ONE_OF = 32, /* one of so many half-open connections a second */
	DROP_SLICE = 512, /* pieces of LINE_TICKS slots in one run, at most */
};

INLINE bool should_drop_packet(const struct settings *settings)
{
	struct pool *pool = map_elem(pools, 0);
	s32 rate = settings->am_droprate;
	if (is_dry())
		return pool && rate && READ_ONCE(pool->drop_left) <= 1;
	if (!pool || !rate || __sync_fetch_and_add(&pool->drop_left, -1) > 1)
		return false;
	WRITE_ONCE(pool->drop_left, rate);
	return true;
}

/* Whether drop_entry may end it. Established connections are safe, however idle. */
INLINE bool is_half_open(u32 state, u32 slot)
{
	if (state == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		return control && !control->controls && control->assured != ASSURED;
	}
	return state == STATE_SYN_RECV || state == STATE_SYNACK || state == STATE_SCTP_INIT1 ||
	       state == STATE_SCTP_INIT;
}

/* Return the pieces of LINE_TICKS slots. */
INLINE u32 all_pieces(void)
{
	return (all_slots() + LINE_TICKS - 1) / LINE_TICKS;
}

/* Return how many pieces to visit in this second: one of DROP_ONE_OF, the remainder by chance. */
INLINE u32 pieces_to_drop(void)
{
	u32 pieces = all_pieces();
	return pieces / DROP_ONE_OF + (bpf_get_prandom_u32() % DROP_ONE_OF < pieces % DROP_ONE_OF);
}
