/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * lblc, locality-based least connections (IPVS-SEMANTICS 3.9): connections to an address go where the last one went,
 * until that destination is crowded, quiesced or gone; then as wlc. Thresholds do not matter to what is remembered.
 */
#pragma once
#include "lb/destination.h"
#include "lb/lblc_cache.h"
#include "lb/schedulers/wlc.h"

static u32 schedule_lblc(struct candidates *c)
{
	struct root *root = the_root();
	struct cache_key key;
	key_of_target(&key, c->work);
	u32 now = ticks(), live = READ_ONCE(root->live), before = NOTHING;
	struct cached *entry = remembered(&key, c->work, now, root->settings.lblc_expiration);
	if (entry) {
		before = READ_ONCE(entry->members[0]);
		struct destination *d = LOOKUP(destinations, before);
		if (d && destination_flags(d, live) & DESTINATION_AVAILABLE) {
			s32 weight = destination_weight(d, live);
			u32 place = weight > 0 && !crowded(c, d, weight) ? place_of(c, before) : NOBODY;
			if (place != NOBODY)
				return place;
		}
	}
	u32 place = schedule_wlc(c);
	u32 chosen = place != NOBODY ? destination_at(c, place) : NOTHING;
	if (chosen == NOTHING)
		return NOBODY;
	if (!entry) {
		remember(&key, c, now, chosen);
	} else if (chosen != before && __sync_val_compare_and_swap(&entry->members[0], before, chosen) == before) {
		hold(chosen, 1);
		hold(before, -1);
	}
	return place;
}

SCHEDULER(lblc, SCHED_LBLC)
