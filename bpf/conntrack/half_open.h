/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Half-open and unconfirmed connections give way to others, so a flood of SYNs or of UDP cannot fill the table. Here
 * "half-open" means both. A connection of UDP is unconfirmed until a packet follows the first one and its reply.
 *
 * Each CPU keeps the half-open connections that it made in a ring. If the table is half full and the CPU has its share
 * of a quarter of the table, each new connection ends the oldest ones that are still half-open. In a table with less
 * than a quarter free, that is its share of as many as are free. So under a flood the lifetime of half-open connections
 * adapts to the rate, and they take half of the table at most. Established connections are never ended.
 *
 * A service that made few of the ring's connections has a reserved share: its half-open connections stay, and those of
 * other services end sooner. In a flood to many services none would make many. So "few" becomes less while only
 * reserved ones are found.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/state.h"

enum half_open_limits {
	HALF_OPEN_RESERVED = 16, /* a service with less than this part of the ring has a reserved share */
	HALF_OPEN_SHARE = 4, /* of the table: so many half-open connections stay, at most as many as are free */
	MOST_HALVINGS = 31,
};

INLINE struct service_syns *syns_in_round(u32 service, u32 round)
{
	struct services_syns *some = map_elem(service_syns, service / LANES);
	if (!some)
		return NULL;
	struct service_syns *syns = &barrier_var(some)->of[service % LANES];
	if (syns->round != round) {
		syns->before = syns->round + 1 == round ? syns->now : 0;
		syns->now = 0;
		syns->round = round;
	}
	return syns;
}

INLINE u32 round_of(const struct half_open_queue *queue)
{
	return queue->made / (half_opens_each ?: 1);
}

/* Whether the service made few of the connections in the ring. */
INLINE bool has_reserved_share(u32 service, const struct half_open_queue *queue)
{
	struct service_syns *syns = syns_in_round(service, round_of(queue));
	u32 few = half_opens_each / HALF_OPEN_RESERVED >> (queue->halvings & MOST_HALVINGS);
	return syns && syns->now < few && syns->before < few;
}

/* Note that a connection stays. After so many that they alone would be a sixteenth of the ring, "few" becomes half. */
INLINE void note_stay(struct half_open_queue *queue)
{
	queue->stays += 1;
	if (queue->stays < half_opens_each / HALF_OPEN_RESERVED)
		return;
	queue->stays = 0;
	if (queue->halvings < MOST_HALVINGS)
		queue->halvings += 1;
}

/* Return a place of this CPU's ring. */
INLINE struct half_open *ring_entry(u32 number)
{
	u32 ring = bpf_get_smp_processor_id() % (half_open_rings ?: 1);
	return map_elem(half_opens, ring * half_opens_each + (number & (half_opens_each - 1)));
}

/* Whether a new connection should end a half-open one: if the table is half full, and this CPU has more than its share.
 * The ring also has connections that are no longer half-open. They leave it as the oldest ones. */
INLINE bool must_end_half_open(void)
{
	const struct pool *pool = map_elem(pools, 0);
	u32 used = pool ? READ_ONCE(pool->used) : 0;
	if (!pool || likely(used < pool->capacity / 2))
		return false;
	const struct half_open_queue *queue = map_elem(half_open_queues, 0);
	u32 free = used < pool->capacity ? pool->capacity - used : 0;
	u32 stay = pool->capacity / HALF_OPEN_SHARE;
	if (free < stay)
		stay = free;
	return queue && queue->end - queue->first > (u64)half_opens_each * stay / (pool->capacity ?: 1);
}

/* Append a connection. If the ring is full, its oldest connection leaves it, and stays until its timeout. */
INLINE void append_half_open(struct half_open_queue *queue, const struct half_open *entry)
{
	struct half_open *element = ring_entry(queue->end);
	if (!element)
		return;
	*element = *entry;
	queue->end += 1;
	if (queue->end - queue->first > half_opens_each)
		queue->first += 1;
}

/* Note a new half-open connection. */
INLINE void note_half_open(u32 slot, u32 generation, u32 service)
{
	struct half_open_queue *queue = map_elem(half_open_queues, 0);
	if (!queue)
		return;
	u32 round = round_of(queue);
	struct service_syns *syns = syns_in_round(service, round);
	if (syns)
		syns->now += 1;
	queue->made += 1;
	if (unlikely(round_of(queue) != round) && queue->halvings)
		queue->halvings -= 1;
	struct half_open entry = {.slot = slot, .generation = generation};
	append_half_open(queue, &entry);
}
