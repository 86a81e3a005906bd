/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_MAKE_ROOM: end a half-open connection before a new one, because the table fills.
 */
#pragma once
#include "conntrack/half_open.h"
#include "ctx/scratch.h"

INLINE int prog_make_room(struct ctx ctx)
{
	struct scratch *w = scratch_of(ctx.hook);
	if (!w)
		return pass_to_stack(ctx.hook);
	end_oldest_half_open(ticks());
	w->has_room = true;
	return tail_call(ctx, PROG_CONNECT);
}
