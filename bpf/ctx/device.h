/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The device that receives a packet.
 */
#pragma once
#include "abi/config.h"
#include "ctx/ctx.h"

enum { NO_BOND = 0 };

/* Return the bond of a port, or NO_BOND. A driver runs the XDP program of a bond at its ports, with their ifindexes. */
INLINE u32 bond_of(u32 port)
{
	const struct device *device = map_elem(devices, port & (DEVICES - 1));
	return device && device->ifindex == port ? device->bond : NO_BOND;
}

/* Return the ifindex of the device that receives the packet. */
INLINE u32 ctx_ifindex(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP) {
		u32 bond = bond_of(ctx.xdp->ingress_ifindex);
		return unlikely(bond != NO_BOND) ? bond : ctx.xdp->ingress_ifindex;
	}
	return ctx.skb->ifindex;
}
