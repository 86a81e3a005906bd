/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Half-open connections take a bounded share of the table, so a SYN flood cannot fill it.
 *
 * Each CPU keeps the half-open connections that it made in a ring. A new one takes the place of the oldest one. If that
 * is still half-open, it ends, so under a flood the lifetime of half-open connections adapts to the rate. Established
 * connections are never ended.
 *
 * A service that made few of the ring's connections has a reserved share: its half-open connections stay, and those of
 * other services end sooner.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/lookup.h"
#include "lb/destination.h"

enum half_open_limits {
	HALF_OPEN_SECONDS = 64, /* afterwards a connection is either established or expired */
	HALF_OPEN_RESERVED = 16, /* a service with less than this part of the ring has a reserved share */
	HALF_OPEN_STEPS = 8, /* elements that a new connection visits, at most */
};

enum half_open_fate { HALF_OPEN_GONE, HALF_OPEN_STAYS };

INLINE bool is_half_open_state(u32 state)
{
	return (1u << STATE_SYN_RECV | 1u << STATE_SYN_SENT | 1u << STATE_SYNACK | 1u << STATE_SCTP_INIT1 |
		1u << STATE_SCTP_INIT) >> state & 1;
}

INLINE u16 second_of(u32 tick)
{
	return tick / (ticks_per_second ?: 1);
}

INLINE struct service_syns *syns_in_round(u32 service, u32 round)
{
	struct service_syns *syns = map_elem(service_syns, service);
	if (!syns)
		return NULL;
	if (syns->round != round) {
		syns->before = syns->round + 1 == round ? syns->now : 0;
		syns->now = 0;
		syns->round = round;
	}
	return syns;
}

/* Whether the service made few of the connections in the ring. */
INLINE bool has_reserved_share(u32 service, u32 round)
{
	struct service_syns *syns = syns_in_round(service, round);
	u32 few = half_opens_each / HALF_OPEN_RESERVED;
	return syns && syns->now < few && syns->before < few;
}

/* End the connection if it is still half-open, unless its service has a reserved share. */
VERIFIED_ONCE int end_half_open(u32 slot, u32 generation, u32 round)
{
	struct slot_conn held;
	if (!is_complete(slot) || !conn_of_slot(slot, &held))
		return HALF_OPEN_GONE;
	struct connection *c = held.found.connection;
	u64 *word = connection_word(&held.found);
	u64 seen = word ? READ_ONCE(*word) : 0;
	if (!word || seen >> WORD_GENERATION != generation || word_dying(seen) || !is_half_open_state(word_state(seen)))
		return HALF_OPEN_GONE;
	struct destination *d = map_elem(destinations, c->destination);
	if (!d && c->method != METHOD_BYPASS)
		return HALF_OPEN_GONE;
	if (d && has_reserved_share(d->service, round))
		return HALF_OPEN_STAYS;
	if (end_conn(&held.tuple, held.is_ipv6, &held.found, word, seen, d, END_KILLED))
		count(REASON_HALF_OPEN_ENDED);
	return HALF_OPEN_GONE;
}

/* Put a new half-open connection into the ring of this CPU. Where all places that it may visit have connections with a
 * reserved share, it takes the last one's place, and that one stays until its timeout. */
VERIFIED_ONCE int note_half_open(u32 slot, u32 generation, u32 service, u32 now)
{
	struct half_open_walk *walk = map_elem(half_open_walks, 0);
	u32 first = bpf_get_smp_processor_id() % (half_open_rings ?: 1) * half_opens_each;
	if (!walk)
		return 0;
	struct service_syns *syns = syns_in_round(service, walk->round);
	if (syns)
		syns->now += 1;
#pragma nounroll
	for (u32 i = 0; i < HALF_OPEN_STEPS; i++) {
		struct half_open *place = map_elem(half_opens, first + walk->at);
		if (!place)
			return 0;
		walk->at += 1;
		if (walk->at >= half_opens_each) {
			walk->at = 0;
			walk->round += 1;
		}
		bool is_old = !place->slot || (u16)(second_of(now) - place->second) > HALF_OPEN_SECONDS;
		if (!is_old && end_half_open(place->slot, place->generation, walk->round) == HALF_OPEN_STAYS &&
		    i + 1 < HALF_OPEN_STEPS)
			continue;
		*place = (struct half_open){.slot = slot, .generation = generation, .second = second_of(now)};
		return 0;
	}
	return 0;
}
