/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * sysctl nat_icmp_send (IPVS-SEMANTICS 2.7 step 6): a NAT real server whose answer belongs to no connection is told by
 * "port unreachable" that nobody waits for it.
 */
#pragma once
#include "icmp/error.h"

struct serving {
	const struct packet *packet;
	const struct root *root;
	struct address address;
	be16 port;
	u16 pad;
	u32 live;
	u32 found; /* a destination, or NOBODY */
	u32 pad2;
};

static int serving_step(u32 index, struct serving *s)
{
	struct destination *d = LOOKUP(destinations, AFTER((u64)index, s->live));
	if (!d)
		return 1;
	if (d->used != DESTINATION_USED_BY_NAT || d->port != s->port || d->family != (s->packet->six ? 6 : 4) ||
	    d->address.word[0] != s->address.word[0] || (!d->mark && d->protocol != s->packet->protocol))
		return 0;
	if (d->address.word[1] != s->address.word[1] || d->address.word[2] != s->address.word[2] ||
	    d->address.word[3] != s->address.word[3])
		return 0;
	if (s->root->standby && stands_by(s->root, &d->virtual_address, s->packet->six))
		return 0; /* the other director knows its connections */
	u32 flags = destination_flags(d, s->live);
	if (!(flags & DESTINATION_AVAILABLE) || method_in(flags) != METHOD_MASQ)
		return 0;
	s->found = index;
	return 1;
}

/* The NAT destination that the packet's source is, or NOBODY. */
INLINE u32 served_by(const struct packet *p, const struct root *root)
{
	struct serving s = {.packet = p, .root = root, .live = READ_ONCE(root->live), .found = NOBODY};
	struct book *book = LOOKUP(books, 0);
	if (p->six) {
		s.address = p->tuple.v6.source;
		s.port = p->tuple.v6.source_port;
	} else {
		s.address.word[0] = p->tuple.v4.source;
		s.port = p->tuple.v4.source_port;
	}
	if (book)
		bpf_loop(book->destination_top, serving_step, &s, 0);
	return s.found;
}

INLINE int stage_unserved(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	bool asked;
	if (!w)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	u32 server = p->rst || !has_ports(p->protocol) ? NOBODY : served_by(p, root);
	struct destination *d = LOOKUP(destinations, server);
	if (server == NOBODY || !d)
		return p->request ? go_on(skb, HOOK_TC, STAGE_NEW) : pass(skb, p, HOOK_TC);
	struct hop *hop = onward_hop(skb, p, HOOK_TC, ticks(), &asked);
	if (!hop)
		return pass(skb, p, HOOK_TC);
	w->chosen = NOBODY;
	if (hop->verdict == HOP_LOCAL) /* the error comes from the address that was asked for */
		return answer(skb, w, REASON_UNSERVED, p->six ? 1 : 3, p->six ? 4 : 3, 0);
	if (!would_pass_on(skb, p, hop) || !age(skb, p, HOOK_TC))
		return pass(skb, p, HOOK_TC);
	hop = destination_hop(skb, HOOK_TC, server, d, ticks(), &asked);
	if (!hop)
		return pass(skb, p, HOOK_TC);
	struct address own = fib_gives_source ? hop->source : d->source;
	if (p->six)
		p->tuple.v6.target = own;
	else
		p->tuple.v4.target = own.word[0];
	return answer(skb, w, REASON_UNSERVED, p->six ? 1 : 3, p->six ? 4 : 3, 0);
}
