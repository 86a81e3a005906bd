/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The table of IPv4 connections: one array, a cache line for each place, so that an established connection costs one
 * access to memory. (The kernel's hash map costs two, a call and a hash; IPv6 uses it.)
 *
 * A connection stands in its home, which its tuple's hash names, or in one of the next places; its home knows in which
 * (`homed`). Where all of them are taken it stands near a second home, and the first one says so. The hash is keyed, so
 * that nobody outside can choose tuples that meet. The place is the connection's slot, and never changes.
 *
 * There is no lock. Who puts a connection in takes a free place by compare-exchange, fills it, and then sets its bit in
 * the home: that exchange says who was there before, so of two CPUs with the same tuple the later one knows, and takes
 * its own out. What goes leaves its home first, then its tuple, then the place becomes free; a reader may still hold it,
 * as with any hash map (connection.h).
 */
#pragma once
#include "stage.h"

#define TABLE_NEAR ((1ULL << TABLE_WINDOW) - 1)
#define TABLE_ELSEWHERE (1ULL << TABLE_WINDOW) /* some stand near their second home */

/* Wide words of a tuple: addresses; ports, protocol, kind and number. */
struct key4 {
	u64 addresses;
	u64 rest;
};

INLINE struct key4 key4_of(const struct tuple4 *tuple)
{
	const u64 *words = (const void *)tuple;
	return (struct key4){words[0], words[1]};
}

/* Multiply-shift over two words, with secret odd factors (Dietzfelbinger 1996): of any two tuples, few pairs of factors
 * make them meet. Place 0 is no connection's. */
INLINE u32 home_of(u64 addresses, u64 rest)
{
	u64 mixed = addresses * seed_1 + rest * seed_2;
	return 1 + (u32)((mixed >> 32) * homes4 >> 32);
}

INLINE u32 second_home_of(u64 addresses, u64 rest)
{
	u64 mixed = rest * seed_1 + (addresses ^ addresses >> 32) * seed_2;
	return 1 + (u32)((mixed >> 32) * homes4 >> 32);
}

INLINE bool stands_in(const struct place4 *place, u64 addresses, u64 rest)
{
	const u64 *words = (const void *)&place->tuple;
	return words[0] == addresses && words[1] == rest;
}

INLINE u32 find_from(u32 home, u64 homed, u64 addresses, u64 rest)
{
	for (u32 i = 0; i < TABLE_WINDOW; i++, homed >>= 1) {
		if (!(homed & 1))
			continue;
		struct place4 *place = LOOKUP(connections4, home + i);
		if (place && stands_in(place, addresses, rest))
			return home + i;
	}
	return 0;
}

/* Where a tuple stands, though not in its home; 0: nowhere. */
VERIFIED_ONCE u32 find_further(u64 addresses, u64 rest)
{
	u32 home = home_of(addresses, rest);
	struct place4 *first = LOOKUP(connections4, home);
	if (!first)
		return 0;
	u64 homed = READ_ONCE(first->homed);
	u32 found = find_from(home, homed, addresses, rest);
	if (likely(found || !(homed & TABLE_ELSEWHERE)))
		return found;
	u32 second = second_home_of(addresses, rest);
	struct place4 *other = LOOKUP(connections4, second);
	return other ? find_from(second, READ_ONCE(other->homed), addresses, rest) : 0;
}

INLINE struct place4 *find_place(u64 addresses, u64 rest)
{
	struct place4 *home = LOOKUP(connections4, home_of(addresses, rest));
	if (!home)
		return NULL;
	u64 homed = READ_ONCE(home->homed);
	if (likely(homed & 1) && likely(stands_in(home, addresses, rest)))
		return home;
	if (likely(!(homed & ~1ULL)))
		return NULL;
	u32 slot = find_further(addresses, rest);
	return slot ? LOOKUP(connections4, slot) : NULL;
}

/* --- putting in: take a place, fill it, then publish it or give it back --- */

#define NO_PLACE 0u
#define STANDS_ALREADY 0xffffffffu

INLINE u32 free_place_from(u32 home)
{
	for (u32 i = 0; i < TABLE_WINDOW; i++) {
		struct place4 *place = LOOKUP(connections4, home + i);
		if (place && !READ_ONCE(place->connection.slot) &&
		    !__sync_val_compare_and_swap(&place->connection.slot, 0, home + i))
			return home + i;
	}
	return NO_PLACE;
}

/* Take a place for a tuple: its slot, or NO_PLACE, or STANDS_ALREADY. */
VERIFIED_ONCE u32 take_place(u64 addresses, u64 rest)
{
	u32 home = home_of(addresses, rest);
	struct place4 *first = LOOKUP(connections4, home);
	if (!first)
		return NO_PLACE;
	if (unlikely(READ_ONCE(first->homed)) && find_further(addresses, rest))
		return STANDS_ALREADY;
	u32 slot = free_place_from(home);
	return likely(slot) ? slot : free_place_from(second_home_of(addresses, rest));
}

/* From now on the tuple is found in its place. False: it was found before, in another one. */
VERIFIED_ONCE int publish_place(u64 addresses, u64 rest, u32 slot)
{
	u32 home = home_of(addresses, rest), second = second_home_of(addresses, rest);
	struct place4 *first = LOOKUP(connections4, home), *other = LOOKUP(connections4, second);
	if (!first || !other)
		return false;
	if (likely(slot - home < TABLE_WINDOW)) {
		u64 before = __sync_fetch_and_or(&first->homed, 1ULL << (slot - home & 63));
		return likely(!(before & TABLE_NEAR)) || !find_from(home, before, addresses, rest);
	}
	u64 before = __sync_fetch_and_or(&other->homed, 1ULL << (slot - second & 63));
	u64 near = __sync_fetch_and_or(&first->homed, TABLE_ELSEWHERE);
	return !find_from(second, before, addresses, rest) && !find_from(home, near, addresses, rest);
}

INLINE void free_place(struct place4 *place)
{
	u64 *words = (void *)&place->tuple;
	WRITE_ONCE(words[1], 0);
	WRITE_ONCE(words[0], 0);
	__sync_lock_test_and_set(&place->connection.slot, 0);
}

/* --- taking out --- */

INLINE void leave_home(u32 home, u32 slot)
{
	struct place4 *place = LOOKUP(connections4, home);
	if (place && slot - home < TABLE_WINDOW)
		__sync_fetch_and_and(&place->homed, ~(1ULL << (slot - home & 63)));
}

/* The tuple is found no more, though it stands there. Nobody else's bit can name a place that is taken. */
VERIFIED_ONCE int hide_place(u64 addresses, u64 rest, u32 slot)
{
	leave_home(home_of(addresses, rest), slot);
	leave_home(second_home_of(addresses, rest), slot);
	return 0;
}
