/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The parser of all other packets, at TC alone: IPv4 options, IPv6 extension headers, SCTP, IPsec, ICMP, transport
 * headers cut short. They get the same `struct packet` as plain ones, with their transport header elsewhere.
 */
#pragma once
#include "parse/exthdr6.h"
#include "parse/options4.h"
#include "parse/plain.h"
#include "parse/sctp.h"

enum odd { ODD_FINE, ODD_FRAGMENT, ODD_TO_STACK, ODD_DROP, ODD_SHORT };

INLINE enum odd parse_odd4(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	u8 *header = w->options.bytes;
	wipe(header, HEADER_BUFFER);
	if (bpf_skb_load_bytes(skb, ETHER, header, IPV4_BYTES))
		return ODD_TO_STACK;
	const struct ipv4 *ip = (void *)header;
	u32 size = (ip->version_words & 15) << 2, length = from_be16(ip->length);
	if (size < IPV4_BYTES || length < size || ETHER + length > skb->len)
		return ODD_TO_STACK;
	if (size > IPV4_BYTES && size <= 60 && bpf_skb_load_bytes(skb, ETHER, header, size))
		return ODD_TO_STACK;
	if (folded(bpf_csum_diff(NULL, 0, (be32 *)header, HEADER_BUFFER, 0)) != 0xffff)
		return ODD_TO_STACK;
	w->options.size = size;
	enum options_verdict options = walk_options(&w->options);
	if (options != OPTIONS_FINE)
		return options == OPTIONS_BROKEN ? ODD_TO_STACK : ODD_DROP;
	if (size > IPV4_BYTES)
		p->odd |= ODDITY_OPTIONS;
	if (w->options.changed)
		p->odd |= ODDITY_RECORD;
	p->length = length;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->df = (ip->fragment & to_be16(IPV4_DF)) != 0;
	p->protocol = ip->protocol;
	p->tuple.v4.source = ip->source;
	p->tuple.v4.target = ip->target;
	p->tuple.v4.protocol = p->protocol;
	p->l4 = ETHER + size;
	w->fragment = (from_be16(ip->fragment) & IPV4_OFFSET) << 3 | ((ip->fragment & to_be16(IPV4_MF)) != 0);
	w->fragment_id = ip->id;
	return w->fragment && !(p->odd & ODDITY_FRAGMENT) ? ODD_FRAGMENT : ODD_FINE;
}

/* Up to the transport header, or to a fragment header: then `w` tells of the fragment. */
INLINE enum odd parse_odd6(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct ipv6 ip;
	if (bpf_skb_load_bytes(skb, ETHER, &ip, sizeof(ip)))
		return ODD_TO_STACK;
	p->length = from_be16(ip.length) + IPV6_BYTES;
	p->ttl = ip.hops;
	p->tos = from_be32(ip.version_class_flow) >> 20 & 0xff;
	p->df = 1; /* routers never cut IPv6 */
	if (ETHER + p->length > skb->len)
		return ODD_TO_STACK;
	u32 at = ETHER + IPV6_BYTES, named_at = ETHER + 6;
	u8 next = ip.next;
	for (int i = 0; i < EXTENSIONS; i++) {
		struct extension head = {};
		if (is_known6(next))
			break;
		bool fragment = next == PROTO_FRAGMENT;
		if (fragment && p->odd & ODDITY_GATHERED)
			return ODD_TO_STACK;
		if ((!fragment && !is_extension(next)) || bpf_skb_load_bytes(skb, at, &head, fragment ? 8 : 2))
			return ODD_TO_STACK;
		if (at + (fragment ? 8 : 2) > ETHER + p->length) /* what follows the packet in its frame is not read */
			return ODD_TO_STACK;
		if (fragment && !(p->odd & ODDITY_FRAGMENT)) {
			w->fragment = from_be16(head.place) & 0xfff9;
			w->fragment_id = head.id;
			w->fragment_at = at;
			w->fragment_named_at = named_at;
			p->protocol = head.next;
			return at + 8 > ETHER + p->length || ip.length == 0 ? ODD_TO_STACK : ODD_FRAGMENT;
		}
		named_at = at;
		at += fragment ? 8 : next == EXTENSION_AH ? (head.length + 2) << 2 : (head.length + 1) << 3;
		next = head.next;
	}
	if (!is_known6(next))
		return ODD_TO_STACK;
	if (at > ETHER + p->length)
		return has_ports(next) && p->request ? ODD_SHORT : ODD_TO_STACK;
	p->protocol = next;
	p->tuple.v6.protocol = next;
	p->l4 = at;
	return ODD_FINE;
}

INLINE void set_ports(struct packet *p, be16 source, be16 target)
{
	if (p->six) {
		p->tuple.v6.source_port = source;
		p->tuple.v6.target_port = target;
	} else {
		p->tuple.v4.source_port = source;
		p->tuple.v4.target_port = target;
	}
}

/* IPsec has no ports: its connection is that of UDP from 500 to 500 (IPVS-SEMANTICS 4.7). */
INLINE enum odd parse_ipsec(struct packet *p)
{
	if (p->six)
		p->tuple.v6.protocol = PROTO_UDP;
	else
		p->tuple.v4.protocol = PROTO_UDP;
	set_ports(p, to_be16(PORT_IKE), to_be16(PORT_IKE));
	p->whole = p->no_sum = 1;
	return ODD_FINE;
}

/* Ports and flags, as far as they are there. */
INLINE enum odd parse_odd_transport(struct __sk_buff *skb, struct packet *p)
{
	u32 left = p->length + ETHER - p->l4;
	struct ports ports;
	u8 flags = 0;
	be16 sum = 0;
	p->event = EVENT_KEEP;
	p->syn = p->rst = p->cut = p->no_sum = 0;
	if (is_ipsec(p->protocol))
		return parse_ipsec(p);
	if (left < 4 || bpf_skb_load_bytes(skb, p->l4, &ports, 4))
		return p->protocol == PROTO_SCTP && p->request ? ODD_SHORT : ODD_TO_STACK;
	p->whole = left >= (p->protocol == PROTO_TCP ? TCP_BYTES : UDP_BYTES);
	if (p->protocol == PROTO_SCTP) {
		parse_sctp(skb, p, left);
	} else if (p->protocol == PROTO_TCP) {
		if (p->whole && bpf_skb_load_bytes(skb, p->l4 + 13, &flags, 1))
			return ODD_TO_STACK;
		if (p->whole)
			tcp_flags(p, flags);
		/* The kernel's state machine looks for flags right behind the IPv6 header, whatever stands there. */
		if (p->six && p->l4 != ETHER + IPV6_BYTES && p->length >= IPV6_BYTES + TCP_BYTES &&
		    !bpf_skb_load_bytes(skb, ETHER + IPV6_BYTES + 13, &flags, 1))
			p->event = tcp_event(flags);
	} else if (p->whole) {
		if (bpf_skb_load_bytes(skb, p->l4 + 6, &sum, 2))
			return ODD_TO_STACK;
		p->no_sum = !sum;
	}
	set_ports(p, ports.source, ports.target);
	return ODD_FINE;
}
