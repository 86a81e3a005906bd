/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The cache of lblc and lblcr (IPVS-SEMANTICS 3.9, 3.10): the destinations to which connections to an address go. The
 * service's cursor counts its entries: epoch << 32 | entries.
 *
 * Each member holds a reference to its destination (`cached`), so the slot of a deleted destination is not reused
 * meanwhile. An entry consists of parts, which are elements of the map. Packets add parts, and only the sweep removes
 * them (timers/lblc_cache.h). So the queue has each part's key once.
 */
#pragma once
#include "lb/schedule.h"

enum cache_limits {
	CACHE_SIZE = 16384, /* entries of a service above which the sweep removes idle ones */
	CACHE_MAX = CACHE_SIZE + CACHE_SIZE / 2, /* entries at which no more are added */
	CACHE_PERIOD = 30, /* minutes between two checks of the configured expiration */
};

struct cache_sweeper {
	struct bpf_timer timer;
	u32 parts; /* in the map; atomic */
	u32 round; /* number of the timer's last round */
	u32 left; /* parts that the timer's round still has to visit */
	u32 asked; /* likewise for a round run by sweep_cache */
};
ARRAY_MAP(cache_sweepers, struct cache_sweeper, 1, 0);

struct { /* The order in which the sweep visits parts. */
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 128);
	__type(value, struct cache_key);
} cache_queue SEC(".maps");

INLINE void count_parts(s32 by)
{
	struct cache_sweeper *sweeper = map_elem(cache_sweepers, 0);
	if (sweeper)
		__sync_fetch_and_add(&sweeper->parts, by);
}

/* --- references to destinations --- */

INLINE void ref_destination(u32 destination, s32 by)
{
	struct destination *d = destination != NOTHING ? map_elem(destinations, destination) : NULL;
	if (!d || __sync_fetch_and_add(&d->cached, by) + by)
		return;
	struct conn_counts *n = conn_counts_of(destination);
	if (n)
		note_idle(n);
}

INLINE void release_members(struct cached *part)
{
	for (u32 i = 0; i < CACHE_MEMBERS; i++)
		ref_destination(__sync_lock_test_and_set(&part->members[i], NOTHING), -1);
}

/* --- number of entries --- */

INLINE bool count_entry(u64 *cursor, u32 epoch)
{
	for (int attempt = 0; attempt < 4; attempt++) {
		u64 seen = READ_ONCE(*cursor);
		u32 entries = seen >> 32 == epoch ? (u32)seen : 0;
		if (entries >= CACHE_MAX)
			return false;
		if (__sync_val_compare_and_swap(cursor, seen, (u64)epoch << 32 | (entries + 1)) == seen)
			return true;
	}
	return false;
}

INLINE void uncount_entry(u64 *cursor, u32 epoch)
{
	for (int attempt = 0; attempt < 4; attempt++) {
		u64 seen = READ_ONCE(*cursor);
		if (seen >> 32 != epoch || !(u32)seen || __sync_val_compare_and_swap(cursor, seen, seen - 1) == seen)
			return;
	}
}

/* Whether the last check found the entry idle for that long. Checks happen every half hour since the scheduler
 * started. */
INLINE bool is_expired(u32 used, u32 epoch_tick, u32 now, u32 expiration_s)
{
	u32 period = CACHE_PERIOD * minute, since = now - epoch_tick;
	if (!period || (s32)since < 0 || since < period)
		return false;
	u32 last_check = now - since % period;
	return (s32)(last_check - used) >= 0 && last_check - used >= (u64)expiration_s * minute / 60;
}

INLINE bool begin_change(struct cached *entry)
{
	return !is_dry() && __sync_val_compare_and_swap(&entry->busy, 0, 1) == 0;
}

INLINE void end_change(struct cached *entry)
{
	__sync_lock_test_and_set(&entry->busy, 0); /* a release: the changes are visible before */
}

static int release_step(u32 number, struct cache_key *key)
{
	key->part = number;
	struct cached *part = bpf_map_lookup_elem(&cache, key);
	if (!part)
		return 1;
	release_members(part);
	return 0;
}

