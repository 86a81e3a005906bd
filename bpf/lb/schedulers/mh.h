/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * mh, Maglev hashing (IPVS-SEMANTICS 3.14): 4093 slots, distributed by weight so that few slots change when a
 * destination is added or removed. A hash of the packet's saddr (and sport, with flag mh-port) selects the slot.
 * With mh-fallback, further hashes follow until a slot's destination is usable. IPVS tries as many as there are slots.
 * Here a walk over the list ends a search of MH_FIRST_TRIES hashes if no destination is usable, and one of MH_TRIES by
 * the first usable destination behind the client's position. If one slot in 63 is usable, that happens to one client of
 * ten million.
 *
 * An edit fills the table that is not in force (src/pylvs/dataplane/scheduler_tables.py).
 */
#pragma once
#include "lb/schedule.h"
#include "lib/siphash.h"

enum { MH_FIRST_TRIES = 64, MH_TRIES = 1024 };

struct mh_walk {
	struct candidates *c;
	const struct maglev_table *table;
	u32 client; /* folded saddr and sport */
	u32 slot;
	u32 first; /* number of the first further hash */
	u32 found;
};

/* SipHash-1-3 of four bytes, with the key k, k. */
INLINE u32 siphash13(u32 value, u64 k)
{
	struct sip s = sip_begin(k, k);
	sip_word(&s, 4ULL << 56 | value);
	return sip_end(&s);
}

/* Return the list index of the slot's destination, if it is usable. */
INLINE u32 mh_in_slot(const struct mh_walk *walk, u32 hash)
{
	u32 slot = barrier_var(hash % MAGLEV_SLOTS);
	if (slot >= MAGLEV_SLOTS)
		return NO_INDEX;
	u32 pos = walk->table->list_positions[slot];
	struct candidate it;
	return pos < walk->c->service->count && at_pos(walk->c, pos, &it) && is_usable(&it) ? pos : NO_INDEX;
}

static int mh_fallback_step(u32 step, struct mh_walk *walk)
{
	u32 again = (walk->first + step + walk->slot) % MAGLEV_SLOTS + walk->client;
	walk->found = mh_in_slot(walk, siphash13(again, MAGLEV_KEY_1));
	return walk->found != NO_INDEX;
}

/* Return the first usable destination of the list from a position that the client determines, or NO_INDEX. */
INLINE u32 mh_any(const struct mh_walk *walk)
{
	struct candidates *c = walk->c;
	u32 start = walk->slot % c->service->count, found = first_usable(c, start, c->service->count, 1);
	return found != NO_INDEX ? found : first_usable(c, 0, start, 1);
}

INLINE u32 mh_fallback(struct mh_walk *walk)
{
	bpf_loop(MH_FIRST_TRIES, mh_fallback_step, walk, 0);
	if (walk->found != NO_INDEX)
		return walk->found;
	u32 any = mh_any(walk);
	if (any == NO_INDEX)
		return NO_INDEX;
	walk->first = MH_FIRST_TRIES;
	bpf_loop(MH_TRIES - MH_FIRST_TRIES, mh_fallback_step, walk, 0);
	return walk->found != NO_INDEX ? walk->found : any;
}

static u32 schedule_mh(struct candidates *c)
{
	const struct scratch *w = c->w;
	struct mh_walk walk = {.c = c, .table = map_elem(maglev_tables, w->service.slot << 1 | w->service.table)};
	if (!walk.table)
		return NO_INDEX;
	walk.client = client_fold(w);
	u32 hash = siphash13(walk.client, MAGLEV_KEY_1);
	walk.slot = hash % MAGLEV_SLOTS;
	walk.found = mh_in_slot(&walk, hash);
	if (walk.found == NO_INDEX && w->service.flags & SERVICE_FALLBACK)
		return mh_fallback(&walk);
	return walk.found;
}

SCHEDULER(mh, 11, HASHES_CLIENT)
