/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The parser for all other packets, at TC alone: IPv4 options, IPv6 extension headers, SCTP, IPsec, ICMP, truncated
 * transport headers. The result is the same `struct packet`, with another offset of the transport header.
 */
#pragma once
#include "parse/exthdr6.h"
#include "parse/options4.h"
#include "parse/plain.h"
#include "parse/sctp.h"

enum slow_result { PARSE_DONE, PARSE_FRAGMENT, PARSE_TO_STACK, PARSE_DROP, PARSE_SHORT };

INLINE enum slow_result parse_slow4(struct __sk_buff *skb, struct scratch *w)
{
	struct packet *p = &w->packet;
	u8 *header = w->options.bytes;
	memzero(header, HEADER_BUFFER);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, IPV4_HLEN))
		return PARSE_TO_STACK;
	const struct ipv4_header *ip = (void *)header;
	u32 size = (ip->version_ihl & 15) << 2, length = bpf_ntohs(ip->tot_len);
	if (size < IPV4_HLEN || length < size || ETH_HLEN + length > skb->len)
		return PARSE_TO_STACK;
	if (size > IPV4_HLEN && size <= 60 && bpf_skb_load_bytes(skb, ETH_HLEN, header, size))
		return PARSE_TO_STACK;
	if (csum_fold(bpf_csum_diff(NULL, 0, (be32 *)header, HEADER_BUFFER, 0)) != 0xffff)
		return PARSE_TO_STACK;
	w->options.size = size;
	enum options_verdict options = walk_options(&w->options);
	if (options != OPTIONS_OK)
		return options == OPTIONS_BROKEN ? PARSE_TO_STACK : PARSE_DROP;
	if (size > IPV4_HLEN)
		p->slow_flags |= SLOW_OPTIONS;
	if (w->options.changed)
		p->slow_flags |= SLOW_RECORD_OPTIONS;
	p->length = length;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->df = (ip->frag_off & bpf_htons(IP_DF)) != 0;
	p->protocol = ip->protocol;
	p->tuple.v4.saddr = ip->saddr;
	p->tuple.v4.daddr = ip->daddr;
	p->tuple.v4.protocol = p->protocol;
	p->l4 = ETH_HLEN + size;
	w->fragment.frag_off = (bpf_ntohs(ip->frag_off) & IP_OFFSET) << 3 | ((ip->frag_off & bpf_htons(IP_MF)) != 0);
	w->fragment.id = ip->id;
	return w->fragment.frag_off && !(p->slow_flags & SLOW_FIRST_FRAGMENT) ? PARSE_FRAGMENT : PARSE_DONE;
}

/* Walk to the transport header, or to a fragment header, which `w` then describes. */
INLINE enum slow_result parse_slow6(struct __sk_buff *skb, struct scratch *w)
{
	struct packet *p = &w->packet;
	struct ipv6_header ip;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return PARSE_TO_STACK;
	p->length = bpf_ntohs(ip.payload_len) + IPV6_HLEN;
	p->ttl = ip.hop_limit;
	p->tos = bpf_ntohl(ip.version_class_flow) >> 20 & 0xff;
	p->df = 1; /* routers do not fragment IPv6 */
	if (ETH_HLEN + p->length > skb->len)
		return PARSE_TO_STACK;
	u32 at = ETH_HLEN + IPV6_HLEN, named_at = ETH_HLEN + 6;
	u8 next = ip.nexthdr;
	if (next == IPPROTO_HOPOPTS && !has_good_hop_options(skb, at, ETH_HLEN + p->length))
		return PARSE_TO_STACK;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct extension head = {};
		if (is_transport6(next))
			break;
		bool fragment = next == IPPROTO_FRAGMENT;
		if (fragment && p->slow_flags & SLOW_REASSEMBLED)
			return PARSE_TO_STACK;
		if ((!fragment && !is_extension(next)) || bpf_skb_load_bytes(skb, at, &head, fragment ? 8 : 2))
			return PARSE_TO_STACK;
		if (at + (fragment ? 8 : 2) > ETH_HLEN + p->length) /* bytes behind the packet are not read */
			return PARSE_TO_STACK;
		if (fragment && !(p->slow_flags & SLOW_FIRST_FRAGMENT)) {
			w->fragment.frag_off = bpf_ntohs(head.frag_off) & 0xfff9;
			w->fragment.id = head.id;
			w->fragment.at = at;
			w->fragment.named_at = named_at;
			p->protocol = head.next;
			return at + 8 > ETH_HLEN + p->length || ip.payload_len == 0 ? PARSE_TO_STACK : PARSE_FRAGMENT;
		}
		named_at = at;
		at += fragment ? 8 : next == IPPROTO_AH ? (head.length + 2) << 2 : (head.length + 1) << 3;
		next = head.next;
	}
	if (!is_transport6(next))
		return PARSE_TO_STACK;
	p->protocol = next;
	if (at > ETH_HLEN + p->length)
		return has_ports(next) && p->maybe_vip ? PARSE_SHORT : PARSE_TO_STACK;
	p->tuple.v6.protocol = next;
	p->l4 = at;
	return PARSE_DONE;
}

