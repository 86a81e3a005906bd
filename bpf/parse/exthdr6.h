/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPv6 extension headers (RFC 8200 4).
 */
#pragma once
#include "lib/headers.h"

enum { EXTENSION_HOP = 0, EXTENSION_ROUTING = 43, EXTENSION_AH = 51, EXTENSION_TARGET = 60, EXTENSIONS = 8 };

INLINE bool is_known6(u8 next)
{
	return has_ports(next) || next == PROTO_ICMP6 || next == PROTO_ESP;
}

INLINE bool is_extension(u8 next)
{
	return next == EXTENSION_HOP || next == EXTENSION_ROUTING || next == EXTENSION_TARGET || next == EXTENSION_AH;
}

struct extension {
	u8 next;
	u8 length;
	be16 place; /* of a fragment header */
	be32 id;
};
