/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * lblcr, locality-based least connections with replication (IPVS-SEMANTICS 3.10): like lblc, with a set of destinations
 * for each address. If the least loaded member is overloaded, wlc chooses another one to join. If the set has not
 * changed for lblcr_expiration seconds, the most loaded member leaves.
 *
 * The set is stored oldest member first, so a new one is appended; searches start at the newest. A CPU that changes a
 * set locks it; others then skip their change. Empty parts stay for later members.
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
	u32 pos; /* index in the set */
};

/* Return the member at an index, counted from the oldest; NULL if it is gone. */
INLINE u32 *set_member(struct set_walk *s, u32 pos)
{
	s->key.part = pos / CACHE_MEMBERS;
	struct cached *part = bpf_map_lookup_elem(&cache, &s->key);
	return part ? &part->members[pos % CACHE_MEMBERS] : NULL;
}

/* Load the destination of a member, without its place in the list. */
INLINE bool set_at(struct set_walk *s, u32 pos, struct candidate *found)
{
	u32 *member = set_member(s, pos), destination = member ? *member : NOTHING;
	found->destination = map_elem(destinations, destination);
	found->counts = conn_counts_of(destination);
	return found->destination && found->counts;
}

static int set_least_loaded_step(u32 index, struct set_walk *s)
{
	struct candidates *c = s->c;
	u32 pos = s->count - 1 - index;
	struct candidate it;
	if (!set_at(s, pos, &it))
		return 1;
	s32 weight = destination_weight(it.destination, s->live), load = overhead(it.counts);
	if (weight <= 0 || it.counts->overloaded || !(destination_flags(it.destination, s->live) & DESTINATION_AVAILABLE))
		return 0;
	compare_load(c->loop, pos, load, weight, false);
	return 0;
}

static int set_most_loaded_step(u32 index, struct set_walk *s)
{
	struct candidates *c = s->c;
	u32 pos = s->count - 1 - index;
	struct candidate it;
	if (!set_at(s, pos, &it))
		return 1;
	s32 weight = destination_weight(it.destination, s->live), load = overhead(it.counts);
	if (weight <= 0)
		return 0;
	compare_load(c->loop, pos, load, weight, true);
	return 0;
}

static int set_find_step(u32 index, struct set_walk *s)
{
	u32 *member = set_member(s, index);
	if (!member)
		return 1;
	if (*member != s->wanted)
		return 0;
	s->pos = index;
	return 1;
}

static int set_shift_step(u32 index, struct set_walk *s)
{
	u32 *next = set_member(s, s->pos + index + 1);
	u32 value = next ? *next : NOTHING;
	u32 *member = set_member(s, s->pos + index);
	if (member)
		WRITE_ONCE(*member, value);
	return !next || !member;
}

/* Remove the most loaded member, and move the later ones up. */
INLINE void set_shrink(struct set_walk *s, struct cached *entry, u32 now)
{
	s->c->loop->best = NO_INDEX;
	bpf_loop(s->count, set_most_loaded_step, s, 0);
	s->pos = s->c->loop->best;
	u32 *old_destination = s->pos != NO_INDEX ? set_member(s, s->pos) : NULL;
	if (!old_destination)
		return;
	u32 destination = *old_destination, last = s->count - 1;
	if (last > s->pos)
		bpf_loop(last - s->pos, set_shift_step, s, 0);
	u32 *vacant = set_member(s, last);
	if (vacant)
		WRITE_ONCE(*vacant, NOTHING);
	ref_destination(destination, -1);
	entry->count = last;
	entry->changed = now;
}

/* Append a destination, unless it is a member. */
INLINE void set_join(struct set_walk *s, struct cached *entry, u32 now, u32 destination)
{
	s->wanted = destination;
	s->count = entry->count;
	s->pos = NO_INDEX;
	bpf_loop(s->count, set_find_step, s, 0);
	if (s->pos != NO_INDEX)
		return;
	u32 *vacant = set_member(s, s->count);
	if (vacant) {
		ref_destination(destination, 1);
		ref_destination(__sync_lock_test_and_set(vacant, destination), -1);
	} else if (!put_part(&s->key, s->c->service->slot, now, destination)) {
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
	struct root *root = get_root();
	u32 now = ticks(), expiration_s = root->settings.lblcr_expiration;
	struct set_walk s = {.c = c, .live = READ_ONCE(root->live), .pos = NO_INDEX};
	cache_key_of(&s.key, c->w);
	struct cached *entry = cache_find(&s.key, c->w, now, expiration_s);
	if (entry) {
		s.count = entry->count;
		c->loop->best = NO_INDEX;
		bpf_loop(s.count, set_least_loaded_step, &s, 0);
		u32 *least = c->loop->best != NO_INDEX ? set_member(&s, c->loop->best) : NULL;
		u32 best = least ? *least : NOTHING;
		if (set_is_old(entry, now, expiration_s) && begin_change(entry)) {
			if (set_is_old(entry, now, expiration_s)) {
				s.count = entry->count;
				set_shrink(&s, entry, now);
			}
			end_change(entry);
		}
		struct destination *d = best != NOTHING ? map_elem(destinations, best) : NULL;
		u32 pos = d && !is_overloaded(c, best, destination_weight(d, s.live)) ? pos_of(c, best) : NO_INDEX;
		if (pos != NO_INDEX)
			return pos;
	}
	u32 pos = schedule_wlc(c);
	u32 chosen = pos != NO_INDEX ? destination_at(c, pos) : NOTHING;
	if (chosen == NOTHING)
		return NO_INDEX;
	if (!entry) {
		s.key.part = 0;
		cache_add(&s.key, c, now, chosen);
	} else if (begin_change(entry)) {
		set_join(&s, entry, now, chosen);
		end_change(entry);
	}
	return pos;
}

SCHEDULER(lblcr, 13, LOADS_ALL | INDEXED)
