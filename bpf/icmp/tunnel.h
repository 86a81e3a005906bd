/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * ICMP errors about the packets of tunnels, which reach this host as their sender (IPVS-SEMANTICS 8.5). The quotation
 * has the client's packet behind the tunnel's header; the client gets the same error about that one, from the virtual
 * address. IPv4 in IPv4 alone: so does IPVS.
 */
#pragma once
#include "fwd/account.h"
#include "icmp/error.h"
#include "icmp/inner.h"
#include "icmp/send.h"

enum { MTU_LEAST_REPORTED = 68 + IPV4_BYTES };

/* The MTU of the route to a destination, whatever was learnt of the path. */
INLINE u32 route_mtu(struct __sk_buff *skb, struct work *w, const struct destination *d)
{
	ask_hop(skb, HOOK_TC, &w->hop, &d->address, false, loopback, NULL);
	return d->mtu && d->mtu < w->hop.mtu ? d->mtu : w->hop.mtu;
}

/* What a "fragmentation needed" teaches; false if the client need not know. */
INLINE bool learn(struct __sk_buff *skb, struct work *w, const struct destination *d)
{
	u32 mtu = w->error_rest & 0xffff, route = route_mtu(skb, w, d);
	if (route)
		mtu = learn_path(&d->address, mtu, route, ticks());
	forget_hops(w->chosen);
	if (mtu > MTU_LEAST_REPORTED)
		mtu -= IPV4_BYTES;
	w->error_rest = mtu;
	return w->quote.df;
}

/* What is left of the frame is the client's packet as it was quoted; it becomes the error's quotation. */
INLINE int report(struct __sk_buff *skb, struct work *w, const struct root *root)
{
	struct packet *p = &w->packet;
	u32 cut = w->quote.at - ETHER;
	p->length -= cut;
	p->tos = w->quote.tos;
	p->tuple = w->quote.tuple;
	p->l4 = 0xffff; /* nothing in it is to be completed on the way */
	account_out(w->chosen, p->length, root);
	if (w->quote.later) /* errors are about first fragments (RFC 1122 3.2.2) */
		return dropped(HOOK_TC, REASON_SHORT);
	if (cut > 4095 || bpf_skb_adjust_room(skb, -(s32)cut, BPF_ADJ_ROOM_MAC, 0))
		return dropped(HOOK_TC, REASON_SHORT);
	return go_on(skb, HOOK_TC, STAGE_ICMP);
}

struct tunnel_head { /* what stands between the two IP headers of a tunnel's packet */
	u32 kind;
	u32 bytes;
	u32 port; /* of GUE */
};

/* Like IPVS: version 0 of each, GRE with no more than a checksum, GUE with data; IPv4 behind it. */
INLINE bool read_tunnel_head(struct __sk_buff *skb, const struct quote *q, struct tunnel_head *head)
{
	be16 gre[2];
	struct {
		be16 source, target, length, check;
		u8 version_control_words, protocol;
		be16 flags;
	} gue;
	*head = (struct tunnel_head){.kind = TUNNEL_IPIP};
	if (q->protocol == PROTO_IPIP)
		return true;
	if (q->protocol == PROTO_GRE) {
		if (bpf_skb_load_bytes(skb, q->l4, gre, sizeof(gre)) || gre[0] & ~to_be16(0x8000) ||
		    gre[1] != to_be16(ETHER_IPV4))
			return false;
		head->kind = TUNNEL_GRE;
		head->bytes = GRE_BYTES + (gre[0] ? GRE_SUM_BYTES : 0);
		return true;
	}
	if (bpf_skb_load_bytes(skb, q->l4, &gue, sizeof(gue)) || gue.version_control_words >> 5 ||
	    gue.protocol != PROTO_IPIP)
		return false;
	head->kind = TUNNEL_GUE;
	head->bytes = UDP_BYTES + GUE_BYTES + (gue.version_control_words << 2);
	head->port = from_be16(gue.target);
	return true;
}

/* Whether packets to this destination are wrapped so. */
INLINE bool wraps_so(const struct destination *d, u32 state, const struct tunnel_head *head, be32 server)
{
	return state & DESTINATION_AVAILABLE && method_in(state) == METHOD_TUNNEL && d->family == 4 &&
	       d->address.word[0] == server && tunnel_kind(state) == head->kind &&
	       (head->kind != TUNNEL_GUE || state >> (DESTINATION_TUNNEL + 4) == head->port);
}

/* Find the connection of the packet inside the tunnel's: its destination is w->chosen. */
INLINE bool find_tunnelled(struct __sk_buff *skb, struct work *w, const struct root *root)
{
	struct tunnel_head head;
	struct quote *q = &w->quote;
	be32 server = q->tuple.v4.target;
	if (!read_tunnel_head(skb, q, &head) ||
	    !read_quote(skb, q, q->l4 + head.bytes, ETHER + w->packet.length, false) || !q->known)
		return false;
	struct connection *c = find_tuple(&q->tuple, false).connection;
	struct destination *d = c ? LOOKUP(destinations, c->destination) : NULL;
	if (!d || !wraps_so(d, destination_flags(d, READ_ONCE(root->live)), &head, server))
		return false;
	w->chosen = c->destination;
	return true;
}

INLINE int stage_error_tunnel(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	struct copy *copy = LOOKUP(copies, 0);
	if (!w || !copy)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	if (!find_tunnelled(skb, w, root)) { /* an ordinary packet's after all */
		read_quote(skb, &w->quote, p->l4 + ICMP_BYTES, ETHER + p->length, false);
		return schedule_quote(skb, w, root);
	}
	struct destination *d = LOOKUP(destinations, w->chosen);
	if (!d || quote_stands_by(&w->quote, false, root))
		return to_stack(HOOK_TC);
	w->method = METHOD_TUNNEL;
	if (!trimmed(skb, p, HOOK_TC) || message_sum(skb, p, copy) != 0xffff)
		return dropped(HOOK_TC, REASON_BAD_SUM);
	if (w->error_type == ICMP4_UNREACHABLE && w->error_code == ICMP4_TOO_BIG && !learn(skb, w, d))
		return dropped(HOOK_TC, REASON_PATH_MTU);
	return report(skb, w, root);
}
