/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * This host's addresses, by the Director's snapshots: those of devices, and networks with a local route.
 */
#pragma once
#include "abi/config.h"

/* Whether a device has the address, or a local route contains it. A route of another kind may come before that route,
 * so first ask routing where a packet depends on it. */
INLINE bool has_local_route(const struct address *address, bool is_ipv6)
{
	/* A copy: Linux 6.1 accepts no map key from a global function's argument. */
	struct local_route key = {
		.bits = LOCAL_ROUTE_BITS, .family = is_ipv6 ? 6 : 4, .network = *address};
	return bpf_map_lookup_elem(&locals, &key.network) || bpf_map_lookup_elem(&local_routes, &key);
}
