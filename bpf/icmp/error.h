/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * ICMP errors about forwarded connections, from either side (IPVS-SEMANTICS 8). From the real server's side the quoted
 * packet is a request, as sent to it; from the client's side it is a reply, as the client saw it. What concerns no
 * connection is the stack's.
 *
 *	STAGE_ERROR -> whose connection? -> STAGE_ERROR_CARRY -> checksum, rewriting -> STAGE_TROUBLE
 *	           |-> a tunnel's packet -> STAGE_ERROR_TUNNEL -> STAGE_ICMP
 *	           `-> schedule_icmp     -> STAGE_NEW -> scheduler -> STAGE_CONNECT -> STAGE_ERROR_CARRY
 */
#pragma once
#include "conntrack/lookup.h"
#include "fwd/send.h"
#include "icmp/inner.h"
#include "lib/csum_frame.h"
#include "policy/vrrp_role.h"

enum { ICMP4_UNREACHABLE = 3, ICMP4_QUENCH = 4, ICMP4_EXCEEDED = 11, ICMP4_TOO_BIG = 4 /* code */, ICMP6_INFORMATION = 128 };

INLINE bool is_error(u8 type, bool six)
{
	if (six)
		return type < ICMP6_INFORMATION;
	return type == ICMP4_UNREACHABLE || type == ICMP4_QUENCH || type == ICMP4_EXCEEDED;
}

INLINE bool may_be_tunnel(u8 protocol)
{
	return protocol == PROTO_IPIP || protocol == PROTO_GRE || protocol == PROTO_UDP;
}

/* Whether a router in this host's place would hand the error on. */
INLINE bool would_pass_on(struct __sk_buff *skb, const struct packet *p, const struct hop *hop)
{
	return (hop->verdict == HOP_READY || hop->verdict == HOP_UNRESOLVED) && p->ttl > 1 &&
	       fit(segment_length(skb, p, HOOK_TC), hop->mtu, 0, p, false) != FITS_NOT;
}

/* The quote is a reply: its connection is the client's. */
INLINE bool from_client_side(struct work *w)
{
	bool six = w->packet.six;
	turn(&w->template_tuple, &w->quote.tuple, six);
	struct connection *c = find_tuple(&w->template_tuple, six).connection;
	if (!c)
		return false;
	w->chosen = c->destination;
	w->method = c->method;
	w->port = c->port;
	w->error_side = SIDE_CLIENT;
	return true;
}

/* The quote is a request to a NAT real server. */
INLINE bool from_nat_side(struct work *w)
{
	bool six = w->packet.six;
	turn(&w->template_tuple, &w->quote.tuple, six);
	struct address source = {};
	if (six) {
		struct reply6 *found = bpf_map_lookup_elem(&replies6, &w->template_tuple.v6);
		if (!found)
			return false;
		w->chosen = found->destination;
		w->reply_port = found->port;
		source = found->address;
	} else {
		struct key4 key = key4_of(&w->template_tuple.v4);
		u32 slot;
		struct place4 *found = find_answered(key.addresses, key.rest, &slot);
		if (!found)
			return false;
		w->chosen = found->connection.destination;
		w->reply_port = found->tuple.target_port;
		source.word[0] = found->tuple.target;
	}
	w->virtual_address = source;
	w->method = METHOD_MASQ;
	w->error_side = SIDE_SERVER;
	return true;
}

/* The quote is a request that another method left as it was, so there is nothing to change. */
INLINE bool from_plain_side(struct work *w)
{
	struct connection *c = find_tuple(&w->quote.tuple, w->packet.six).connection;
	if (!c || c->method == METHOD_MASQ)
		return false;
	w->chosen = c->destination;
	w->method = c->method;
	w->error_side = SIDE_PLAIN;
	return true;
}

INLINE bool from_server_side(struct work *w)
{
	return from_nat_side(w) || from_plain_side(w);
}

/* Whether the virtual address of the quoted packet stands by: its target, or its source if it is a reply. */
INLINE bool quote_stands_by(const struct quote *q, bool six, const struct root *root)
{
	struct address source = {}, target = {};
	if (likely(!root->standby))
		return false;
	if (six) {
		source = q->tuple.v6.source;
		target = q->tuple.v6.target;
	} else {
		source.word[0] = q->tuple.v4.source;
		target.word[0] = q->tuple.v4.target;
	}
	return stands_by(root, &source, six) || stands_by(root, &target, six);
}

/* About no connection: with schedule_icmp it makes one, as if its client had sent (8.4). */
INLINE int schedule_quote(struct __sk_buff *skb, struct work *w, const struct root *root)
{
	struct packet *p = &w->packet;
	struct quote *q = &w->quote;
	if (!root->settings.schedule_icmp || !has_ports(q->protocol))
		return pass(skb, p, HOOK_TC);
	if (!q->known)
		return dropped(HOOK_TC, REASON_SHORT);
	w->outer = p->tuple;
	w->error_side = SIDE_CLIENT;
	turn(&p->tuple, &q->tuple, p->six);
	p->protocol = q->protocol;
	p->quoting = 1;
	return go_on(skb, HOOK_TC, STAGE_NEW);
}

/* Sum of the ICMP message, without the pseudo header of ICMPv6; 0xffff when the checksum of ICMP is right. */
INLINE u16 message_sum(struct __sk_buff *skb, const struct packet *p, struct copy *copy)
{
	return folded(sum_of(skb, copy->bytes, p->l4, p->length + ETHER - p->l4, 0));
}
