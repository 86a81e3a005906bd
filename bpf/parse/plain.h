/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The parser of plain packets: IPv4 without options, IPv6 without extension headers, TCP and UDP. Parsers return a
 * `parsed` and never change the packet.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/event.h"
#include "conntrack/key.h"
#include "ctx/ctx.h"
#include "lib/headers.h"
#include "parse/packet.h"
#include "parse/unfinished.h"

/* Whether the frame is for this host. Devices with XDP have one MAC address each. */
INLINE bool is_for_this_host(const struct eth_header *ether, u32 input)
{
	struct device *device = map_elem(devices, input & (DEVICES - 1));
	if (!device || device->ifindex != input)
		return false;
	const u16 *a = (const void *)ether->h_dest, *b = (const void *)device->mac;
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

INLINE void set_tcp_flags(struct packet *p, u8 flags)
{
	p->event = tcp_event(flags);
	p->syn = flags >> 1 & 1;
	p->rst = flags >> 2 & 1;
}

/* Parse a transport header at a fixed offset; PARSED_SLOW if it is truncated. The tuple is written in the words in
 * which the lookup reads it. A read across two writes would wait until both are in the cache. */
INLINE enum parsed parse_transport(void *data, void *end, struct packet *p, u32 l4, u32 left)
{
	u8 *at = data + l4;
	p->l4 = l4;
	p->l4_complete = 1;
	if (p->protocol == IPPROTO_TCP) {
		if (left < TCP_HLEN || (void *)(at + TCP_HLEN) > end)
			return PARSED_SLOW;
		set_tcp_flags(p, at[13]);
	} else {
		if (left < UDP_HLEN || (void *)(at + UDP_HLEN) > end)
			return PARSED_SLOW;
		p->event = EVENT_KEEP;
		p->no_csum = *(u16 *)(at + 6) == 0;
	}
	u64 rest = WORD_AT(const u32, at, 0) | (u64)p->protocol << REST_PROTOCOL;
	WORD_AT(u64, &p->tuple, (p->is_ipv6 ? sizeof(struct tuple6) : sizeof(struct tuple4)) - 8) = rest;
	return PARSED_PLAIN;
}

/* Likewise; XDP leaves packets with unfinished checksums to TC, too. `addresses` is the sum of both. */
INLINE enum parsed parse_finished(void *data, void *end, struct packet *p, u32 l4, u32 left, u64 addresses)
{
	u8 *at = data + l4;
	if (parse_transport(data, end, p, l4, left) == PARSED_SLOW)
		return PARSED_SLOW;
	u16 check = p->protocol == IPPROTO_TCP ? WORD_AT(const u16, at, 16) : WORD_AT(const u16, at, 6);
	return unlikely(is_unfinished(addresses + bpf_htons(left), p->protocol, check)) ? PARSED_SLOW : PARSED_PLAIN;
}

/* Protocols besides TCP and UDP that PROG_PARSE_SLOW parses. */
INLINE bool is_slow_protocol(u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_SCTP || is_ipsec(protocol);
}

INLINE enum parsed parse4(struct ctx ctx, void *data, void *end, struct packet *p, const struct root *root)
{
	struct ipv4_header *ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
		return PARSED_FOREIGN;
	struct address saddr = {.word[0] = ip->saddr}, daddr = {.word[0] = ip->daddr};
	p->maybe_vip = in_bitmap(root->vip_bits, address_hash(root->address_keys, &daddr, false));
	p->maybe_rs = in_bitmap(root->reply_bits, address_hash(root->address_keys, &saddr, false));
	p->protocol = ip->protocol;
	if (!(p->maybe_vip | p->maybe_rs)) /* ICMP errors come from routers, and may be about tunnels */
		return p->protocol == IPPROTO_ICMP ? PARSED_SLOW : PARSED_FOREIGN;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return is_slow_protocol(p->protocol) ? PARSED_SLOW : PARSED_FOREIGN;
	if (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET) || ip->version_ihl != 0x45)
		return PARSED_SLOW;
	u32 length = bpf_ntohs(ip->tot_len);
	if (!ipv4_header_is_right(ip) || length < IPV4_HLEN)
		return PARSED_FOREIGN;
	if (data + ETH_HLEN + length > end && ETH_HLEN + length > ctx_len(ctx))
		return PARSED_FOREIGN;
	p->length = length;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->df = (ip->frag_off & bpf_htons(IP_DF)) != 0;
	WORD_AT(u64, &p->tuple, 0) = WORD_AT(const u64, &ip->saddr, 0);
	p->tuple.v4.protocol = p->protocol;
	if (ctx.hook == HOOK_TC)
		return parse_transport(data, end, p, ETH_HLEN + IPV4_HLEN, length - IPV4_HLEN);
	u64 addresses = (u64)ip->saddr + ip->daddr;
	return parse_finished(data, end, p, ETH_HLEN + IPV4_HLEN, length - IPV4_HLEN, addresses);
}

