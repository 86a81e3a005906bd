/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Find the NAT destination that a packet without a connection comes from: its saddr and sport are the destination's. Of
 * several the newest one is taken, as in the kernel's table of real servers.
 */
#pragma once
#include "ctx/scratch.h"
#include "lb/destination.h"
#include "lib/address.h"
#include "policy/vrrp_role.h"

struct nat_server_search {
	const struct packet *packet;
	const struct root *root;
	struct address address;
	be16 port;
	u16 pad;
	u32 live;
	u32 top; /* behind the last destination */
	u32 found; /* a destination, or NO_INDEX */
};

static int server_step(u32 step, struct nat_server_search *s)
{
	u32 index = s->top - 1 - step;
	struct destination *d = map_elem(destinations, AFTER((u64)index, s->live));
	if (!d)
		return 1;
	if (d->used != DESTINATION_USED_BY_NAT || d->port != s->port || d->family != (s->packet->is_ipv6 ? 6 : 4) ||
	    (!d->mark && d->protocol != s->packet->protocol) || !same_address(&d->address, &s->address, true))
		return 0;
	if (s->root->standby && is_standby(s->root, &d->virtual_address, s->packet->is_ipv6))
		return 0; /* only the other director knows its connections */
	u32 flags = destination_flags(d, s->live);
	if (!(flags & DESTINATION_AVAILABLE) || method_in(flags) != METHOD_MASQ)
		return 0;
	s->found = index;
	return 1;
}

/* Return the NAT destination that has the packet's saddr, or NO_INDEX. It visits every destination. */
INLINE u32 nat_server_of(const struct packet *p, const struct root *root, u32 live)
{
	struct nat_server_search s = {.packet = p, .root = root, .live = live, .found = NO_INDEX};
	struct book *book = map_elem(books, 0);
	packet_saddr(&s.address, p);
	s.port = packet_sport(p);
	s.top = book ? book->destination_top : 0;
	bpf_loop(s.top, server_step, &s, 0);
	return s.found;
}
