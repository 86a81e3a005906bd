/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Connection expiry, without any process. Twice a second a bpf_timer sweeps `expiry_ticks`, an array with an expiry
 * tick for TICK_SLOTS slots together. If that tick has come, the connections' state words decide: the timer notes the
 * earliest later tick, or ends the connection. Memory latency dominates the cost, so the clock limits each run.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/lookup.h"
#include "conntrack/sync.h"
#include "lb/destination.h"
#include "policy/synflood.h"
#include "timers/budget.h"

enum expiry_limits {
	SLICE_LINES = 1 << 16, /* in one run, at most: 4,194,304 ticks */
	SLICE_ORPHANS = 1 << 16, /* slots that one run of end_orphans visits */
	SLOTS_CLOCK_EVERY = 8, /* connections that may end between two reads of the clock */
	ROUNDS_A_SECOND = 2,
	ROUND_NS = 1000000000 / ROUNDS_A_SECOND,
};

struct sweeper {
	struct bpf_timer timer;
};
ARRAY_MAP(sweepers, struct sweeper, 1, 0);

struct slice { /* part of `expiry_ticks` in one run; its elements are called lines */
	u64 until; /* ns */
	u32 first; /* first line */
	u32 at; /* current line */
	u32 now;
	u32 ended;
	u32 done; /* lines visited to their end */
	u32 tick; /* the current tick */
	u32 earliest; /* next tick of its slots; 0: none */
	u32 stopped; /* the time was up within a line */
};

INLINE bool is_time_up(const struct slice *slice)
{
	return (s64)(bpf_ktime_get_ns() - slice->until) >= 0;
}

/* Whether the expiry is later than the state's timeout allows. The fast path of another CPU may have stored that of
 * ESTABLISHED behind the FIN or RST; or the timeout of FIN_WAIT has become shorter. The states in which the fast path
 * stores are exempt, and those that no packet reaches from them. */
INLINE bool is_too_late(u64 word, u32 now, u32 timeout)
{
	u32 state = word_state(word);
	bool is_exempt = state == STATE_ESTABLISHED || state == STATE_UDP || state == STATE_TEMPLATE ||
			 state == STATE_NONE || is_unconfirmed(state);
	return !is_exempt && (s32)((u32)word - now - timeout) > 0;
}

/* Return the tick of the next visit of a connection that has not expired. */
INLINE u32 next_visit(u64 *word, u64 seen, u32 now)
{
	u32 timeout = facts_of(get_root())->timeouts[word_state(seen)];
	if (likely(!is_too_late(seen, now, timeout)))
		return (u32)seen ?: 1;
	u64 right = seen >> WORD_STATE << WORD_STATE | (u32)(now + timeout);
	__sync_val_compare_and_swap(word, seen, right);
	return (now + timeout) ?: 1;
}

/* End the slot's connection, or return the tick of the next visit (0: none). */
VERIFIED_ONCE u32 expire_slot(u32 slot, u32 now)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return now + ticks_per_second;
	struct connection *c = entry.found.connection;
	u64 *word = &c->word, seen = READ_ONCE(*word);
	if (c->method != METHOD_BYPASS && !map_elem(destinations, c->destination))
		return now + ticks_per_second;
	if (word_state(seen) == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		/* Still referenced: extend by 60 s; its timeout stays 60 s from now on (4.9). */
		if (control && control->controls) {
			if ((s32)((u32)seen - now) > 0)
				return (u32)seen ?: 1;
			WRITE_ONCE(control->timeout, minute);
			u64 longer = make_word(STATE_TEMPLATE, now + minute, seen >> WORD_GENERATION);
			__sync_val_compare_and_swap(word, seen, longer);
			if (unlikely(READ_ONCE(get_root()->sync)))
				announce(slot, get_root()->settings.sync_threshold, now);
			return (now + minute) ?: 1;
		}
		if (control && !control->timeout) /* drop_entry or end_orphans has ended its last connection */
			return end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_EXPIRED) ? 0 : now + 1;
	}
	if ((s32)((u32)seen - now) > 0)
		return c->flags & CONN_SYNCED ? (u32)seen ?: 1 : next_visit(word, seen, now);
	return end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_EXPIRED) ? 0 : now + 1;
}

#define BOTH(x) ((u64)(u32)(x) << 32 | (u32)(x))

/* Whether any tick of the line may have come, which is rare. Two ticks per operation, without a branch. A borrow from
 * the upper one makes it due one tick early, which is harmless. */
