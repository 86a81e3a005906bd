/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Flows without a connection. PROG_HASH_FALLBACK chooses their destination by a hash of the client. So each packet of a
 * flow gets the same one, until the flow has a connection.
 *
 * A flow has none if the table is full, or if its SYN came while the CPU was flooded. From then on the service is in
 * fallback time for as long as such flows may live: it schedules all new flows by the hash.
 */
#pragma once
#include "conntrack/credits.h"
#include "conntrack/half_open.h"
#include "ctx/scratch.h"
#include "lb/schedule.h"
#include "lib/siphash.h"

enum {
	FULL_S = 900, /* fallback time while the table is full: IPVS's timeout of an idle TCP connection, by default */
	FLOODED_S = 130, /* and after a SYN of a flood: Linux tries for 127 s to open a connection (tcp_syn_retries) */
	CHOICE_SERVICE = 17, /* bits of a choice, behind the list index */
	CHOICE_GENERATION = 31,
};

/* Whether flows of the service may live without a connection. */
INLINE bool in_fallback_time(const struct service_state *state, u32 now)
{
	u32 until = READ_ONCE(state->stateless_until);
	return unlikely(until) && (s32)(until - now) > 0;
}

/* Let them, for so many seconds from now on. */
INLINE void begin_fallback_time(u32 service, u32 now, u32 seconds)
{
	struct service_state *state = map_elem(service_states, service);
	u32 until = (now + seconds * ticks_per_second) ?: 1;
	if (state && !is_dry() && (!in_fallback_time(state, now) || (s32)(until - state->stateless_until) > 0))
		WRITE_ONCE(state->stateless_until, until);
}

/* Whether the table has no space for a connection to a server that is not reached by NAT. */
INLINE bool is_full(void)
{
	const struct percpu_credits *m = map_elem(percpu_credits, 0);
	const struct pool *pool = map_elem(pools, 0);
	return m && !m->credits && pool && READ_ONCE(pool->used) >= capacity_for(pool, false);
}

/* Whether a SYN to the service gets no connection because of a flood. */
INLINE bool is_flood_syn(const struct packet *p, u32 service, u32 now)
{
	const struct half_open_queue *queue = map_elem(half_open_queues, 0);
	return queue && is_flooded(queue, now) && p->syn && p->protocol == IPPROTO_TCP &&
	       !has_reserved_share(service, queue);
}

/* --- choices --- */

/* Return the number of the client's group. Persistence, sh and mh choose by the client's address alone; `masked` is the
 * tuple of its template. */
INLINE u32 group_of(const struct packet *p, const union tuple *masked, u32 scheduler, u32 service_flags,
		    const struct root *root)
{
	bool persistent = service_flags & SERVICE_PERSISTENT;
	bool by_address = scheduler_has(scheduler, HASHES_CLIENT) && !(service_flags & SERVICE_BY_PORT);
	const union tuple *tuple = persistent ? masked : &p->tuple;
	u64 port = persistent || by_address ? 0 : packet_sport(p);
	struct sip s = sip_begin(root->fallback_key[0], root->fallback_key[1]);
	if (p->is_ipv6) {
		const be32 *word = tuple->v6.saddr.word;
		sip_word(&s, word[0] | (u64)word[1] << 32);
		sip_word(&s, word[2] | (u64)word[3] << 32);
		sip_word(&s, port);
	} else {
		sip_word(&s, tuple->v4.saddr | port << 32);
	}
	return sip_end(&s) >> 32 & (CHOICES - 1);
}

/* Return where the choice of a group is remembered until the service changes. */
INLINE u64 *choice_of(u32 group, u32 service)
{
	return map_elem(fallback_choices, (group ^ service * 0x9e3779b9u >> 16) & (CHOICES - 1));
}

/* Return a choice of this version of a service, with the list index 0. */
INLINE u64 first_choice(u32 service, u32 generation)
{
	return 1ULL << 63 | (u64)generation << CHOICE_GENERATION | (u64)service << CHOICE_SERVICE;
}

/* Return the list index of a choice, or NO_INDEX if it is of another version or service. */
INLINE u32 chosen_pos(u64 choice, u32 service, u32 generation, u32 count)
{
	u32 pos = choice & ((1U << CHOICE_SERVICE) - 1);
	return (choice ^ first_choice(service, generation)) >> CHOICE_SERVICE || pos >= count ? NO_INDEX : pos;
}
