/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The entries by which replies of IPv6 NAT connections find them.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

/* Whether an element is no longer in a hash map. */
INLINE bool is_deleted(long error)
{
	return !error || error == -ENOENT;
}

INLINE void reply_key6(struct tuple6 *key, const struct tuple6 *request, const struct address *real, be16 port)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = *real;
	key->daddr = request->saddr;
	key->sport = port;
	key->dport = request->sport;
	key->protocol = request->protocol;
}

NOINLINE int remove_reverse6(const struct tuple6 *request, const struct destination *d, u32 slot, be16 port)
{
	struct tuple6 key;
	if (!request || !d)
		return true;
	reply_key6(&key, request, &d->address, port);
	struct reply6 *reply = bpf_map_lookup_elem(&replies6, &key);
	return !reply || reply->slot != slot || is_deleted(bpf_map_delete_elem(&replies6, &key));
}