INLINE bool is_due(const struct expiry_line *line, u32 now)
{
	const u64 *pairs = (const u64 *)line->at;
	u64 after_now = BOTH(now + 1), due = 0;
#pragma unroll
	for (u32 i = 0; i < LINE_TICKS / 2; i++) {
		u64 noted = READ_ONCE(pairs[i]);
		u64 any = (noted & BOTH(0x7fffffff)) + BOTH(0x7fffffff) | noted; /* highest bit of each half: not 0 */
		/* and not after now. One pair at a time, because the registers do not hold all */
		due = barrier_var(due | any & (noted - after_now));
	}
	return due & BOTH(0x80000000);
}

/* Whether a connection lives on, whose expiry needs no correction. */
INLINE bool is_fresh(const struct conn_entry4 *conn, u32 now, u32 *expiry)
{
	u64 word = READ_ONCE(conn->connection.word);
	u32 state = word_state(word);
	*expiry = (u32)word ?: 1;
	return (state == STATE_ESTABLISHED || state == STATE_UDP) && (s32)((u32)word - now) > 0;
}

static int visit_slot(u32 i, struct slice *slice)
{
	u32 slot = slice->tick * TICK_SLOTS + i, next;
	struct conn_entry4 *conn = conn_at(slot);
	u64 rest = conn ? rest_in(conn) & REST_TUPLE : 0;
	if (!conn || !rest || rest == REST_SECOND)
		return 0;
	if (!is_fresh(conn, slice->now, &next))
		next = expire_slot(slot, slice->now);
	if (next) {
		if (!slice->earliest || (s32)(next - slice->earliest) < 0)
			slice->earliest = next;
		return 0;
	}
	slice->ended += 1;
	if (slice->ended % SLOTS_CLOCK_EVERY || !is_time_up(slice))
		return 0;
	slice->earliest = slice->now ?: 1; /* the next run visits the rest */
	return 1;
}

/* Visit the slots of a tick. Return 1 if the time is up. */
static int sweep_tick(u32 i, struct slice *slice)
{
	u32 at = slice->at * LINE_TICKS + i, *tick = expiry_tick_at(at), noted = tick ? READ_ONCE(*tick) : 0;
	if (!noted || (s32)(noted - slice->now) > 0)
		return 0;
	/* First, so that the tick of a connection that is created from now on stays. */
	__sync_lock_test_and_set(tick, 0);
	slice->tick = at;
	slice->earliest = 0;
	FORGET_BOUNDS(*slice, ended, ended);
	FORGET_BOUNDS(*slice, earliest, earliest);
	bpf_loop(TICK_SLOTS, visit_slot, slice, 0);
	if (slice->earliest)
		note_earlier(at, slice->earliest);
	slice->stopped = is_time_up(slice);
	return barrier_var(slice->stopped) & 1;
}

static int sweep_line(u32 index, struct slice *slice)
{
	u32 at = slice->first + index;
	struct expiry_line *line = map_elem(expiry_ticks, at);
	if (!line)
		return 1;
	slice->done = index + 1;
	if (likely(!is_due(line, slice->now)))
		return index % CLOCK_EVERY == CLOCK_EVERY - 1 && is_time_up(slice);
	slice->at = at;
	bpf_loop(LINE_TICKS, sweep_tick, slice, 0);
	u32 stopped = barrier_var(slice->stopped) & 1;
	slice->done -= stopped; /* the next run continues here */
	return stopped;
}

/* End the slot's connection if it is half-open. */
VERIFIED_ONCE int drop_half_open(u32 slot)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return 0;
	struct connection *c = entry.found.connection;
	u64 seen = READ_ONCE(c->word);
	if (c->method != METHOD_BYPASS && is_half_open(word_state(seen), slot))
		end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_KILLED);
	return 0;
}

static int drop_half_open_slot(u32 i, struct slice *slice)
{
	u32 slot = slice->at * LINE_TICKS + i;
	if (is_complete(slot))
		drop_half_open(slot);
	return i % SLOTS_CLOCK_EVERY == SLOTS_CLOCK_EVERY - 1 && is_time_up(slice);
}

/* Visit a random piece, so that each has the same chance, also if a run ends early. */
static int drop_half_open_piece(u32 index, struct slice *slice)
{
	slice->at = bpf_get_prandom_u32() % (slice->first ?: 1);
	slice->done = index + 1;
	bpf_loop(LINE_TICKS, drop_half_open_slot, slice, 0);
	return is_time_up(slice);
}

/* Do a part of drop_entry's work of this second. Return whether there is more. */
INLINE bool drop_half_open_run(struct pool *pool, const struct settings *settings, u64 until)
{
	if (settings->drop_entry != SYNFLOOD_ON)
		return false;
	struct slice all = {.first = all_pieces(), .until = until};
	u32 count = pool->drop_entry_left < DROP_SLICE ? pool->drop_entry_left : DROP_SLICE;
	if (count)
		bpf_loop(count, drop_half_open_piece, &all, 0);
	pool->drop_entry_left = all.done ? pool->drop_entry_left - all.done : 0;
	return pool->drop_entry_left;
}

