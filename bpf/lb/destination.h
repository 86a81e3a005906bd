/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A destination's flags, method, tunnel and weight in the generation in force.
 */
#pragma once
#include "abi/config.h"
#include "lib/headers.h"

/* Return the flags in the generation in force. */
INLINE u32 destination_flags(const struct destination *d, u32 live)
{
	d = AFTER(d, live);
	u64 newer = READ_ONCE(d->states[0]), older = READ_ONCE(d->states[1]);
	if ((s32)((u32)(older >> 32) - (u32)(newer >> 32)) > 0) {
		u64 swap = newer;
		newer = older;
		older = swap;
	}
	return (s32)(live - (u32)(newer >> 32)) >= 0 ? (u32)newer : (u32)older;
}

/* Whether packets of its connections are forwarded, without expire_nodest_conn. IPVS drops those of a destination that
 * was deleted. Here they continue if its whole service was deleted: it may come back, as at a restart. */
INLINE bool keeps_conns(u32 flags)
{
	return flags & (DESTINATION_AVAILABLE | DESTINATION_ORPHANED);
}

INLINE bool serves_conns(u32 flags, const struct settings *settings)
{
	return flags & DESTINATION_AVAILABLE ||
	       (unlikely(flags & DESTINATION_ORPHANED) && !settings->expire_nodest_conn);
}

INLINE u32 method_in(u32 flags)
{
	return flags >> DESTINATION_METHOD & 15;
}

/* Return the weight in the generation in force. The halves are those of the flags: dataplane/tables.py
 * writes both. */
INLINE s32 destination_weight(const struct destination *d, u32 live)
{
	d = AFTER(d, live);
	u32 first = READ_ONCE(d->states[0]) >> 32, second = READ_ONCE(d->states[1]) >> 32;
	bool newer = (s32)(second - first) > 0;
	bool reached = (s32)(live - (newer ? second : first)) >= 0;
	return newer == reached ? d->weights[1] : d->weights[0];
}

INLINE u32 tunnel_kind(u32 state)
{
	return state >> DESTINATION_TUNNEL & 3;
}

INLINE u32 tunnel_flags(u32 state)
{
	return state >> (DESTINATION_TUNNEL + 2) & 3;
}

/* Return the bytes between outer and inner IP header. */
INLINE u32 tunnel_hlen(u32 state)
{
	switch (tunnel_kind(state)) {
	case TUNNEL_GRE:
		return GRE_HLEN + (tunnel_flags(state) & TUNNEL_CSUM ? GRE_CSUM_LEN : 0);
	case TUNNEL_GUE:
		return UDP_HLEN + GUE_HLEN;
	default:
		return 0;
	}
}
