/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Half-open, unconfirmed and closed connections give way to others, so a flood of SYNs or of UDP cannot fill the table,
 * even if servers answer with RST. Here "half-open" means all three. A connection of UDP is unconfirmed until its
 * client sends a second packet.
 *
 * A ring has the half-open connections of all CPUs, the oldest ones first. If the table is half full, a quarter of the
 * table may be half-open. Beyond it, each new connection ends the oldest ones that are still half-open. In a table with
 * less than a quarter free, as many stay as are free. So under a flood the lifetime of half-open connections adapts to
 * the rate, and they take half of the table at most. Established connections are never ended.
 *
 * A CPU takes a batch of positions, and fills it alone. It also takes the oldest batches out, and ends their
 * connections alone. So CPUs share only what is once in a batch. If a batch leaves the ring before its CPU has filled
 * it, its other positions are closed, and that CPU takes a new batch.
 *
 * A CPU that ends them faster than FLOOD_ENDS_S is flooded for the rest of the tick; sooner if each takes longer. Then
 * a SYN gets no connection if the packet can be forwarded without one (lb/fallback.h). That takes less time than to end
 * a connection and make another.
 *
 * Two datagrams of a forged client make a connection that does not give way. So UDP by NAT, which needs a connection,
 * leaves the last part of the table to services with a reserved share, and to TCP.
 *
 * A service that made few of the ring's connections has a reserved share: its half-open connections stay, and those of
 * other services end sooner. In a flood to many services none would make many. So "few" becomes less while most of the
 * oldest ones are reserved. A batch counts for the service whose connection begins it.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/credits.h"
#include "conntrack/entry.h"
#include "conntrack/state.h"

enum half_open_limits {
	HALF_OPEN_RESERVED = 16, /* a service with less than this part of the ring has a reserved share */
	HALF_OPEN_SHARE = 4, /* of the table: so many half-open connections stay, at most as many as are free */
	HALF_OPEN_STEPS = 8, /* connections of the ring that a new one visits, at most */
	HALF_OPEN_ENDS = 2, /* of these it ends at most so many */
	BATCHES = 8, /* that a CPU takes out of the ring at once, at most */
	TRIALS = 4,
	FLOOD_ENDS_S = 131072, /* in a second; a CPU that ends so many, in a tick, is flooded */
	FLOOD_SERVERS = 64, /* a scheduler loads so many in the time that takes */
	LAPS_BEHIND = 16, /* a CPU notices a new lap late */
	MOST_HALVINGS = 31,
};

enum syn_bits { SYNS_BEFORE = 24, SYNS_LAP = 48, SYNS_MASK = (1 << 24) - 1 };

/* Return the number of positions of the ring. */
INLINE u32 half_opens_all(void)
{
	return 1U << (half_opens_shift & 31);
}

/* Return how often a number has gone around the ring. */
INLINE u16 lap_of(u32 number)
{
	return number >> half_opens_shift;
}

/* Return how many laps `lap` is ahead of another one, or behind it if negative. Numbers of positions have 32 bits, so
 * laps of a large ring have less than 16. */
INLINE s32 laps_ahead(u16 lap, u16 other)
{
	u32 unused = half_opens_shift > 16 ? half_opens_shift & 31 : 16;
	return (s32)((u32)(lap - other) << unused) >> unused;
}

INLINE struct half_open *ring_at(u32 number)
{
	return map_elem(half_opens, number & (half_opens_all() - 1));
}

/* --- shares of services --- */

/* Return a service's counts as of a lap. */
INLINE u64 syns_in_lap(u64 seen, u16 lap)
{
	s32 ahead = laps_ahead(lap, seen >> SYNS_LAP);
	if (!ahead || (ahead < 0 && ahead > -LAPS_BEHIND))
		return seen;
	u64 before = ahead == 1 ? seen & SYNS_MASK : 0;
	return (u64)lap << SYNS_LAP | before << SYNS_BEFORE;
}

