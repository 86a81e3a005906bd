/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_ICMP_TUNNEL: ICMP errors about packets that this host has encapsulated (IPVS-SEMANTICS 8.5). The inner packet
 * holds the client's packet behind the tunnel header. The client gets the same error about its packet, from the virtual
 * address. As in IPVS, only for IPv4 in IPv4.
 *
 * Reads received and error. Leaves error for PROG_ICMP_SEND; of another packet received and own_tuple for PROG_NEW.
 */
#pragma once
#include "fwd/account.h"
#include "icmp/error.h"
#include "icmp/inner.h"
#include "icmp/send.h"

enum { MIN_REPORTED_MTU = 68 + IPV4_HLEN };

/* Return the MTU of the route to a destination, without path MTU discovery. */
INLINE u32 route_mtu(struct __sk_buff *skb, struct scratch *w, const struct destination *d)
{
	lookup_hop(tc_ctx(skb), &w->xmit.hop, &d->address, false, loopback, NULL);
	return d->mtu && d->mtu < w->xmit.hop.mtu ? d->mtu : w->xmit.hop.mtu;
}

/* Record the path MTU of a "fragmentation needed". Return false if the client's packet has no DF: it needs no error. */
INLINE bool note_pmtu(struct __sk_buff *skb, struct scratch *w, const struct destination *d)
{
	u32 mtu = w->error.rest & 0xffff, route = route_mtu(skb, w, d);
	if (route)
		mtu = update_pmtu(&d->address, w->chosen.destination, w->received.inner.tuple.v4.saddr, mtu, route,
				  ticks());
	if (mtu > MIN_REPORTED_MTU)
		mtu -= IPV4_HLEN;
	w->error.rest = mtu;
	return w->received.inner.df;
}

/* Turn the client's packet inside the error into an ICMP error to the client. */
INLINE int report_to_client(struct __sk_buff *skb, struct scratch *w, const struct root *root)
{
	struct packet *p = &w->packet;
	u32 surplus = w->received.inner.at - ETH_HLEN;
	p->length -= surplus;
	p->tos = w->received.inner.tos;
	p->tuple = w->received.inner.tuple;
	p->l4 = 0xffff; /* its checksum needs no completion */
	account_available(tc_ctx(skb), w->chosen.destination, SIDE_REPLY, p, root);
	if (w->received.inner.later) /* errors are about first fragments only (RFC 1122 3.2.2) */
		return drop(HOOK_TC, REASON_TRUNCATED);
	if (surplus > 4095 || bpf_skb_adjust_room(skb, -(s32)surplus, BPF_ADJ_ROOM_MAC, 0))
		return drop(HOOK_TC, REASON_TRUNCATED);
	return tail_call(tc_ctx(skb), PROG_ICMP_SEND);
}

struct tunnel_head { /* the header between the two IP headers */
	u32 kind;
	u32 bytes;
	u32 port; /* dport of GUE */
};

/* As IPVS: version 0; GRE at most with a checksum; GUE with data; IPv4 inside. */
INLINE bool parse_tunnel(struct __sk_buff *skb, const struct icmp_inner *q, struct tunnel_head *head)
{
	struct gre gre;
	struct gue gue;
	*head = (struct tunnel_head){.kind = TUNNEL_IPIP};
	if (q->protocol == IPPROTO_IPIP)
		return true;
	if (q->protocol == IPPROTO_GRE) {
		if (bpf_skb_load_bytes(skb, q->l4, &gre, GRE_HLEN) || gre.flags & ~bpf_htons(GRE_FLAG_CSUM) ||
		    gre.protocol != bpf_htons(ETH_P_IP))
			return false;
		head->kind = TUNNEL_GRE;
		head->bytes = GRE_HLEN + (gre.flags ? GRE_CSUM_LEN : 0);
		return true;
	}
	if (bpf_skb_load_bytes(skb, q->l4, &gue, UDP_HLEN + GUE_HLEN) || gue.version_control_words >> 5 ||
	    gue.protocol != IPPROTO_IPIP)
		return false;
	head->kind = TUNNEL_GUE;
	head->bytes = UDP_HLEN + GUE_HLEN + (gue.version_control_words << 2);
	head->port = bpf_ntohs(gue.udp.daddr);
	return true;
}

/* Whether packets to this destination have such a tunnel header. */
INLINE bool matches_tunnel(const struct destination *d, u32 state, const struct tunnel_head *head, be32 server)
{
	return keeps_conns(state) && method_in(state) == METHOD_TUNNEL && d->family == 4 &&
	       d->address.word[0] == server && tunnel_kind(state) == head->kind &&
	       (head->kind != TUNNEL_GUE || state >> (DESTINATION_TUNNEL + 4) == head->port);
}

/* Find the connection of the client's packet; store its destination in w. */
INLINE bool find_tunnel_conn(struct __sk_buff *skb, struct scratch *w, const struct root *root)
{
	struct tunnel_head head;
	struct icmp_inner *q = &w->received.inner;
	be32 server = q->tuple.v4.daddr;
	if (!parse_tunnel(skb, q, &head) ||
	    !parse_inner(skb, q, q->l4 + head.bytes, ETH_HLEN + w->packet.length, false) || !q->known)
		return false;
	struct connection *c = find_tuple(&q->tuple, false).connection;
	struct destination *d = c ? map_elem(destinations, c->destination) : NULL;
	if (!d || !matches_tunnel(d, destination_flags(d, READ_ONCE(root->live)), &head, server))
		return false;
	w->chosen.destination = c->destination;
	return true;
}

INLINE int prog_icmp_tunnel(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct copy *copy = map_elem(copies, 0);
	if (!copy)
		return pass_to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	if (!find_tunnel_conn(skb, w, root)) { /* a packet that this host did not encapsulate */
		parse_inner(skb, &w->received.inner, p->l4 + ICMP_HLEN, ETH_HLEN + p->length, false);
		return schedule_inner(skb, w, root);
	}
	struct destination *d = map_elem(destinations, w->chosen.destination);
	if (!d)
		return pass_to_stack(HOOK_TC);
	note_owner(w, d->service, d->service_added);
	if (inner_is_standby(&w->received.inner, false, root))
		return pass_for(HOOK_TC, REASON_STANDBY);
	w->chosen.method = METHOD_TUNNEL;
	if (!trim_padding(tc_ctx(skb), p) || icmp_sum(skb, p, copy) != 0xffff)
		return drop(HOOK_TC, REASON_BAD_CHECKSUM);
	if (w->error.type == ICMP_DEST_UNREACH && w->error.code == ICMP_FRAG_NEEDED && !note_pmtu(skb, w, d))
		return drop(HOOK_TC, REASON_PATH_MTU_UPDATED);
	return report_to_client(skb, w, root);
}