INLINE void set_ports(struct packet *p, be16 saddr, be16 daddr)
{
	if (p->is_ipv6) {
		p->tuple.v6.sport = saddr;
		p->tuple.v6.dport = daddr;
	} else {
		p->tuple.v4.sport = saddr;
		p->tuple.v4.dport = daddr;
	}
}

/* IPsec has no ports: its connection is that of UDP from port 500 to port 500 (IPVS-SEMANTICS 4.7). */
INLINE enum slow_result parse_ipsec(struct packet *p)
{
	if (p->is_ipv6)
		p->tuple.v6.protocol = IPPROTO_UDP;
	else
		p->tuple.v4.protocol = IPPROTO_UDP;
	set_ports(p, bpf_htons(PORT_IKE), bpf_htons(PORT_IKE));
	p->l4_complete = p->no_csum = 1;
	return PARSE_DONE;
}

/* Parse ports and flags, as far as present. */
INLINE enum slow_result parse_slow_transport(struct __sk_buff *skb, struct packet *p)
{
	u32 left = p->length + ETH_HLEN - p->l4;
	struct ports ports;
	u8 flags = 0;
	be16 sum = 0;
	p->event = EVENT_KEEP;
	p->syn = p->rst = p->no_chunk = p->no_csum = 0;
	if (is_ipsec(p->protocol))
		return parse_ipsec(p);
	if (left < 4 || bpf_skb_load_bytes(skb, p->l4, &ports, 4))
		return p->protocol == IPPROTO_SCTP && p->maybe_vip ? PARSE_SHORT : PARSE_TO_STACK;
	p->l4_complete = left >= (p->protocol == IPPROTO_TCP ? TCP_HLEN : UDP_HLEN);
	if (p->protocol == IPPROTO_SCTP) {
		parse_sctp(skb, p, left);
	} else if (p->protocol == IPPROTO_TCP) {
		if (p->l4_complete && bpf_skb_load_bytes(skb, p->l4 + 13, &flags, 1))
			return PARSE_TO_STACK;
		if (p->l4_complete)
			set_tcp_flags(p, flags);
		/* IPVS's state machine reads TCP flags right behind the IPv6 header, even if an extension header is
		 * there. */
		if (p->is_ipv6 && p->l4 != ETH_HLEN + IPV6_HLEN && p->length >= IPV6_HLEN + TCP_HLEN &&
		    !bpf_skb_load_bytes(skb, ETH_HLEN + IPV6_HLEN + 13, &flags, 1))
			p->event = tcp_event(flags);
	} else if (p->l4_complete) {
		if (bpf_skb_load_bytes(skb, p->l4 + 6, &sum, 2))
			return PARSE_TO_STACK;
		p->no_csum = !sum;
	}
	set_ports(p, ports.saddr, ports.daddr);
	return PARSE_DONE;
}
