/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPv6 extension headers (RFC 8200 4).
 */
#pragma once
#include "lib/headers.h"

enum { MAX_EXTENSIONS = 8 /* limit of the walk */ };

INLINE bool is_transport6(u8 next)
{
	return has_ports(next) || next == IPPROTO_ICMPV6 || next == IPPROTO_ESP;
}

INLINE bool is_extension(u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_AH;
}

struct extension {
	u8 next;
	u8 length;
	be16 frag_off; /* of a fragment header: offset and flags */
	be32 id;
};
