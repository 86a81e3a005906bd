/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * lblc, locality-based least connections (IPVS-SEMANTICS 3.9). Connections to an address go to the destination of the
 * last one, until that is overloaded, quiesced or deleted; then wlc chooses. Thresholds do not apply to the cached
 * destination.
 */
#pragma once
#include "lb/destination.h"
#include "lb/lblc_cache.h"
#include "lb/schedulers/wlc.h"

static u32 schedule_lblc(struct candidates *c)
{
	struct root *root = get_root();
	struct cache_key key;
	cache_key_of(&key, c->w);
	u32 now = ticks(), live = READ_ONCE(root->live), before = NOTHING;
	struct cached *entry = cache_find(&key, c->w, now, root->settings.lblc_expiration);
	if (entry) {
		before = READ_ONCE(entry->members[0]);
		struct destination *d = map_elem(destinations, before);
		if (d && destination_flags(d, live) & DESTINATION_AVAILABLE) {
			s32 weight = destination_weight(d, live);
			u32 pos = weight > 0 && !is_overloaded(c, before, weight) ? pos_of(c, before) : NO_INDEX;
			if (pos != NO_INDEX)
				return pos;
		}
	}
	u32 pos = schedule_wlc(c);
	u32 chosen = pos != NO_INDEX ? destination_at(c, pos) : NOTHING;
	if (chosen == NOTHING)
		return NO_INDEX;
	if (!entry) {
		cache_add(&key, c, now, chosen);
	} else if (!is_dry() && chosen != before && __sync_val_compare_and_swap(&entry->members[0], before, chosen) == before) {
		ref_destination(chosen, 1);
		ref_destination(before, -1);
	}
	return pos;
}

SCHEDULER(lblc, 12, INDEXED)
