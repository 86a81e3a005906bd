/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Parse the packet inside an ICMP error (RFC 792, RFC 4443 2.4 c), as far as present. The sender may have forged it: a
 * connection must match before anything in it is used.
 */
#pragma once
#include "ctx/scratch.h"

enum { MAX_INNER_EXTENSIONS = 8 };

INLINE void set_inner_ports(struct icmp_inner *q, const struct ports *ports, u8 protocol, bool is_ipv6)
{
	if (is_ipv6) {
		q->tuple.v6.sport = ports->saddr;
		q->tuple.v6.dport = ports->daddr;
		q->tuple.v6.protocol = protocol;
	} else {
		q->tuple.v4.sport = ports->saddr;
		q->tuple.v4.dport = ports->daddr;
		q->tuple.v4.protocol = protocol;
	}
	q->known = 1;
}

/* Fill protocol and ports as a connection has them. Like IPVS, read ports in a later IPv4 fragment, too: such a tuple
 * matches by chance only. */
INLINE void parse_inner_transport(struct __sk_buff *skb, struct icmp_inner *q, u32 end, bool is_ipv6)
{
	struct ports ports = {.saddr = bpf_htons(PORT_IKE), .daddr = bpf_htons(PORT_IKE)};
	if (is_ipsec(q->protocol)) {
		if (!q->later)
			set_inner_ports(q, &ports, IPPROTO_UDP, is_ipv6);
		return;
	}
	if (!has_ports(q->protocol) || q->l4 + 4 > end || bpf_skb_load_bytes(skb, q->l4, &ports, 4))
		return;
	set_inner_ports(q, &ports, q->protocol, is_ipv6);
}

INLINE bool parse_inner4(struct __sk_buff *skb, struct icmp_inner *q, u32 end)
{
	struct ipv4_header ip;
	if (q->at + IPV4_HLEN > end || bpf_skb_load_bytes(skb, q->at, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return false;
	u32 size = (ip.version_ihl & 15) << 2;
	if (size < IPV4_HLEN || q->at + size > end)
		return false;
	q->l4 = q->at + size;
	q->protocol = ip.protocol;
	q->tos = ip.tos;
	q->df = (ip.frag_off & bpf_htons(IP_DF)) != 0;
	q->later = (ip.frag_off & bpf_htons(IP_OFFSET)) != 0;
	q->tuple.v4.saddr = ip.saddr;
	q->tuple.v4.daddr = ip.daddr;
	return true;
}

/* Skip the same extension headers as IPVS, including AH. */
INLINE bool parse_inner6(struct __sk_buff *skb, struct icmp_inner *q, u32 end)
{
	struct ipv6_header ip;
	if (q->at + IPV6_HLEN > end || bpf_skb_load_bytes(skb, q->at, &ip, sizeof(ip)) ||
	    (ip.version_class_flow & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return false;
	q->tuple.v6.saddr = ip.saddr;
	q->tuple.v6.daddr = ip.daddr;
	u32 at = q->at + IPV6_HLEN;
	u8 next = ip.nexthdr;
	for (int i = 0; i < MAX_INNER_EXTENSIONS; i++) {
		u8 head[4];
		bool fragment = next == IPPROTO_FRAGMENT, ah = next == IPPROTO_AH;
		if (next != 0 && next != 43 && next != 60 && !fragment && !ah)
			break;
		if (at + 8 > end || bpf_skb_load_bytes(skb, at, head, 4))
			return false;
		if (fragment && (head[2] | (head[3] & ~7)))
			return false; /* a later fragment has no ports */
		at += fragment ? 8 : ah ? (head[1] + 2) << 2 : (head[1] + 1) << 3;
		next = head[0];
	}
	q->l4 = at;
	q->protocol = next;
	return at <= end;
}

/* Parse the inner packet at `at`, in an error that ends at `end`. Return false if it is malformed; `known` tells
 * whether a connection can be looked up. */
INLINE bool parse_inner(struct __sk_buff *skb, struct icmp_inner *q, u32 at, u32 end, bool is_ipv6)
{
	__builtin_memset(q, 0, sizeof(*q));
	q->at = at;
	if (is_ipv6 ? !parse_inner6(skb, q, end) : !parse_inner4(skb, q, end))
		return false;
	parse_inner_transport(skb, q, end, is_ipv6);
	return true;
}
