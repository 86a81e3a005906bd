/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The packet that an ICMP error quotes (RFC 792, RFC 4443 2.4 c), as far as it is there. A quotation is somebody's
 * claim: nothing of it is believed beyond what a connection's table confirms.
 */
#pragma once
#include "ctx/scratch.h"
#include "lib/headers.h"

enum { EXTENSION_FRAGMENT = 44, QUOTED_EXTENSIONS = 8 };

INLINE void quote_ports(struct quote *q, const struct ports *ports, u8 protocol, bool six)
{
	if (six) {
		q->tuple.v6.source_port = ports->source;
		q->tuple.v6.target_port = ports->target;
		q->tuple.v6.protocol = protocol;
	} else {
		q->tuple.v4.source_port = ports->source;
		q->tuple.v4.target_port = ports->target;
		q->tuple.v4.protocol = protocol;
	}
	q->known = 1;
}

/* Protocol and ports as a connection of the quoted packet has them. Of a later fragment of IPv4, too, IPVS takes what
 * stands there for ports: it then has to match a connection by chance. */
INLINE void quote_transport(struct __sk_buff *skb, struct quote *q, u32 end, bool six)
{
	struct ports ports = {.source = to_be16(PORT_IKE), .target = to_be16(PORT_IKE)};
	if (is_ipsec(q->protocol)) {
		if (!q->later)
			quote_ports(q, &ports, PROTO_UDP, six);
		return;
	}
	if (!has_ports(q->protocol) || q->l4 + 4 > end || bpf_skb_load_bytes(skb, q->l4, &ports, 4))
		return;
	quote_ports(q, &ports, q->protocol, six);
}

INLINE bool read_quote4(struct __sk_buff *skb, struct quote *q, u32 end)
{
	struct ipv4 ip;
	if (q->at + IPV4_BYTES > end || bpf_skb_load_bytes(skb, q->at, &ip, sizeof(ip)) || ip.version_words >> 4 != 4)
		return false;
	u32 size = (ip.version_words & 15) << 2;
	if (size < IPV4_BYTES || q->at + size > end)
		return false;
	q->l4 = q->at + size;
	q->protocol = ip.protocol;
	q->tos = ip.tos;
	q->df = (ip.fragment & to_be16(IPV4_DF)) != 0;
	q->later = (ip.fragment & to_be16(IPV4_OFFSET)) != 0;
	q->tuple.v4.source = ip.source;
	q->tuple.v4.target = ip.target;
	return true;
}

/* Extension headers are walked as IPVS walks them: AH is one of them. */
INLINE bool read_quote6(struct __sk_buff *skb, struct quote *q, u32 end)
{
	struct ipv6 ip;
	if (q->at + IPV6_BYTES > end || bpf_skb_load_bytes(skb, q->at, &ip, sizeof(ip)) ||
	    (ip.version_class_flow & to_be32(0xf0000000)) != to_be32(0x60000000))
		return false;
	q->tuple.v6.source = ip.source;
	q->tuple.v6.target = ip.target;
	u32 at = q->at + IPV6_BYTES;
	u8 next = ip.next;
	for (int i = 0; i < QUOTED_EXTENSIONS; i++) {
		u8 head[4];
		bool fragment = next == EXTENSION_FRAGMENT, ah = next == PROTO_AH;
		if (next != 0 && next != 43 && next != 60 && !fragment && !ah)
			break;
		if (at + 8 > end || bpf_skb_load_bytes(skb, at, head, 4))
			return false;
		if (fragment && (head[2] | (head[3] & ~7)))
			return false; /* a later one: its ports are elsewhere */
		at += fragment ? 8 : ah ? (head[1] + 2) << 2 : (head[1] + 1) << 3;
		next = head[0];
	}
	q->l4 = at;
	q->protocol = next;
	return at <= end;
}

/* Read the packet quoted at `at`, in an error that ends at `end`. False if it makes no sense; `known` tells whether a
 * connection could be meant. */
INLINE bool read_quote(struct __sk_buff *skb, struct quote *q, u32 at, u32 end, bool six)
{
	__builtin_memset(q, 0, sizeof(*q));
	q->at = at;
	if (six ? !read_quote6(skb, q, end) : !read_quote4(skb, q, end))
		return false;
	quote_transport(skb, q, end, six);
	return true;
}
