/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Once a minute a bpf_timer looks through what lblc and lblcr remember (IPVS-SEMANTICS 3.9): entries go whose service
 * or scheduler went, that outlived their expiration, or that were unused for six minutes while there are too many.
 */
#pragma once
#include "cache.h"
#include "service.h"

enum cache_sweep_limits {
	CACHE_IDLE = 6, /* minutes */
	CACHE_RELIEF = CACHE_SIZE / 2, /* entries of a service that go in one sweep for there being too many */
	CACHE_SWEEP_NS = 1000000000,
	CACHE_SWEEP_SECONDS = 60,
};

struct cache_sweep {
	u32 now;
	u32 number;
};

/* Whether this entry is one of those that must go because its service has too many. */
INLINE bool relieves(struct service_state *state, const struct cached *entry, const struct cache_key *key,
		     const struct cache_sweep *sweep)
{
	u64 cursor = READ_ONCE(state->cursor);
	if (state->relief != sweep->number) {
		u32 entries = cursor >> 32 == key->epoch ? (u32)cursor : 0;
		u32 goal = entries > CACHE_SIZE ? (entries - CACHE_SIZE) * 4 / 3 : 0;
		state->relief_left = goal < CACHE_RELIEF ? goal : CACHE_RELIEF;
		state->relief = sweep->number;
	}
	if (!state->relief_left || (s32)(sweep->now - entry->used) < (s32)(CACHE_IDLE * minute))
		return false;
	state->relief_left -= 1;
	return true;
}

static int cache_sweep_step(void *map, const struct cache_key *at, struct cached *entry, struct cache_sweep *sweep)
{
	struct cache_key key = *at;
	struct root *root = the_root();
	struct service *service = LOOKUP(services, entry->service);
	struct service_state *state = LOOKUP(service_states, entry->service);
	if (!root || !service || !state)
		return 1;
	const struct service_version *v = version_in_force(service, READ_ONCE(root->live));
	bool plain = v->scheduler == SCHED_LBLC, sets = v->scheduler == SCHED_LBLCR;
	bool gone = !v->present || !(plain || sets) || v->epoch != key.epoch;
	if (key.part) { /* goes with its first */
		struct cache_key first = key;
		first.part = 0;
		gone = gone || !bpf_map_lookup_elem(&cache, &first);
	} else if (!gone) {
		const struct settings *settings = &root->settings;
		gone = outlived(entry->used, v->epoch_tick, sweep->now,
				plain ? settings->lblc_expiration : settings->lblcr_expiration) ||
		       relieves(state, entry, &key, sweep);
	}
	if (gone)
		remove_cached(&key, entry);
	return 0;
}

INLINE void look_through_cache(struct cache_sweeper *sweeper)
{
	struct cache_sweep sweep = {.now = ticks(), .number = __sync_fetch_and_add(&sweeper->sweeps, 1) + 1};
	if (READ_ONCE(sweeper->parts))
		bpf_for_each_map_elem(&cache, cache_sweep_step, &sweep, 0);
}

/* Run by whoever ends a service that remembers targets, or gives it another scheduler. */
SEC("tc")
int sweep_cache(struct __sk_buff *skb)
{
	struct cache_sweeper *sweeper = LOOKUP(cache_sweepers, 0);
	if (sweeper)
		look_through_cache(sweeper);
	return 0;
}

static int cache_timer(void *map, u32 *key, struct cache_sweeper *sweeper)
{
	look_through_cache(sweeper);
	bpf_timer_start(&sweeper->timer, (u64)CACHE_SWEEP_SECONDS * CACHE_SWEEP_NS, 0);
	return 0;
}

TIMER_STARTER(start_cache_sweep, cache_sweeper, cache_sweepers, cache_timer, (u64)CACHE_SWEEP_SECONDS * CACHE_SWEEP_NS)
