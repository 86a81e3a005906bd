/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Rate limits of ICMP errors: for each CPU, and for each receiver over all CPUs. Errors that report a path MTU do not
 * count for the CPU, as in Linux, because a connection stops without them.
 *
 * The copies of `pylvs trace` share the state, so a traced packet takes from the same limits.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"
#include "abi/percpu.h"
#include "parse/packet.h"

enum { PEER_SHARE = 4 }; /* a receiver gets at most this part of a CPU's errors */

/* Count an event. Return whether it is among the first `limit` of this second. */
INLINE bool is_within(u64 *window, u32 limit)
{
	u32 second = ticks() / ticks_per_second;
	u64 seen = READ_ONCE(*window);
	if ((u32)(seen >> 32) != second)
		__sync_val_compare_and_swap(window, seen, (u64)second << 32);
	else if ((u32)seen >= limit)
		return false; /* without a store, so that CPUs share the cache line */
	return (u32)__sync_fetch_and_add(window, 1) < limit;
}

/* Return the window of the packet's sender, by a keyed hash: one for path MTUs, another one for other errors. */
INLINE u64 *peer_window(const struct packet *p, bool reports_mtu)
{
	struct address peer = {};
	packet_saddr(&peer, p);
	u64 mixed = reports_mtu;
	for (u32 i = 0; i < 4; i++) {
		mixed = (mixed ^ peer.word[i]) * table_key.seeds[0];
		mixed ^= mixed >> 32;
	}
	u32 at = (u32)(mixed * table_key.seeds[1] >> 32) & (PEER_WINDOWS - 1);
	return map_elem(peer_windows, at);
}

/* Whether an ICMP error may be sent to the packet's sender. */
INLINE bool may_send(const struct root *root, const struct packet *p, bool reports_mtu)
{
	struct limiter *limiter = map_elem(limiters, 0);
	u32 rate = root->settings.icmp_per_second, second = ticks() / ticks_per_second;
	if (!rate || !limiter)
		return true;
	u64 *window = peer_window(p, reports_mtu);
	if (!window || !is_within(window, rate / PEER_SHARE ?: 1))
		return false;
	if (reports_mtu)
		return true;
	if (limiter->tick != second) {
		limiter->tick = second;
		limiter->tokens = rate;
	}
	if (!limiter->tokens)
		return false;
	limiter->tokens -= 1;
	return true;
}
