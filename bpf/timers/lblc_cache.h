/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Once a minute a bpf_timer sweeps the cache of lblc and lblcr (IPVS-SEMANTICS 3.9). It removes entries of deleted
 * services and replaced schedulers, expired ones, and, while there are too many, those idle for six minutes.
 *
 * A walk over a hash map cannot be resumed, so the keys are in a queue. The sweep takes a key from the front, and puts
 * it back at the end if its part stays. A round visits as many keys as there are parts; the clock limits each run.
 */
#pragma once
#include "lb/lblc_cache.h"
#include "lb/service.h"
#include "timers/budget.h"

enum cache_sweep_limits {
	CACHE_IDLE = 6, /* minutes */
	/* Limit of entries of a service that one round removes because there are too many. */
	CACHE_SHRINK = CACHE_SIZE / 2,
	CACHE_CLOCK_EVERY = 4, /* parts between two reads of the clock */
	CACHE_SWEEP_NS = 1000000000,
	CACHE_SWEEP_SECONDS = 60,
};

struct cache_run {
	u64 until; /* ns */
	u32 now;
	u32 round; /* number of the timer's round; 0: run by Python, which removes no idle entries */
	u32 done; /* parts visited */
	u32 empty; /* the queue is */
};

/* Whether to remove this entry because its service has too many. */
INLINE bool must_shrink(struct service_state *state, const struct cached *entry, const struct cache_key *key,
			 const struct cache_run *run)
{
	u64 cursor = READ_ONCE(state->cursor);
	if (state->shrink_sweep != run->round) {
		u32 entries = cursor >> 32 == key->epoch ? (u32)cursor : 0;
		u32 wanted = entries > CACHE_SIZE ? (entries - CACHE_SIZE) * 4 / 3 : 0;
		state->shrink_left = wanted < CACHE_SHRINK ? wanted : CACHE_SHRINK;
		state->shrink_sweep = run->round;
	}
	if (!state->shrink_left || (s32)(run->now - entry->used) < (s32)(CACHE_IDLE * minute))
		return false;
	state->shrink_left -= 1;
	return true;
}

/* Whether to remove this part. */
INLINE bool must_remove(const struct cache_key *key, const struct cached *part, const struct cache_run *run)
{
	struct root *root = get_root();
	struct service *service = map_elem(services, part->service);
	struct service_state *state = map_elem(service_states, part->service);
	if (!service || !state)
		return false;
	const struct service_version *v = version_in_force(service, READ_ONCE(root->live));
	bool plain = v->scheduler == SCHED_LBLC, sets = v->scheduler == SCHED_LBLCR;
	if (!v->present || !(plain || sets) || v->epoch != key->epoch)
		return true;
	if (key->part) { /* it expires together with the first part */
		struct cache_key first = *key;
		first.part = 0;
		return !bpf_map_lookup_elem(&cache, &first);
	}
	const struct settings *settings = &root->settings;
	return is_expired(part->used, v->epoch_tick, run->now,
			  plain ? settings->lblc_expiration : settings->lblcr_expiration) ||
	       (run->round && must_shrink(state, part, key, run));
}

/* Remove a part whose key is not in the queue, and drop its members' references. */
INLINE void remove_cached(const struct cache_key *key, struct cached *part)
{
	struct service_state *state = map_elem(service_states, part->service);
	release_members(part);
	if (bpf_map_delete_elem(&cache, key))
		return;
	count_parts(-1);
	if (state && !key->part)
		uncount_entry(&state->cursor, key->epoch);
}

static int cache_step(u32 index, struct cache_run *run)
{
	struct cache_key key;
	run->empty = bpf_map_pop_elem(&cache_queue, &key) != 0;
	if (run->empty)
		return 1;
	struct cached *part = bpf_map_lookup_elem(&cache, &key);
	if (part && (must_remove(&key, part, run) || bpf_map_push_elem(&cache_queue, &key, 0)))
		remove_cached(&key, part);
	run->done = index + 1;
	return index % CACHE_CLOCK_EVERY == CACHE_CLOCK_EVERY - 1 && (s64)(bpf_ktime_get_ns() - run->until) >= 0;
}

/* Continue a round with `left` parts, or start one if 0. Return the number of parts left. */
INLINE u32 sweep_parts(const struct cache_sweeper *sweeper, u32 left, struct cache_run *run)
{
	u32 count = left ?: READ_ONCE(sweeper->parts);
	if (count)
		bpf_loop(count, cache_step, run, 0);
	return run->empty || run->done >= count ? 0 : count - run->done;
}

/* Python runs this after deleting a service with such a cache, or changing its scheduler, until it returns 0. */
SEC("tc")
int sweep_cache(struct __sk_buff *skb)
{
	struct cache_sweeper *sweeper = map_elem(cache_sweepers, 0);
	if (!sweeper)
		return 0;
	struct cache_run run = {.until = bpf_ktime_get_ns() + RUN_NS, .now = ticks()};
	sweeper->asked = sweep_parts(sweeper, sweeper->asked, &run);
	return sweeper->asked != 0;
}

static int cache_timer(void *map, u32 *key, struct cache_sweeper *sweeper)
{
	u64 began = bpf_ktime_get_ns();
	if (!sweeper->left)
		sweeper->round = sweeper->round + 1 ?: 1;
	struct cache_run run = {.until = began + RUN_NS, .now = ticks(), .round = sweeper->round};
	sweeper->left = sweep_parts(sweeper, sweeper->left, &run);
	u64 pause = pause_after(note_run(TIMER_LBLC_CACHE, began));
	bpf_timer_start(&sweeper->timer, sweeper->left ? pause : (u64)CACHE_SWEEP_SECONDS * CACHE_SWEEP_NS, 0);
	return 0;
}

TIMER_STARTER(start_cache_sweep, cache_sweeper, cache_sweepers, cache_timer, (u64)CACHE_SWEEP_SECONDS * CACHE_SWEEP_NS)
