/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * lblcr, locality-based least connections with replication (IPVS-SEMANTICS 3.10): as lblc, with a set of destinations
 * for each address. When the least loaded of them is crowded another joins, as wlc chooses; when the set has not
 * changed for lblcr_expiration seconds the most loaded leaves.
 *
 * A set lies oldest member first, so that joining moves nobody; it is looked at newest first. Who changes a set keeps
 * others from changing it; these then leave it alone. A part that got empty waits there for the next members.
 */
#pragma once
#include "lb/destination.h"
#include "lb/lblc_cache.h"
#include "lb/schedulers/wlc.h"

struct set_walk {
	struct candidates *c;
	struct cache_key key;
	u32 live;
	u32 count;
	u32 wanted; /* destination */
	u32 place; /* in the set */
};

/* The set's member at a place, counted from the oldest; NULL if it is gone meanwhile. */
INLINE u32 *set_member(struct set_walk *s, u32 place)
{
	s->key.part = place / CACHE_MEMBERS;
	struct cached *part = bpf_map_lookup_elem(&cache, &s->key);
	return part ? &part->members[place % CACHE_MEMBERS] : NULL;
}

INLINE struct destination *set_destination(struct set_walk *s, u32 place)
{
	u32 *member = set_member(s, place);
	return member ? LOOKUP(destinations, *member) : NULL;
}

static int set_least_step(u32 index, struct set_walk *s)
{
	struct candidates *c = s->c;
	u32 place = s->count - 1 - index;
	struct destination *d = set_destination(s, place);
	if (!d)
		return 1;
	s32 weight = destination_weight(d, s->live), load = overhead(d);
	if (weight <= 0 || d->overloaded || !(destination_flags(d, s->live) & DESTINATION_AVAILABLE))
		return 0;
	if (c->work->best == NOBODY || (s64)(s32)c->work->best_load * weight > (s64)load * c->work->best_weight) {
		c->work->best = place;
		c->work->best_load = load;
		c->work->best_weight = weight;
	}
	return 0;
}

static int set_most_step(u32 index, struct set_walk *s)
{
	struct candidates *c = s->c;
	u32 place = s->count - 1 - index;
	struct destination *d = set_destination(s, place);
	if (!d)
		return 1;
	s32 weight = destination_weight(d, s->live), load = overhead(d);
	if (weight <= 0)
		return 0;
	if (c->work->best == NOBODY || (s64)(s32)c->work->best_load * weight < (s64)load * c->work->best_weight) {
		c->work->best = place;
		c->work->best_load = load;
		c->work->best_weight = weight;
	}
	return 0;
}

static int set_find_step(u32 index, struct set_walk *s)
{
	u32 *member = set_member(s, index);
	if (!member)
		return 1;
	if (*member != s->wanted)
		return 0;
	s->place = index;
	return 1;
}

static int set_shift_step(u32 index, struct set_walk *s)
{
	u32 *next = set_member(s, s->place + index + 1);
	u32 value = next ? *next : NOTHING;
	u32 *member = set_member(s, s->place + index);
	if (member)
		WRITE_ONCE(*member, value);
	return !next || !member;
}

/* The most loaded member leaves the set; those that joined later move up. */
INLINE void set_shrink(struct set_walk *s, struct cached *entry, u32 now)
{
	s->c->work->best = NOBODY;
	bpf_loop(s->count, set_most_step, s, 0);
	s->place = s->c->work->best;
	u32 *leaving = s->place != NOBODY ? set_member(s, s->place) : NULL;
	if (!leaving)
		return;
	u32 destination = *leaving, last = s->count - 1;
	if (last > s->place)
		bpf_loop(last - s->place, set_shift_step, s, 0);
	u32 *vacant = set_member(s, last);
	if (vacant)
		WRITE_ONCE(*vacant, NOTHING);
	hold(destination, -1);
	entry->count = last;
	entry->changed = now;
}

/* A destination joins the set, unless it is in it. */
INLINE void set_join(struct set_walk *s, struct cached *entry, u32 now, u32 destination)
{
	s->wanted = destination;
	s->count = entry->count;
	s->place = NOBODY;
	bpf_loop(s->count, set_find_step, s, 0);
	if (s->place != NOBODY)
		return;
	u32 *vacant = set_member(s, s->count);
	if (vacant) {
		hold(destination, 1);
		hold(__sync_lock_test_and_set(vacant, destination), -1);
	} else if (!put_part(&s->key, s->c->work->service, now, destination)) {
		return;
	}
	entry->count = s->count + 1;
	entry->changed = now;
}

INLINE bool set_is_old(const struct cached *entry, u32 now, u32 expiration_s)
{
	return entry->count > 1 && now - entry->changed > (u64)expiration_s * minute / 60;
}

static u32 schedule_lblcr(struct candidates *c)
{
	struct root *root = the_root();
	u32 now = ticks(), expiration_s = root->settings.lblcr_expiration;
	struct set_walk s = {.c = c, .live = READ_ONCE(root->live), .place = NOBODY};
	key_of_target(&s.key, c->work);
	struct cached *entry = remembered(&s.key, c->work, now, expiration_s);
	if (entry) {
		s.count = entry->count;
		c->work->best = NOBODY;
		bpf_loop(s.count, set_least_step, &s, 0);
		u32 *least = c->work->best != NOBODY ? set_member(&s, c->work->best) : NULL;
		u32 best = least ? *least : NOTHING;
		if (set_is_old(entry, now, expiration_s) && began_change(entry)) {
			if (set_is_old(entry, now, expiration_s)) {
				s.count = entry->count;
				set_shrink(&s, entry, now);
			}
			ended_change(entry);
		}
		struct destination *d = best != NOTHING ? LOOKUP(destinations, best) : NULL;
		u32 place = d && !crowded(c, d, destination_weight(d, s.live)) ? place_of(c, best) : NOBODY;
		if (place != NOBODY)
			return place;
	}
	u32 place = schedule_wlc(c);
	u32 chosen = place != NOBODY ? destination_at(c, place) : NOTHING;
	if (chosen == NOTHING)
		return NOBODY;
	if (!entry) {
		s.key.part = 0;
		remember(&s.key, c, now, chosen);
	} else if (began_change(entry)) {
		set_join(&s, entry, now, chosen);
		ended_change(entry);
	}
	return place;
}

SCHEDULER(lblcr, SCHED_LBLCR)
