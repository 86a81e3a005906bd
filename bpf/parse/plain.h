/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The parser of plain packets: IPv4 without options, IPv6 without extension headers, TCP and UDP. Parsers return a
 * `parsed` and never change the packet.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/event.h"
#include "ctx/ctx.h"
#include "lib/headers.h"
#include "parse/packet.h"

/* Of the devices that XDP looks at, each has one address. */
INLINE bool is_for_this_host(const struct ether *ether, u32 input)
{
	struct device *device = LOOKUP(devices, input & (DEVICES - 1));
	if (!device || device->ifindex != input)
		return false;
	const u16 *a = (const void *)ether->target, *b = (const void *)device->mac;
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

INLINE void tcp_flags(struct packet *p, u8 flags)
{
	p->event = tcp_event(flags);
	p->syn = flags >> 1 & 1;
	p->rst = flags >> 2 & 1;
}

/* Transport header at a fixed place; ODD when it is cut short. */
INLINE enum parsed parse_transport(void *data, void *end, struct packet *p, u32 l4, u32 left)
{
	u8 *at = data + l4;
	p->l4 = l4;
	p->whole = 1;
	if (p->protocol == PROTO_TCP) {
		if (left < TCP_BYTES || (void *)(at + TCP_BYTES) > end)
			return PARSED_ODD;
		tcp_flags(p, at[13]);
	} else {
		if (left < UDP_BYTES || (void *)(at + UDP_BYTES) > end)
			return PARSED_ODD;
		p->event = EVENT_KEEP;
		p->no_sum = *(u16 *)(at + 6) == 0;
	}
	struct ports *ports = (void *)at;
	if (p->six) {
		p->tuple.v6.source_port = ports->source;
		p->tuple.v6.target_port = ports->target;
	} else {
		p->tuple.v4.source_port = ports->source;
		p->tuple.v4.target_port = ports->target;
	}
	return PARSED_PLAIN;
}

/* What STAGE_ODD knows beside TCP and UDP. */
INLINE bool is_odd_protocol(u8 protocol)
{
	return protocol == PROTO_ICMP || protocol == PROTO_SCTP || is_ipsec(protocol);
}

INLINE enum parsed parse4(void *ctx, void *data, void *end, struct packet *p, const struct root *root, enum hook hook)
{
	struct ipv4 *ip = data + ETHER;
	if ((void *)(ip + 1) > end || ip->version_words >> 4 != 4)
		return PARSED_FOREIGN;
	struct address source = {.word[0] = ip->source}, target = {.word[0] = ip->target};
	p->request = in_bitmap(root->vip_bits, address_hash(&target, false));
	p->reply = in_bitmap(root->reply_bits, address_hash(&source, false));
	p->protocol = ip->protocol;
	if (!(p->request | p->reply)) /* errors come from routers and about tunnels, too */
		return p->protocol == PROTO_ICMP ? PARSED_ODD : PARSED_FOREIGN;
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP)
		return is_odd_protocol(p->protocol) ? PARSED_ODD : PARSED_FOREIGN;
	if (ip->fragment & to_be16(IPV4_MF | IPV4_OFFSET) || ip->version_words != 0x45)
		return PARSED_ODD;
	u32 length = from_be16(ip->length);
	if (header_sum(ip) != 0xffff || length < IPV4_BYTES)
		return PARSED_FOREIGN;
	if (data + ETHER + length > end && ETHER + length > frame_length(ctx, hook))
		return PARSED_FOREIGN;
	p->length = length;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->df = (ip->fragment & to_be16(IPV4_DF)) != 0;
	p->tuple.v4.source = ip->source;
	p->tuple.v4.target = ip->target;
	p->tuple.v4.protocol = p->protocol;
	return parse_transport(data, end, p, ETHER + IPV4_BYTES, length - IPV4_BYTES);
}

INLINE enum parsed parse6(void *ctx, void *data, void *end, struct packet *p, const struct root *root, enum hook hook)
{
	struct ipv6 *ip = data + ETHER;
	if ((void *)(ip + 1) > end || (ip->version_class_flow & to_be32(0xf0000000)) != to_be32(0x60000000))
		return PARSED_FOREIGN;
	p->six = 1;
	p->tuple.v6.source = ip->source;
	p->tuple.v6.target = ip->target;
	p->request = in_bitmap(root->vip_bits, address_hash(&p->tuple.v6.target, true));
	p->reply = in_bitmap(root->reply_bits, address_hash(&p->tuple.v6.source, true));
	p->protocol = ip->next;
	if (!(p->request | p->reply))
		return p->protocol == PROTO_ICMP6 ? PARSED_ODD : PARSED_FOREIGN;
	u32 length = from_be16(ip->length) + IPV6_BYTES;
	if (data + ETHER + length > end && ETHER + length > frame_length(ctx, hook))
		return PARSED_FOREIGN;
	p->tuple.v6.protocol = ip->next;
	p->length = length;
	p->ttl = ip->hops;
	p->tos = from_be32(ip->version_class_flow) >> 20 & 0xff;
	p->df = 1; /* routers never cut IPv6 */
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP)
		return PARSED_ODD;
	return parse_transport(data, end, p, ETHER + IPV6_BYTES, length - IPV6_BYTES);
}
