/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Announce connections to other directors, while a process reads the ring of `sync_rings` (IPVS-SEMANTICS 10.4). That
 * process renews `root.sync`, a tick, so a killed one leaves no cost: the expiry timer clears it. Off, it costs a
 * comparison with a word beside those that every packet reads.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

/* What happened to the connection: a request was forwarded, or an ICMP error about it, which counts and does not
 * announce it. */
enum sync_cause { SYNC_REQUEST, SYNC_ICMP };

/* Count a packet of a connection, and announce the connection and its template if that is due (conntrack/announce.h). */
VERIFIED_ONCE int note_synced(u32 slot, u32 cause, u32 now);

/* Announce a connection or template if that is due, at so many packets. Return whether it is. */
VERIFIED_ONCE u32 announce(u32 slot, u32 packets, u32 now);

INLINE void sync_conn(const struct root *root, u32 slot, enum sync_cause cause, u32 now)
{
	if (unlikely(READ_ONCE(root->sync)) && !is_dry())
		note_synced(slot, cause, now);
}
