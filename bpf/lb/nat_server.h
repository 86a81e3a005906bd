/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Find the NAT destination that a packet without a connection comes from: its saddr and sport are the destination's. Of
 * several the newest one is taken, as in the kernel's table of real servers. Anyone can send such packets, so the cost
 * must not depend on the number of destinations.
 */
#pragma once
#include "conntrack/entry.h"
#include "ctx/scratch.h"
#include "lb/destination.h"
#include "lib/address.h"
#include "policy/vrrp_role.h"

enum { NAT_SERVER_STEPS = 1024 }; /* destinations of one address and port that a packet visits, at most */

struct nat_server_search {
	const struct packet *packet;
	const struct root *root;
	struct nat_server key;
	u32 live;
	u32 at; /* the next destination */
	u32 found; /* a destination, or NO_INDEX */
};

static int server_step(u32 step, struct nat_server_search *s)
{
	u32 index = s->at;
	struct destination *d = map_elem(destinations, AFTER((u64)index, s->live));
	u64 *older = map_elem(nat_older, index);
	if (!d || !older)
		return 1;
	s->at = (u32)READ_ONCE(*older) - 1;
	/* An edit may have given the slot to another destination. */
	if (d->used != DESTINATION_USED_BY_NAT || d->port != s->key.port || d->family != s->key.family ||
	    (!d->mark && d->protocol != s->packet->protocol) || !same_address(&d->address, &s->key.address, true))
		return 0;
	if (s->root->standby && is_standby(s->root, &d->virtual_address, s->packet->is_ipv6))
		return 0; /* only the other director knows its connections */
	u32 flags = destination_flags(d, s->live);
	if (!(flags & DESTINATION_AVAILABLE) || method_in(flags) != METHOD_MASQ)
		return 0;
	s->found = index;
	return 1;
}

/* Return the NAT destination that has the packet's saddr and sport, or NO_INDEX. */
INLINE u32 nat_server_of(const struct packet *p, const struct root *root, u32 live)
{
	struct nat_server_search s = {.packet = p, .root = root, .live = live, .found = NO_INDEX};
	packet_saddr(&s.key.address, p);
	s.key.port = packet_sport(p);
	s.key.family = p->is_ipv6 ? 6 : 4;
	u32 *newest = bpf_map_lookup_elem(&nat_servers, AFTER(&s.key, live));
	if (!newest)
		return NO_INDEX;
	s.at = *newest;
	bpf_loop(NAT_SERVER_STEPS, server_step, &s, 0);
	return s.found;
}

/* Whether a NAT server sends a packet. */
VERIFIED_ONCE int is_of_nat_server(const struct packet *p)
{
	const struct root *root = get_root();
	return p && nat_server_of(p, root, READ_ONCE(root->live)) != NO_INDEX;
}
