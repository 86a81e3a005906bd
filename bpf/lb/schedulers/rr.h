/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * rr, round robin (IPVS-SEMANTICS 3.2). Cursor: list version (16 bits) << 32 | index after the last choice, 0 for the
 * head of the list.
 */
#pragma once
#include "lb/schedule.h"

INLINE u32 rr_position(const struct candidates *c, u64 cursor)
{
	u32 position = cursor;
	if ((u16)(cursor >> 32) == (u16)c->service->list_version)
		return position;
	switch (c->service->edit) {
	case LIST_INIT:
		return 0;
	case LIST_ADD: /* at the head: the others move back */
		return position ? position + 1 : 0;
	case LIST_DELETE: /* the mark itself moves towards the head */
		return position > c->service->edit_position ? position - 1 : position;
	}
	return position;
}

static u32 schedule_rr(struct candidates *c)
{
	u32 pos = NO_INDEX;
	for (int attempt = 0; attempt < 3; attempt++) {
		u64 seen = READ_ONCE(*c->cursor);
		u32 position = rr_position(c, seen);
		if (position > c->service->count)
			position = 0;
		pos = first_usable(c, position, c->service->count, 1);
		if (pos == NO_INDEX)
			pos = first_usable(c, 0, position, 1);
		if (pos == NO_INDEX)
			return NO_INDEX;
		u64 next = (u64)(u16)c->service->list_version << 32 | (pos + 1);
		if (is_dry() || __sync_val_compare_and_swap(c->cursor, seen, next) == seen)
			break;
	}
	return pos;
}

SCHEDULER(rr, 1, INDEXED)
