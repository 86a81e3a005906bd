/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * VRRP roles. While another director is master of a virtual address (standby), this director neither modifies nor
 * counts packets to that address and replies from it. Without standby addresses the cost is one comparison with
 * `root.standby`.
 *
 * The map `standby` has all addresses of this host's virtual routers. Each value has one bit for each of two sets, so a
 * single store in the root changes the roles of many addresses together.
 */
#pragma once
#include "abi/config.h"
#include "lib/address.h"

/* Whether an address is standby. Callers check `root->standby` first. */
INLINE bool is_standby(const struct root *root, const struct address *address, bool is_ipv6)
{
	/* Load it first: the set in force keeps its bits until another one is in force. */
	u64 side = READ_ONCE(root->standby);
	if (!in_bitmap(AFTER(root, side)->standby_bits, address_hash(root->address_keys, address, is_ipv6)))
		return false;
	u8 *sets = bpf_map_lookup_elem(&standby, AFTER(address, side));
	return sets && *sets & side;
}

/* Whether a virtual router of this host has the address. If it is not standby, it counts as local, even before any
 * device has it. */
INLINE bool is_vrrp_address(const struct address *address)
{
	return bpf_map_lookup_elem(&standby, address);
}
