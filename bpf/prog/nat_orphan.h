/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_NAT_ORPHAN: with sysctl nat_icmp_send, answer a NAT server's packet without a connection by "port unreachable"
 * (IPVS-SEMANTICS 2.7 step 6).
 */
#pragma once
#include "icmp/error.h"
#include "icmp/ratelimit.h"

struct orphan_search {
	const struct packet *packet;
	const struct root *root;
	struct address address;
	be16 port;
	u16 pad;
	u32 live;
	u32 found; /* a destination, or NO_INDEX */
	u32 pad2;
};

static int server_step(u32 index, struct orphan_search *s)
{
	struct destination *d = map_elem(destinations, AFTER((u64)index, s->live));
	if (!d)
		return 1;
	if (d->used != DESTINATION_USED_BY_NAT || d->port != s->port || d->family != (s->packet->is_ipv6 ? 6 : 4) ||
	    d->address.word[0] != s->address.word[0] || (!d->mark && d->protocol != s->packet->protocol))
		return 0;
	if (d->address.word[1] != s->address.word[1] || d->address.word[2] != s->address.word[2] ||
	    d->address.word[3] != s->address.word[3])
		return 0;
	if (s->root->standby && is_standby(s->root, &d->virtual_address, s->packet->is_ipv6))
		return 0; /* only the other director knows its connections */
	u32 flags = destination_flags(d, s->live);
	if (!(flags & DESTINATION_AVAILABLE) || method_in(flags) != METHOD_MASQ)
		return 0;
	s->found = index;
	return 1;
}

/* Return the NAT destination that has the packet's saddr, or NO_INDEX. */
INLINE u32 server_of(const struct packet *p, const struct root *root)
{
	struct orphan_search s = {.packet = p, .root = root, .live = READ_ONCE(root->live), .found = NO_INDEX};
	struct book *book = map_elem(books, 0);
	if (p->is_ipv6) {
		s.address = p->tuple.v6.saddr;
		s.port = p->tuple.v6.sport;
	} else {
		s.address.word[0] = p->tuple.v4.saddr;
		s.port = p->tuple.v4.sport;
	}
	if (book)
		bpf_loop(book->destination_top, server_step, &s, 0);
	return s.found;
}

INLINE int prog_nat_orphan(struct __sk_buff *skb)
{
	struct scratch *w = scratch_of(HOOK_TC);
	struct root *root = get_root();
	bool looked_up;
	if (!w)
		return pass_to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	bool searches = !p->rst && has_ports(p->protocol) && may_search_orphan(root);
	u32 server = searches ? server_of(p, root) : NO_INDEX;
	struct destination *d = map_elem(destinations, server);
	if (server == NO_INDEX || !d)
		return p->maybe_vip ? tail_call(tc_ctx(skb), PROG_NEW) : pass_packet(tc_ctx(skb), p);
	struct hop *hop = router_hop(tc_ctx(skb), p, ticks(), &looked_up);
	if (!hop)
		return pass_packet(tc_ctx(skb), p);
	w->destination = NO_INDEX;
	if (hop->verdict == HOP_LOCAL) /* the error comes from the packet's daddr */
		return send_icmp_error(skb, w, REASON_UNSERVED, ICMP_NO_PORT, 0);
	if (!is_forwardable(skb, p, hop) || !dec_ttl(tc_ctx(skb), p))
		return pass_packet(tc_ctx(skb), p);
	hop = destination_hop(tc_ctx(skb), server, d, ticks(), &looked_up);
	if (!hop)
		return pass_packet(tc_ctx(skb), p);
	struct address own = fib_gives_saddr ? hop->saddr : d->saddr;
	if (p->is_ipv6)
		p->tuple.v6.daddr = own;
	else
		p->tuple.v4.daddr = own.word[0];
	return send_icmp_error(skb, w, REASON_UNSERVED, ICMP_NO_PORT, 0);
}