/* Count a batch of new connections for the service of one of them. */
INLINE void count_syns(u32 service)
{
	struct half_open_ring *ring = map_elem(half_open_rings, 0);
	struct service_state *state = map_elem(service_states, service);
	if (!ring || !state)
		return;
	u32 made = __sync_fetch_and_add(&ring->made, half_opens_batch);
	u16 lap = lap_of(made);
	if (unlikely(lap_of(made + half_opens_batch) != lap) && ring->halvings)
		ring->halvings -= 1;
	u64 seen = READ_ONCE(state->syns), now = syns_in_lap(seen, lap);
	if (likely(now == seen))
		__sync_fetch_and_add(&state->syns, 1);
	else
		__sync_val_compare_and_swap(&state->syns, seen, now + 1);
}

/* Whether the service made few of the connections in the ring. */
INLINE bool has_reserved_share(u32 service, const struct half_open_queue *queue)
{
	const struct service_state *state = map_elem(service_states, service);
	u32 few = half_opens_all() / half_opens_batch / HALF_OPEN_RESERVED >> (queue->halvings & MOST_HALVINGS);
	if (!state)
		return false;
	u64 syns = syns_in_lap(READ_ONCE(state->syns), queue->lap);
	return (syns & SYNS_MASK) < few && (syns >> SYNS_BEFORE & SYNS_MASK) < few;
}

/* Note the fate of the connections that a CPU took out. While too few of them end, more become reserved than new ones
 * visit. After so many that they alone would be a sixteenth of the ring, "few" becomes half. */
INLINE void adjust_reserved(struct half_open_ring *ring, struct half_open_queue *queue)
{
	if (queue->stays <= queue->ended * (HALF_OPEN_STEPS - 1)) {
		if (queue->ended && READ_ONCE(ring->stays))
			WRITE_ONCE(ring->stays, 0);
	} else if (__sync_fetch_and_add(&ring->stays, queue->stays) + queue->stays >=
		   half_opens_all() / HALF_OPEN_RESERVED) {
		WRITE_ONCE(ring->stays, 0);
		if (ring->halvings < MOST_HALVINGS)
			ring->halvings += 1;
	}
	queue->stays = 0;
	queue->ended = 0;
}

/* --- the ring --- */

/* Return how many more connections the ring has than may stay. It also has connections that are no longer half-open.
 * They leave it as the oldest ones. */
INLINE u32 surplus(const struct half_open_ring *ring, const struct pool *pool)
{
	u32 there = READ_ONCE(ring->end) - READ_ONCE(ring->first), used = READ_ONCE(pool->used);
	u32 free = used < pool->capacity ? pool->capacity - used : 0, stay = pool->capacity / HALF_OPEN_SHARE;
	if (free < stay)
		stay = free;
	return there > stay ? there - stay : 0;
}

/* Whether a new connection should end a half-open one. The shared ring is read once in a batch. */
INLINE bool must_end_half_open(void)
{
	const struct pool *pool = map_elem(pools, 0);
	if (!pool || likely(!is_half_full(pool)))
		return false;
	const struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!queue)
		return false;
	if (queue->oldest != queue->oldest_end)
		return true;
	if (queue->next != queue->end && has_plenty(pool))
		return false;
	const struct half_open_ring *ring = map_elem(half_open_rings, 0);
	return ring && surplus(ring, pool);
}

/* Take the oldest batches out of the ring, for this CPU. Return whether there were any. */
VERIFIED_ONCE int take_oldest(void)
{
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	struct half_open_ring *ring = map_elem(half_open_rings, 0);
	const struct pool *pool = map_elem(pools, 0);
	if (!queue || !ring || !pool)
		return false;
	adjust_reserved(ring, queue);
#pragma nounroll
	for (u32 i = 0; i < TRIALS; i++) {
		u32 first = READ_ONCE(ring->first), more = surplus(ring, pool), batches = more / half_opens_batch;
		if (!more)
			return false;
		u32 count = (batches < BATCHES ? batches ?: 1 : BATCHES) * half_opens_batch;
		if (__sync_val_compare_and_swap(&ring->first, first, first + count) != first)
			continue;
		queue->oldest = first;
		queue->oldest_end = first + count;
		queue->lap = lap_of(READ_ONCE(ring->made));
		queue->halvings = ring->halvings;
		return true;
	}
	return false;
}

