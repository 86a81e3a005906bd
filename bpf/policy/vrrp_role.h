/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Virtual addresses for which another director is MASTER: while they stand by, no packet to them and no answer from
 * them is touched or counted. A director without any pays one look at `root.standby`.
 *
 * The map has every address of this host's virtual routers. Two sets share it, a bit of the value each, so that one
 * store in the root changes the roles of many addresses together.
 */
#pragma once
#include "abi/config.h"
#include "lib/address.h"

/* Whether an address stands by. Callers look at `root->standby` first. */
INLINE bool is_standby(const struct root *root, const struct address *address, bool is_ipv6)
{
	u64 side = READ_ONCE(root->standby); /* first: the set in force has its bits from before it was until after */
	if (!in_bitmap(AFTER(root, side)->standby_bits, address_hash(address, is_ipv6)))
		return false;
	u8 *sets = bpf_map_lookup_elem(&standby, AFTER(address, side));
	return sets && *sets & side;
}

/* Whether it is of a virtual router here. One that does not stand by is this host's, though no device may have it yet. */
INLINE bool is_vrrp_address(const struct address *address)
{
	return bpf_map_lookup_elem(&standby, address);
}
