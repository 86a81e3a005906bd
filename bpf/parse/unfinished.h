/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Unfinished transport checksums (CHECKSUM_PARTIAL): the sender left the field at the sum of the pseudo header, and the
 * sending device completes it. Virtual machines, containers and the kernel's GRO send such packets. TC has the kernel's
 * note of that, and the redirect keeps it. XDP has no such note, and frames that it sends leave as they are. So XDP
 * passes them to TC.
 *
 * The field itself tells them: a finished checksum has this value in one packet of 65,535, and TC forwards that one,
 * too.
 */
#pragma once
#include "lib/address.h"
#include "lib/csum.h"
#include "lib/headers.h"

/* `sum` is that of both addresses and of the length of transport header and payload, perhaps with a multiple of 65535.
 * All is in network order. `check` is the field: subtracted, because its complement is added. */
INLINE bool is_unfinished(u64 sum, u8 protocol, u16 check)
{
	return csum_is_right(sum + 0xffff + bpf_htons(protocol) - check);
}

/* Sum both addresses of an IPv6 header. */
INLINE u64 addresses_sum6(const struct ipv6_header *ip)
{
	return address_sum(&ip->saddr, 4, false) + address_sum(&ip->daddr, 4, false);
}
