/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPVS's defences against floods (IPVS-SEMANTICS 2.8): drop_packet refuses every am_droprate-th packet that would be
 * scheduled, drop_entry ends connections that are half open. Both act in mode 3 alone: modes 1 and 2 wait for memory
 * to run short, which these tables, allocated beforehand, cannot.
 */
#pragma once
#include "conntrack/entry.h"

enum synflood { SYNFLOOD_ON = 3, DROP_ONE_OF = 32 /* a second ends one half-open connection of so many */,
	       DROP_SLICE = 512 /* elements of `looks` in one go, at most */ };

INLINE bool should_drop_packet(const struct settings *settings)
{
	struct pool *pool = map_elem(pools, 0);
	if (!pool || __sync_fetch_and_add(&pool->drop_left, -1) > 1)
		return false;
	WRITE_ONCE(pool->drop_left, settings->am_droprate);
	return true;
}

/* What drop_entry may end; established connections are safe, however idle. */
INLINE bool is_half_open(u32 state, u32 slot)
{
	if (state == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		return control && !control->controls && !control->assured;
	}
	return state == STATE_SYN_RECV || state == STATE_SYNACK || state == STATE_SCTP_INIT1 || state == STATE_SCTP_INIT;
}

/* Elements of `looks` that may have something. */
INLINE u32 lines_used4(const struct pool *pool)
{
	return (READ_ONCE(pool->fresh[0]) + LOOKS) / LOOKS;
}

INLINE u32 lines_used(const struct pool *pool)
{
	return lines_used4(pool) + (READ_ONCE(pool->fresh[1]) + LOOKS - 1) / LOOKS;
}

/* How many of them to look at this second: one of DROP_ONE_OF, rounded by chance. */
INLINE u32 lines_to_drop(const struct pool *pool)
{
	u32 lines = lines_used(pool);
	return lines / DROP_ONE_OF + (bpf_get_prandom_u32() % DROP_ONE_OF < lines % DROP_ONE_OF);
}
