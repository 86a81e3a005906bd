/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Packets to the address of a virtual router whose master is another director.
 */
#pragma once
#include "parse/packet.h"
#include "policy/vrrp_role.h"

/* Whether the daddr is a virtual address for which another director is master. */
INLINE bool daddr_is_standby(const struct packet *p, const struct root *root)
{
	struct address daddr = {};
	packet_daddr(&daddr, p);
	return is_standby(root, &daddr, p->is_ipv6);
}
