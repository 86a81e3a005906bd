/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Expiry without any process: one bpf_timer sweeps `looks`, a compact array with a tick for each slot, twice a second
 * and in goes. A connection is looked at again only when the tick noted for it has come; if packets have prolonged
 * it, the new tick is noted, else it ends. What a look costs depends on the machine's memory: so the clock ends a go.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/lookup.h"
#include "lb/destination.h"
#include "policy/synflood.h"
#include "timers/budget.h"

enum expiry_limits {
	SLICE_LINES = 1 << 16, /* in one go, at most: 4,194,304 slots */
	SLICE_ORPHANS = 1 << 16, /* connections looked at in one go for a deleted destination */
	ROUNDS_A_SECOND = 2,
	ROUND_NS = 1000000000 / ROUNDS_A_SECOND,
};

struct sweeper {
	struct bpf_timer timer;
};
ARRAY_MAP(sweepers, struct sweeper, 1, 0);

struct slice { /* of `looks`, whose elements are lines here */
	u64 until; /* ns */
	u32 first; /* line */
	u32 at; /* line that is looked at */
	u32 now;
	u32 ended;
	u32 done; /* lines */
	u32 pad;
};

INLINE bool is_time_up(const struct slice *slice)
{
	return (s64)(bpf_ktime_get_ns() - slice->until) >= 0;
}

struct slot_conn {
	union tuple tuple;
	struct found found;
	bool is_ipv6;
};

/* The connection that a slot belongs to; false while it is being made or ended elsewhere. */
INLINE bool conn_of_slot(u32 slot, struct slot_conn *held)
{
	held->is_ipv6 = slot >= first_slot6;
	if (!held->is_ipv6) {
		struct place4 *conn = map_elem(connections4, slot);
		if (!conn || !conn->tuple.target)
			return false;
		held->tuple.v4 = conn->tuple;
		held->found = (struct found){&conn->connection, slot};
		return true;
	}
	struct registered *registered = map_elem(registry6, slot - first_slot6);
	if (!registered)
		return false;
	held->tuple.v6 = registered->tuple;
	held->found = find_tuple(&held->tuple, true);
	return held->found.connection && held->found.slot == slot;
}

/* End the slot's connection, or return the tick at which to look again (0: nothing more to do). */
VERIFIED_ONCE u32 expire_slot(u32 slot, u32 now)
{
	struct slot_conn held;
	if (!conn_of_slot(slot, &held))
		return now + ticks_per_second;
	struct connection *c = held.found.connection;
	u64 *word = connection_word(&held.found);
	struct destination *d = map_elem(destinations, c->destination);
	if (!word || (!d && c->method != METHOD_BYPASS))
		return now + ticks_per_second;
	u64 seen = READ_ONCE(*word);
	if (word_state(seen) == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		if (control && control->controls) { /* held: a minute more, and a minute for good (4.9) */
			if ((s32)((u32)seen - now) > 0)
				return (u32)seen ?: 1;
			WRITE_ONCE(control->timeout, minute);
			u64 longer = make_word(STATE_TEMPLATE, now + minute, seen >> WORD_GENERATION);
			__sync_val_compare_and_swap(word, seen, longer);
			return (now + minute) ?: 1;
		}
		if (control && !control->timeout) /* its last connection was killed */
			return end_conn(&held.tuple, held.is_ipv6, &held.found, word, seen, d, END_EXPIRED) ? 0 : now + 1;
	}
	if ((s32)((u32)seen - now) > 0)
		return (u32)seen ?: 1;
	return end_conn(&held.tuple, held.is_ipv6, &held.found, word, seen, d, END_EXPIRED) ? 0 : now + 1;
}

#define BOTH(x) ((u64)(u32)(x) << 32 | (u32)(x))

/* Whether one of the line's ticks may have come: nearly always none has. Two at a time and without a branch; what the
 * lower one borrows from the upper makes that look due a tick too early. */