/* Return the next of the connections that this CPU took out; slot 0: none. */
INLINE struct half_open next_oldest(struct half_open_queue *queue)
{
	struct half_open none = {};
	if (queue->oldest == queue->oldest_end && !take_oldest())
		return none;
	u16 lap = lap_of(queue->oldest);
	struct half_open *at = ring_at(queue->oldest++);
	if (!at)
		return none;
	struct half_open oldest = *at;
	if (likely(oldest.lap == lap))
		return oldest;
	if (laps_ahead(oldest.lap, lap) < 0) { /* not filled: close it */
		none.lap = lap;
		*at = none;
	}
	return none;
}

/* Take the next batch of positions. If the ring is full, its oldest connections leave it, and stay until their
 * timeout. */
INLINE bool take_batch(struct half_open_queue *queue)
{
	struct half_open_ring *ring = map_elem(half_open_rings, 0);
	if (!ring)
		return false;
	queue->next = __sync_fetch_and_add(&ring->end, half_opens_batch);
	queue->end = queue->next + half_opens_batch;
	u32 first = READ_ONCE(ring->first);
	if (queue->end - first > half_opens_all())
		__sync_val_compare_and_swap(&ring->first, first, queue->end - half_opens_all());
	return true;
}

/* Whether the batch of this position has left the ring: the position is closed, or of a newer lap. */
INLINE bool is_closed(const struct half_open *at, u32 number)
{
	s32 ahead = laps_ahead(at->lap, lap_of(number));
	return ahead > 0 || (!ahead && !at->slot);
}

/* Append a connection to a queue. */
INLINE void append_to(struct half_open_queue *queue, u32 slot, u32 generation)
{
	struct half_open *at = queue->next != queue->end ? ring_at(queue->next) : NULL;
	if (!at || unlikely(is_closed(at, queue->next))) {
		if (!take_batch(queue))
			return;
		at = ring_at(queue->next);
	}
	if (!at)
		return;
	*at = (struct half_open){.slot = slot, .generation = generation, .lap = lap_of(queue->next)};
	queue->next += 1;
}

VERIFIED_ONCE int append_half_open(u32 slot, u32 generation, u32 user)
{
	struct half_open_queue *queue =
		user == BY_COMMAND ? map_elem(commands_half_opens, 0) : map_elem(half_open_queues, 0);
	if (queue)
		append_to(queue, slot, generation);
	return 0;
}

/* Return the time that a SYN takes, in units of one whose scheduler need not load every server of the list. */
INLINE u32 cost_of_syn(u32 scheduler, u32 servers)
{
	return 1 + (scheduler_has(scheduler, LOADS_ALL) ? servers / FLOOD_SERVERS : 0);
}

/* Note that this CPU has ended a half-open connection for a new one. */
INLINE void note_ended(struct half_open_queue *queue, u32 now, u32 cost)
{
	queue->ended += 1;
	if (queue->tick != now) {
		queue->tick = now;
		queue->ended_in_tick = 0;
	}
	queue->ended_in_tick += cost;
	if (unlikely(queue->ended_in_tick >= FLOOD_ENDS_S / ticks_per_second))
		queue->flooded_until = now + 1 ?: 1;
}

/* Whether this CPU is flooded. */
INLINE bool is_flooded(const struct half_open_queue *queue, u32 now)
{
	u32 until = queue->flooded_until;
	return unlikely(until) && (s32)(until - now) > 0;
}

INLINE void count_made(struct half_open_queue *queue, u32 service)
{
	queue->made += 1;
	if (!(queue->made & (half_opens_batch - 1)))
		count_syns(service);
}

/* Whether the last entries of the table are kept for others than this service. If so, count the attempt: without it,
 * the service would soon be one that makes few. */
VERIFIED_ONCE int leaves_last_entries(u32 service)
{
	const struct pool *pool = map_elem(pools, 0);
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!pool || !queue || likely(!is_nearly_full(pool)) || has_reserved_share(service, queue))
		return false;
	if (!is_dry())
		count_made(queue, service);
	return true;
}

/* Note a new half-open connection. */
VERIFIED_ONCE int note_half_open(u32 slot, u32 generation, u32 service)
{
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!queue)
		return 0;
	count_made(queue, service);
	append_to(queue, slot, generation);
	return 0;
}
