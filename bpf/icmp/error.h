/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * ICMP errors about forwarded connections, from either side (IPVS-SEMANTICS 8). From the real server's side the inner
 * packet is a request, as sent to the server. From the client's side it is a reply, as received by the client. Errors
 * about no connection pass to the stack.
 *
 * 	PROG_ICMP_RECEIVE --> a connection's packet --> PROG_ICMP_FORWARD --> PROG_FWD_SLOW
 * 	                  |-> a tunnel's packet -----> PROG_ICMP_TUNNEL --> PROG_ICMP_SEND
 * 	                  `-> none of these ---------> PROG_NEW --> scheduler --> PROG_CONNECT --> PROG_ICMP_FORWARD
 *
 * An error about a connection of another director reaches its server, too: routers choose a director for the error by
 * other addresses than for the connection. If the service's scheduler hashes, each director chooses the same server.
 */
#pragma once
#include "conntrack/lookup.h"
#include "fwd/send.h"
#include "policy/vrrp_role.h"

INLINE bool is_error(u8 type, bool is_ipv6)
{
	if (is_ipv6)
		return !(type & ICMPV6_INFOMSG_MASK);
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED;
}

/* Whether an error of this type and code reports a path MTU. */
INLINE bool reports_mtu(u8 type, u8 code, bool is_ipv6)
{
	return is_ipv6 ? type == ICMPV6_PKT_TOOBIG : type == ICMP_DEST_UNREACH && code == ICMP_FRAG_NEEDED;
}

INLINE bool can_be_tunnel(u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_GRE || protocol == IPPROTO_UDP;
}

/* Whether a router in this host's position would forward the error. */
INLINE bool is_forwardable(struct __sk_buff *skb, const struct packet *p, const struct hop *hop)
{
	return (hop->verdict == HOP_READY || hop->verdict == HOP_UNRESOLVED) && p->ttl > 1 &&
	       fit(segment_length(tc_ctx(skb), p), hop->mtu, 0, p, false) != FITS_NOT;
}

/* Look up the inner packet as a reply that the client received. */
INLINE bool find_from_client(struct scratch *w)
{
	bool is_ipv6 = w->packet.is_ipv6;
	tuple_reverse(&w->received.reversed, &w->received.inner.tuple, is_ipv6);
	struct found found = find_tuple(&w->received.reversed, is_ipv6);
	struct connection *c = found.connection;
	if (!c)
		return false;
	w->flow.slot = found.slot;
	w->chosen.destination = c->destination;
	w->chosen.method = c->method;
	w->chosen.port = c->port;
	w->received.side = SIDE_CLIENT;
	return true;
}

/* Look up the inner packet as a request to a NAT server. */
INLINE bool find_from_nat_server(struct scratch *w)
{
	bool is_ipv6 = w->packet.is_ipv6;
	tuple_reverse(&w->received.reversed, &w->received.inner.tuple, is_ipv6);
	u32 slot = find_reply_slot(&w->received.reversed, is_ipv6);
	struct connection *c = found_at(slot).connection;
	if (!c)
		return false;
	struct address saddr = {};
	w->chosen.destination = c->destination;
	virtual_of(slot, &saddr, &w->reply.sport, is_ipv6);
	w->reply.saddr = saddr;
	w->chosen.method = METHOD_MASQ;
	w->received.side = SIDE_SERVER;
	return true;
}

/* Look up the inner packet as a DR or TUN request: nothing to translate. */
INLINE bool find_from_plain_server(struct scratch *w)
{
	struct connection *c = find_tuple(&w->received.inner.tuple, w->packet.is_ipv6).connection;
	if (!c || c->method == METHOD_MASQ)
		return false;
	w->chosen.destination = c->destination;
	w->chosen.method = c->method;
	w->received.side = SIDE_PLAIN;
	return true;
}

INLINE bool find_from_server(struct scratch *w)
{
	return find_from_nat_server(w) || find_from_plain_server(w);
}

/* Whether the inner packet's virtual address is standby: its daddr, or the saddr of a reply. */
INLINE bool inner_is_standby(const struct icmp_inner *q, bool is_ipv6, const struct root *root)
{
	struct address saddr = {}, daddr = {};
	if (likely(!root->standby))
		return false;
	tuple_saddr(&saddr, &q->tuple, is_ipv6);
	tuple_daddr(&daddr, &q->tuple, is_ipv6);
	return is_standby(root, &saddr, is_ipv6) || is_standby(root, &daddr, is_ipv6);
}

/* Whether the error is addressed to the sender of its inner packet, which is not a later fragment. */
VERIFIED_ONCE int is_to_inner_sender(const struct packet *p, const struct icmp_inner *q)
{
	struct address daddr = {}, sender = {};
	if (!p || !q)
		return false;
	packet_daddr(&daddr, p);
	tuple_saddr(&sender, &q->tuple, p->is_ipv6);
	return q->known && !q->later && same_address(&daddr, &sender, p->is_ipv6);
}

/* Schedule the error as if the client had sent the reversed inner packet. With schedule_icmp that creates a connection
 * (8.4). Without, the error is sent to the server that the scheduler's hash chooses. */
INLINE int schedule_inner(struct __sk_buff *skb, struct scratch *w, const struct root *root)
{
	struct packet *p = &w->packet;
	struct icmp_inner *q = &w->received.inner;
	bool connect = root->settings.schedule_icmp;
	if (!has_ports(q->protocol) || !(connect || is_to_inner_sender(p, q)))
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	if (!q->known)
		return drop(HOOK_TC, REASON_TRUNCATED);
	w->own_tuple = p->tuple;
	w->received.side = SIDE_CLIENT;
	tuple_reverse(&p->tuple, &q->tuple, p->is_ipv6);
	p->protocol = q->protocol;
	p->by_inner = connect ? BY_INNER_CONNECT : BY_INNER_HASH;
	return tail_call(tc_ctx(skb), PROG_NEW);
}

/* End the search for a server: PROG_ICMP_FORWARD passes the error to the stack. */
INLINE int forward_to_none(struct __sk_buff *skb, struct scratch *w)
{
	w->chosen.destination = NO_INDEX;
	return tail_call(tc_ctx(skb), PROG_ICMP_FORWARD);
}

/* Return the sum of the ICMP message, without ICMPv6's pseudo header: 0xffff if the checksum of ICMP is right. */
INLINE u16 icmp_sum(struct __sk_buff *skb, const struct packet *p, struct copy *copy)
{
	return csum_fold(csum_frame(skb, copy->bytes, p->l4, p->length + ETH_HLEN - p->l4, 0));
}