INLINE bool is_due(const struct looks *line, u32 now)
{
	const u64 *pairs = (const u64 *)line->at;
	u64 after_now = BOTH(now + 1), due = 0;
#pragma unroll
	for (u32 i = 0; i < LOOKS / 2; i++) {
		u64 noted = READ_ONCE(pairs[i]);
		u64 any = (noted & BOTH(0x7fffffff)) + BOTH(0x7fffffff) | noted; /* highest bits: not 0 */
		/* and not after now; one pair after the other: not all fit registers */
		due = barrier_var(due | any & (noted - after_now));
	}
	return due & BOTH(0x80000000);
}

static int sweep_slot(u32 i, struct slice *slice)
{
	struct looks *line = map_elem(looks, slice->at);
	if (!line || i >= LOOKS)
		return 1;
	u32 noted = READ_ONCE(line->at[i]);
	if (!noted || (s32)(noted - slice->now) > 0)
		return 0;
	u32 next = expire_slot(AFTER((u64)slice->at * LOOKS + i, noted), slice->now);
	if (next)
		__sync_val_compare_and_swap(&line->at[i], noted, next);
	else
		slice->ended += 1;
	return 0;
}

static int sweep_line(u32 index, struct slice *slice)
{
	u32 at = slice->first + index;
	struct looks *line = map_elem(looks, at);
	if (!line)
		return 1;
	slice->done = index + 1;
	if (likely(!is_due(line, slice->now)))
		return index % CLOCK_EVERY == CLOCK_EVERY - 1 && is_time_up(slice);
	slice->at = at;
	bpf_loop(LOOKS, sweep_slot, slice, 0);
	return is_time_up(slice);
}

/* End the slot's connection if it is half open. */
VERIFIED_ONCE int drop_half_open(u32 slot)
{
	struct slot_conn held;
	if (!conn_of_slot(slot, &held))
		return 0;
	struct connection *c = held.found.connection;
	u64 *word = connection_word(&held.found);
	struct destination *d = map_elem(destinations, c->destination);
	u64 seen = word ? READ_ONCE(*word) : 0;
	if (word && d && is_half_open(word_state(seen), slot))
		end_conn(&held.tuple, held.is_ipv6, &held.found, word, seen, d, END_KILLED);
	return 0;
}

static int drop_half_open_slot(u32 i, struct slice *slice)
{
	struct looks *line = map_elem(looks, slice->at);
	if (!line || i >= LOOKS)
		return 1;
	u32 noted = READ_ONCE(line->at[i]);
	if (noted)
		drop_half_open(AFTER((u64)slice->at * LOOKS + i, noted));
	return 0;
}

/* Any line: what a flood made lies side by side. Those of IPv6 follow those of IPv4 that were ever used. */
static int drop_half_open_line(u32 index, struct slice *slice)
{
	u32 any = bpf_get_prandom_u32() % (slice->first ?: 1);
	slice->at = any < slice->now ? any : first_slot6 / LOOKS + any - slice->now;
	slice->done = index + 1;
	bpf_loop(LOOKS, drop_half_open_slot, slice, 0);
	return is_time_up(slice);
}

/* drop_entry's work of a second, in goes of their own. True while there is more of it. */
INLINE bool dropped_half_open(struct pool *pool, const struct settings *settings, u64 until)
{
	if (settings->drop_entry != SYNFLOOD_ON)
		return false;
	struct slice all = {.first = lines_used(pool), .now = lines_used4(pool), .until = until};
	u32 count = pool->thin < DROP_SLICE ? pool->thin : DROP_SLICE;
	if (count)
		bpf_loop(count, drop_half_open_line, &all, 0);
	pool->thin = all.done ? pool->thin - all.done : 0;
	return pool->thin;
}