INLINE enum parsed parse6(struct ctx ctx, void *data, void *end, struct packet *p, const struct root *root)
{
	struct ipv6_header *ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end || (ip->version_class_flow & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return PARSED_FOREIGN;
	p->is_ipv6 = 1;
#pragma unroll
	for (u32 at = 0; at < 2 * sizeof(struct address); at += 8)
		WORD_AT(u64, &p->tuple, at) = WORD_AT(const u64, &ip->saddr, at);
	p->maybe_vip = in_bitmap(root->vip_bits, address_hash(root->address_keys, &p->tuple.v6.daddr, true));
	p->maybe_rs = in_bitmap(root->reply_bits, address_hash(root->address_keys, &p->tuple.v6.saddr, true));
	p->protocol = ip->nexthdr;
	if (!(p->maybe_vip | p->maybe_rs))
		return p->protocol == IPPROTO_ICMPV6 ? PARSED_SLOW : PARSED_FOREIGN;
	u32 length = bpf_ntohs(ip->payload_len) + IPV6_HLEN;
	if (data + ETH_HLEN + length > end && ETH_HLEN + length > ctx_len(ctx))
		return PARSED_FOREIGN;
	p->tuple.v6.protocol = ip->nexthdr;
	p->length = length;
	p->ttl = ip->hop_limit;
	p->tos = bpf_ntohl(ip->version_class_flow) >> 20 & 0xff;
	p->df = 1; /* routers do not fragment IPv6 */
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return PARSED_SLOW;
	if (ctx.hook == HOOK_TC)
		return parse_transport(data, end, p, ETH_HLEN + IPV6_HLEN, length - IPV6_HLEN);
	return parse_finished(data, end, p, ETH_HLEN + IPV6_HLEN, length - IPV6_HLEN, addresses_sum6(ip));
}

/* Whether the frame starts with its link header. Since Linux 6.9 a frame that generic XDP had to copy arrives at TC
 * with a link header of length 0. Programs see it from its IP header on, and a redirect would send it like this. */
INLINE bool starts_at_link(struct __sk_buff *skb)
{
	const struct eth_header *ether = ctx_data(tc_ctx(skb));
	return (void *)(ether + 1) <= ctx_data_end(tc_ctx(skb)) && ether->h_proto == skb->protocol;
}

/* Make the kernel measure the link header again by prepending a copy of it. */
INLINE bool restore_link(struct __sk_buff *skb)
{
	struct eth_header ether;
	return !bpf_skb_load_bytes_relative(skb, 0, &ether, sizeof(ether), BPF_HDR_START_MAC) &&
	       ether.h_proto == skb->protocol && !bpf_skb_change_head(skb, ETH_HLEN, 0) &&
	       !bpf_skb_store_bytes(skb, 0, &ether, sizeof(ether), 0);
}