/* Remove all destinations from an entry. */
INLINE void reset_entry(const struct cache_key *key, struct cached *entry, u32 now)
{
	struct cache_key at = *key;
	bpf_loop(entry->count / CACHE_MEMBERS + 1, release_step, &at, 0);
	entry->count = 0;
	entry->changed = now;
	WRITE_ONCE(entry->used, now);
}

INLINE void cache_key_of(struct cache_key *key, const struct scratch *w)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->epoch = w->service.epoch;
	key->daddr = hashed_daddr(&w->packet);
}

/* Look up the entry of the packet's daddr. If it has expired, empty it. */
INLINE struct cached *cache_find(const struct cache_key *key, const struct scratch *w, u32 now, u32 expiration_s)
{
	struct cached *entry = bpf_map_lookup_elem(&cache, key);
	if (!entry)
		return NULL;
	if (is_dry())
		return is_expired(entry->used, w->service.epoch_tick, now, expiration_s) ? NULL : entry;
	if (!is_expired(entry->used, w->service.epoch_tick, now, expiration_s)) {
		WRITE_ONCE(entry->used, now);
	} else if (begin_change(entry)) {
		if (is_expired(entry->used, w->service.epoch_tick, now, expiration_s))
			reset_entry(key, entry, now);
		end_change(entry);
	}
	return entry;
}

/* Add a part with one member. */
INLINE bool put_part(const struct cache_key *key, u32 service, u32 now, u32 member)
{
	struct cached fresh = {.service = service, .used = now, .changed = now, .count = 1, .members = {member}};
	for (u32 i = 1; i < CACHE_MEMBERS; i++)
		fresh.members[i] = NOTHING;
	ref_destination(member, 1);
	bool added = !bpf_map_update_elem(&cache, key, &fresh, BPF_NOEXIST);
	if (added && !bpf_map_push_elem(&cache_queue, key, 0)) {
		count_parts(1);
		return true;
	}
	if (added)
		bpf_map_delete_elem(&cache, key);
	ref_destination(member, -1);
	return false;
}

/* Add an entry for the packet's daddr, unless the service has too many. The choice holds either way. */
INLINE void cache_add(const struct cache_key *key, const struct candidates *c, u32 now, u32 destination)
{
	u32 epoch = c->service->epoch;
	if (is_dry())
		return;
	if (count_entry(c->cursor, epoch) && !put_part(key, c->service->slot, now, destination))
		uncount_entry(c->cursor, epoch);
}

/* --- choose --- */

static int idle_step(u32 index, struct candidates *c)
{
	struct candidate it;
	if (!at_pos(c, index, &it))
		return 1;
	if (!is_idle(it.member, it.counts))
		return 0;
	c->loop->best = index;
	return 1;
}

/* Whether the destination has more active connections than its weight, while another one has fewer than half of its
 * own. A long list counts those. */
INLINE bool is_overloaded(struct candidates *c, u32 destination, s32 weight)
{
	struct conn_counts *n = conn_counts_of(destination);
	if (!n || (s32)n->active <= weight)
		return false;
	u32 list = c->service->list, count = c->service->count;
	u64 *idle = root_winner(list, count) ? idle_word(list, count, 0) : NULL;
	return idle ? READ_ONCE(*idle) : best_of(c, idle_step) != NO_INDEX;
}

static int pos_step(u32 index, struct candidates *c)
{
	struct member *member = map_elem(members, c->service->list + index);
	if (!member)
		return 1;
	if (member->destination != c->pos)
		return 0;
	c->loop->best = index;
	return 1;
}

/* Return the index of a destination in the list, or NO_INDEX. In a long list its leaf tells it (lb/winners.h). */
INLINE u32 pos_of(struct candidates *c, u32 destination)
{
	struct conn_counts *n = conn_counts_of(destination);
	u32 pos = n ? LEAF_FIELD(READ_ONCE(n->leaves[0]), LEAF_POS) : NO_INDEX;
	struct member *member = pos < c->service->count ? map_elem(members, c->service->list + pos) : NULL;
	if (member && member->destination == destination)
		return pos;
	c->loop->best = NO_INDEX;
	c->pos = destination;
	bpf_loop(c->service->count, pos_step, c, 0);
	return c->loop->best;
}

INLINE u32 destination_at(const struct candidates *c, u32 pos)
{
	struct candidate it;
	return at_pos(c, pos, &it) ? it.member->destination : NOTHING;
}