/* One go of a round. True while there is more of the round. */
INLINE bool sweep_run(struct pool *pool, u64 until, struct pace *pace)
{
	u32 at = pool->sweep_at * LOOKS, lines = (end_of_range(pool, &at) + LOOKS - 1) / LOOKS;
	if (!READ_ONCE(pool->used)) /* before the first connection nothing is swept */
		lines = 0;
	struct slice slice = {.first = at / LOOKS, .now = ticks(), .until = until};
	u32 count = lines > slice.first ? lines - slice.first : 0;
	if (count)
		bpf_loop(count > SLICE_LINES ? SLICE_LINES : count, sweep_line, &slice, 0);
	pace->ended += slice.ended;
	pool->sweep_at = slice.first + slice.done;
	if (slice.done && any_from(pool, pool->sweep_at * LOOKS))
		return true;
	pool->sweep_at = 0;
	pool->sweeps += 1;
	if (pool->sweeps % ROUNDS_A_SECOND == 0)
		pool->thin = lines_to_drop(pool);
	return false;
}

static int sweep(void *map, u32 *key, struct sweeper *sweeper)
{
	u64 began = bpf_ktime_get_ns();
	struct pool *pool = map_elem(pools, 0);
	struct root *root = get_root();
	struct pace *pace = map_elem(paces, 0);
	if (!pool || !pace)
		return 0;
	u64 until = began + RUN_NS;
	bool more = dropped_half_open(pool, &root->settings, until) || sweep_run(pool, until, pace);
	u64 spent = note_run(pace, began);
	bpf_timer_start(&sweeper->timer, more ? pause_after(spent) : ROUND_NS, 0);
	return 0;
}

/* End a slot's connection if its destination was deleted (expire_nodest_conn; IPVS-SEMANTICS 1.8). A template goes,
 * too, once its connections have: in a second round. */
VERIFIED_ONCE int end_orphan(u32 slot, u32 live)
{
	struct slot_conn held;
	if (!conn_of_slot(slot, &held))
		return 0;
	struct connection *c = held.found.connection;
	u64 *word = connection_word(&held.found);
	struct destination *d = map_elem(destinations, c->destination);
	if (!word || !d || destination_flags(d, live) & DESTINATION_AVAILABLE)
		return 0;
	u64 seen = READ_ONCE(*word);
	if (word_state(seen) == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		if (control && control->controls)
			return 0;
	}
	end_conn(&held.tuple, held.is_ipv6, &held.found, word, seen, d, END_ORPHAN);
	return 0;
}

struct orphan_ctx {
	u64 until; /* ns */
	u32 first;
	u32 live;
	u32 done;
};

static int orphan_step(u32 index, struct orphan_ctx *o)
{
	u32 slot = o->first + index;
	if (is_complete(slot))
		end_orphan(slot, o->live);
	o->done = index + 1;
	return index % CLOCK_EVERY == CLOCK_EVERY - 1 && (s64)(bpf_ktime_get_ns() - o->until) >= 0;
}

/* Run by whoever deletes destinations while expire_nodest_conn is set, until it returns 0. */
SEC("tc")
int end_orphans(struct __sk_buff *skb)
{
	struct pool *pool = map_elem(pools, 0);
	struct root *root = get_root();
	if (!pool)
		return 0;
	struct orphan_ctx o = {.first = pool->purge_at, .live = READ_ONCE(root->live), .until = bpf_ktime_get_ns() + RUN_NS};
	u32 end = end_of_range(pool, &o.first);
	u32 count = end > o.first ? end - o.first : 0;
	if (count > SLICE_ORPHANS)
		count = SLICE_ORPHANS;
	bpf_loop(count, orphan_step, &o, 0);
	u32 next = o.first + o.done;
	bool more = o.done && any_from(pool, next);
	pool->purge_at = more ? next : 0;
	return more;
}

TIMER_STARTER(start_expiry, sweeper, sweepers, sweep, ROUND_NS)

/* The clock of the packet path, for tools. */
SEC("tc")
int read_clock(struct __sk_buff *skb)
{
	return (int)ticks();
}
