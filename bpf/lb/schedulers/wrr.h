/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * wrr, weighted round robin (IPVS-SEMANTICS 3.3). Cursor: list version (13 bits) << 51 | index after the last choice, 0
 * for the head (20 bits) << 31 | current weight (31 bits).
 *
 * Each pass over the list lowers the current weight by the greatest common divisor of the weights. Passes in which
 * every usable destination is too light are skipped in one step. The result is the kernel's.
 */
#pragma once
#include "lb/schedulers/fo.h"

enum { WRR_WEIGHT_BITS = 31, WRR_POS_BITS = 20, WRR_VERSION_BITS = 13 };

struct wrr {
	u32 position;
	u32 weight;
};

INLINE u64 wrr_pack(const struct candidates *c, struct wrr at)
{
	return (u64)(c->service->list_version & ((1 << WRR_VERSION_BITS) - 1)) << (WRR_WEIGHT_BITS + WRR_POS_BITS) |
	       (u64)(at.position & ((1 << WRR_POS_BITS) - 1)) << WRR_WEIGHT_BITS | at.weight;
}

INLINE struct wrr wrr_unpack(const struct candidates *c, u64 cursor)
{
	struct wrr at = {.position = cursor >> WRR_WEIGHT_BITS & ((1 << WRR_POS_BITS) - 1),
			 .weight = cursor & 0x7fffffff};
	if (cursor >> (WRR_WEIGHT_BITS + WRR_POS_BITS) == (c->service->list_version & ((1 << WRR_VERSION_BITS) - 1)) ||
	    c->service->edit == LIST_SAME)
		return at;
	at.position = 0;
	if (c->service->edit == LIST_INIT || at.weight > c->service->max_weight || !at.weight)
		at.weight = c->service->max_weight;
	else if (c->service->gcd > 1)
		at.weight = at.weight / c->service->gcd * c->service->gcd + 1;
	return at;
}

/* Return the greatest weight of a usable destination, or 0. */
INLINE u32 greatest_weight(struct candidates *c)
{
	struct candidate it;
	u32 pos = winner_of(c, fo_step);
	return pos != NO_INDEX && at_pos(c, pos, &it) ? it.member->weight : 0;
}

static u32 schedule_wrr(struct candidates *c)
{
	u32 pos = NO_INDEX;
	if (!c->service->max_weight)
		return NO_INDEX;
	for (int attempt = 0; attempt < 3; attempt++) {
		u64 seen = READ_ONCE(*c->cursor);
		struct wrr at = wrr_unpack(c, seen), next;
		if (at.position > c->service->count)
			at.position = 0;
		next = at;
		pos = first_usable(c, at.position, c->service->count, at.weight);
		if (pos == NO_INDEX) {
			u32 gcd = c->service->gcd ?: 1;
			u32 heaviest = greatest_weight(c);
			if (heaviest) {
				next.weight = at.weight > gcd ? at.weight - gcd : c->service->max_weight;
				if (next.weight > heaviest)
					next.weight -= (next.weight - heaviest + gcd - 1) / gcd * gcd;
				pos = first_usable(c, 0, c->service->count, next.weight);
			} else if (at.position &&
				   at.weight <= gcd) { /* the last pass ended where the first one began */
				next.weight = 1;
			} else {
				next.position = 0;
				next.weight = c->service->max_weight;
			}
		}
		if (pos != NO_INDEX)
			next.position = pos + 1;
		if (is_dry() || __sync_val_compare_and_swap(c->cursor, seen, wrr_pack(c, next)) == seen)
			break;
	}
	return pos;
}

SCHEDULER(wrr, 2, INDEXED)
