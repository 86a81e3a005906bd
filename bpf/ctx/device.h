/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The device that receives a packet.
 */
#pragma once
#include "abi/config.h"
#include "ctx/ctx.h"

enum { NO_BOND = 0, NO_DEVICE = 0, NO_XDP = 1u << 31 };

/* Return the bond of a port, or NO_BOND. A driver runs the XDP program of a bond at its ports, with their ifindexes. */
INLINE u32 bond_of(u32 port)
{
	const struct device *device = map_elem(devices, port & (DEVICES - 1));
	return device && device->ifindex == port ? device->bond : NO_BOND;
}

/* Return the facts of a VLAN device; NULL if the device below it runs no XDP, or it is no VLAN device. */
INLINE const struct device *vlan_device(u32 ifindex)
{
	const struct device *device = map_elem(devices, ifindex & (DEVICES - 1));
	return device && device->ifindex == ifindex && device->trunk ? device : NULL;
}

/* Whether frames with this tag belong to a VLAN device, if they come by this port. */
INLINE bool is_on_vlan(u32 ifindex, u32 port, u16 vid)
{
	const struct device *device = vlan_device(ifindex);
	return device && device->vid == vid && (device->trunk == port || device->trunk == bond_of(port));
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

/* Return the facts of the output, if XDP below both VLAN devices receives frames of the input and can send them by
 * it. */
INLINE const struct device *on_same_trunk(u32 input, u32 output)
{
	const struct device *from = vlan_device(input);
	if (likely(!from))
		return NULL;
	const struct device *to = input == output ? from : vlan_device(output);
	return to && to->trunk == from->trunk ? to : NULL;
}

/* Return the device whose packets the fast path of XDP may take, if they leave by `output`; NO_XDP: none. At TC that is
 * a VLAN device, because its frames come by a device that may run XDP. */
INLINE u32 fast_input(struct ctx ctx, u32 output)
{
	if (ctx.hook == HOOK_XDP)
		return ctx_ifindex(ctx);
	return unlikely(on_same_trunk(ctx.skb->ifindex, output)) ? ctx.skb->ifindex : NO_XDP;
}