/* Do a part of the round. Return whether there is more. */
INLINE bool sweep_run(struct pool *pool, u64 until)
{
	u32 lines = all_slots() / (TICK_SLOTS * LINE_TICKS) + 1;
	if (!READ_ONCE(pool->used)) /* no connection, no sweep */
		lines = 0;
	struct slice slice = {.first = pool->sweep_at, .now = ticks(), .until = until};
	u32 count = lines > slice.first ? lines - slice.first : 0;
	if (count)
		bpf_loop(count > SLICE_LINES ? SLICE_LINES : count, sweep_line, &slice, 0);
	struct timer_runs *runs = map_elem(timer_runs, TIMER_EXPIRY);
	if (runs)
		runs->ended += slice.ended;
	pool->sweep_at = slice.first + slice.done;
	if ((slice.done || slice.stopped) && pool->sweep_at < lines)
		return true;
	pool->sweep_at = 0;
	pool->sweeps += 1;
	if (pool->sweeps % ROUNDS_A_SECOND == 0)
		pool->drop_entry_left = pieces_to_drop();
	return false;
}

/* End a trace, a log or announcements that their process no longer renews: it hangs, or was killed. The lower half is a tick. */
INLINE void end_lease(u64 *lease)
{
	u64 until = READ_ONCE(*lease);
	if (until && (s32)(ticks() - (u32)until) >= 0)
		__sync_val_compare_and_swap(lease, until, 0);
}

static int sweep(void *map, u32 *key, struct sweeper *sweeper)
{
	u64 began = bpf_ktime_get_ns();
	struct pool *pool = map_elem(pools, 0);
	struct root *root = get_root();
	if (!pool)
		return 0;
	u64 until = began + RUN_NS;
	end_lease(&root->trace);
	end_lease(&root->log);
	end_lease(&root->sync);
	end_lease(&root->backup);
	bool more = drop_half_open_run(pool, &root->settings, until) || sweep_run(pool, until);
	u64 spent = note_run(TIMER_EXPIRY, began);
	bpf_timer_start(&sweeper->timer, more ? pause_after(spent) : ROUND_NS, 0);
	return 0;
}

/* End a slot's connection if its destination was deleted (expire_nodest_conn; IPVS-SEMANTICS 1.8). A template ends in
 * the next round, when its connections have. */
VERIFIED_ONCE int end_orphan(u32 slot, u32 live)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return 0;
	struct connection *c = entry.found.connection;
	struct destination *d = map_elem(destinations, c->destination);
	if (!d || destination_flags(d, live) & DESTINATION_AVAILABLE)
		return 0;
	u64 seen = READ_ONCE(c->word);
	if (word_state(seen) == STATE_TEMPLATE) {
		struct control *control = control_of(slot);
		if (control && control->controls)
			return 0;
	}
	end_conn(&entry.tuple, entry.is_ipv6, &entry.found, seen, END_ORPHAN);
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
	/* Not only where `expiry_ticks` has a tick: there is none while the timer of another CPU visits the slots. */
	if (is_complete(slot))
		end_orphan(slot, o->live);
	o->done = index + 1;
	return index % SLOTS_CLOCK_EVERY == SLOTS_CLOCK_EVERY - 1 && (s64)(bpf_ktime_get_ns() - o->until) >= 0;
}

/* Python runs this after deleting destinations with expire_nodest_conn, until it returns 0. */
SEC("tc")
int end_orphans(struct __sk_buff *skb)
{
	struct pool *pool = map_elem(pools, 0);
	struct root *root = get_root();
	if (!pool)
		return 0;
	struct orphan_ctx o = {
		.first = pool->purge_at, .live = READ_ONCE(root->live), .until = bpf_ktime_get_ns() + RUN_NS};
	u32 end = all_slots(), count = end > o.first ? end - o.first : 0;
	if (count > SLICE_ORPHANS)
		count = SLICE_ORPHANS;
	bpf_loop(count, orphan_step, &o, 0);
	u32 next = o.first + o.done;
	bool more = o.done && next < end;
	pool->purge_at = more ? next : 0;
	return more;
}

TIMER_STARTER(start_expiry, sweeper, sweepers, sweep, ROUND_NS)

/* The clock of the packet path, for Python. */
SEC("tc")
int read_clock(struct __sk_buff *skb)
{
	return (int)ticks();
}
