/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Frames: their headers, and what the rest of the path knows of one. Parsers return a `parsed`, never change the
 * packet, and leave numbers in network order where their type says be16 or be32.
 */
#pragma once
#include "standby.h"
#include "states.h"
#include "sum.h"

enum hook { HOOK_XDP, HOOK_TC };

enum numbers {
	ETHER = 14,
	ETHER_IPV4 = 0x0800,
	ETHER_IPV6 = 0x86dd,
	PROTO_ICMP = 1,
	PROTO_IPIP = 4,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_IPV6 = 41,
	PROTO_FRAGMENT = 44,
	PROTO_GRE = 47,
	PROTO_ESP = 50,
	PROTO_AH = 51,
	PROTO_ICMP6 = 58,
	PROTO_SCTP = 132,
	FAMILY_V4 = 2, /* AF_INET */
	FAMILY_V6 = 10,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	TCP_BYTES = 20,
	UDP_BYTES = 8,
	IPV4_DF = 0x4000,
	IPV4_MF = 0x2000,
	IPV4_OFFSET = 0x1fff,
	PORT_FTP_DATA = 20,
	PORT_FTP = 21,
	PORT_IKE = 500,
};

struct ether {
	u8 target[6];
	u8 source[6];
	be16 kind;
} __attribute__((packed));

struct ipv4 {
	u8 version_words;
	u8 tos;
	be16 length;
	be16 id;
	be16 fragment;
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 source;
	be32 target;
} __attribute__((packed, aligned(2)));

struct ipv6 {
	be32 version_class_flow;
	be16 length;
	u8 next;
	u8 hops;
	struct address source;
	struct address target;
} __attribute__((packed, aligned(2)));

struct ports {
	be16 source;
	be16 target;
};

struct packet {
	union tuple tuple; /* source to target, as it came */
	u32 length; /* of the IP packet */
	u16 l4; /* offset of the transport header in the frame */
	u16 odd; /* enum oddity: what only STAGE_TROUBLE does; `work` tells the rest */
	u8 six;
	u8 protocol;
	u8 ttl;
	u8 tos;
	u8 df;
	u8 event; /* enum event */
	u8 syn; /* TCP: SYN; SCTP: the first chunk is INIT */
	u8 rst; /* TCP: RST; SCTP: the first chunk is ABORT */
	u8 whole; /* the transport header is complete */
	u8 cut; /* SCTP: without a chunk */
	u8 no_sum; /* no checksum to be kept right step by step: UDP without one, SCTP, AH, ESP */
	u8 own; /* sent by this host itself: it came in by lo */
	u8 request; /* to what may be a virtual address */
	u8 reply; /* from what may be a NAT real server, a virtual address or one of this host's own */
	u8 quoting; /* the tuple is that of the packet which an ICMP error quotes */
	u8 unknown; /* a moment ago it had no connection */
};

enum oddity {
	ODDITY_RECORD = 1, /* options to write into */
	ODDITY_GATHERED = 2, /* it came in fragments */
	ODDITY_FRAGMENT = 4, /* a first fragment that is handled as if it were all */
	ODDITY_OPTIONS = 8, /* it has IPv4 options */
	ODDITY_STALE = 16, /* they were written, but not yet the checksum */
};

enum parsed { PARSED_PLAIN, PARSED_ODD, PARSED_FOREIGN };

/* A packet's ends, in either family; addresses go into what is zero before. */
INLINE be16 port_from(const struct packet *p)
{
	return p->six ? p->tuple.v6.source_port : p->tuple.v4.source_port;
}

INLINE be16 port_to(const struct packet *p)
{
	return p->six ? p->tuple.v6.target_port : p->tuple.v4.target_port;
}

INLINE void address_from(struct address *to, const struct packet *p)
{
	if (p->six)
		*to = p->tuple.v6.source;
	else
		to->word[0] = p->tuple.v4.source;
}

INLINE void address_to(struct address *to, const struct packet *p)
{
	if (p->six)
		*to = p->tuple.v6.target;
	else
		to->word[0] = p->tuple.v4.target;
}

INLINE void *frame_start(void *ctx, enum hook hook)
{
	if (hook == HOOK_XDP)
		return (void *)(long)((struct xdp_md *)ctx)->data;
	return (void *)(long)((struct __sk_buff *)ctx)->data;
}

INLINE void *frame_end(void *ctx, enum hook hook)
{
	if (hook == HOOK_XDP)
		return (void *)(long)((struct xdp_md *)ctx)->data_end;
	return (void *)(long)((struct __sk_buff *)ctx)->data_end;
}

INLINE u32 frame_length(void *ctx, enum hook hook)
{
	if (hook == HOOK_XDP)
		return bpf_xdp_get_buff_len(ctx);
	return ((struct __sk_buff *)ctx)->len;
}

INLINE u32 input_device(void *ctx, enum hook hook)
{
	if (hook == HOOK_XDP)
		return ((struct xdp_md *)ctx)->ingress_ifindex;
	return ((struct __sk_buff *)ctx)->ifindex;
}

/* Of the devices that XDP looks at, each has one address. */
INLINE bool is_for_this_host(const struct ether *ether, u32 input)
{
	struct device *device = LOOKUP(devices, input & (DEVICES - 1));
	if (!device || device->ifindex != input)
		return false;
	const u16 *a = (const void *)ether->target, *b = (const void *)device->mac;
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

INLINE int to_stack(enum hook hook)
{
	return hook == HOOK_XDP ? (int)XDP_PASS : -1 /* TC_ACT_UNSPEC: other filters may follow */;
}

INLINE int dropped(enum hook hook, u32 reason)
{
	count(reason);
	return hook == HOOK_XDP ? (int)XDP_DROP : 2 /* TC_ACT_SHOT */;
}

/* Sum of an IPv4 header without options; 0xffff when its checksum is right. */
INLINE u16 header_sum(const struct ipv4 *ip)
{
	const u16 *half = (const void *)ip;
	u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	return folded(sum);
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

/* Protocols whose first packet may open a connection. */
INLINE bool has_ports(u8 protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP;
}

/* IPsec, which rides on the connection of its key exchange (IPVS-SEMANTICS 4.7). */
INLINE bool is_ipsec(u8 protocol)
{
	return protocol == PROTO_AH || protocol == PROTO_ESP;
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

/* Cut link padding and other bytes behind the packet off, as the kernel does before IPVS sees it. */
INLINE bool trimmed(void *ctx, const struct packet *p, enum hook hook)
{
	u32 wanted = ETHER + p->length;
	if (hook == HOOK_XDP) {
		u32 there = frame_end(ctx, hook) - frame_start(ctx, hook);
		return likely(there <= wanted) || !bpf_xdp_adjust_tail(ctx, (int)wanted - (int)there);
	}
	struct __sk_buff *skb = ctx;
	return likely(skb->len <= wanted) || skb->gso_size || !bpf_skb_change_tail(skb, wanted, 0);
}

/* At TC, give the frame another length. Its tail cannot be cut below where the kernel once saw a transport header: then bytes behind the
 * IP header go instead, which serves as well, for all of them are about to be written. */
INLINE bool resized(struct __sk_buff *skb, u32 length)
{
	if (!bpf_skb_change_tail(skb, length, 0))
		return true;
	s32 surplus = skb->len - length;
	return surplus > 0 && surplus <= 4095 && !bpf_skb_adjust_room(skb, -surplus, BPF_ADJ_ROOM_NET, 0);
}
