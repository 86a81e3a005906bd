/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * NAT: replace daddr and dport of a request, or saddr and sport of a reply, and update checksums incrementally
 * (IPVS-SEMANTICS 7.3). At TC a helper updates that of the transport header, because only the kernel knows unfinished
 * ones.
 */
#pragma once
#include "ctx/ctx.h"
#include "lib/headers.h"
#include "parse/packet.h"

enum nat_side { NAT_REQUEST, NAT_REPLY };

/* Replace the address in the IP header behind the frame's data; return by how much that changes a sum of the address. */
INLINE u64 replace_address(void *data, bool is_ipv6, u32 side, const struct address *to)
{
	if (is_ipv6) {
		struct ipv6_header *ip = data + ETH_HLEN;
		struct address *from = side == NAT_REQUEST ? &ip->daddr : &ip->saddr;
		u64 difference = address_sum(from, 4, true) + address_sum(to, 4, false);
		*from = *to;
		return difference;
	}
	struct ipv4_header *ip = data + ETH_HLEN;
	be32 *from = side == NAT_REQUEST ? &ip->daddr : &ip->saddr;
	u64 difference = (u64)~*from + to->word[0];
	ip->check = csum_replace(ip->check, difference);
	*from = to->word[0];
	return difference;
}

INLINE bool nat_xdp(struct xdp_md *ctx, const struct packet *p, enum nat_side side, const struct address *to, be16 to_port)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	u32 l4 = ETH_HLEN + (p->is_ipv6 ? IPV6_HLEN : IPV4_HLEN);
	u8 *transport = data + l4;
	if ((void *)(transport + UDP_HLEN) > end)
		return false;
	struct ports *ports = (void *)transport;
	be16 *port = side == NAT_REQUEST ? &ports->daddr : &ports->saddr;
	u64 difference = replace_address(data, p->is_ipv6, side, to);
	difference += (u64)(u16)~*port + to_port;
	*port = to_port;
	if (p->protocol == IPPROTO_TCP) {
		u16 *check = (void *)(transport + 16);
		if ((void *)(check + 1) > end)
			return false;
		*check = csum_replace(*check, difference);
		return true;
	}
	u16 *check = (void *)(transport + 6);
	if (*check) {
		u16 new_check = csum_replace(*check, difference);
		*check = new_check ?: 0xffff;
	}
	return true;
}

enum { MOST_L4 = 0x7fff }; /* more than IPv6 extension headers can have: the verifier needs a limit */

VERIFIED_ONCE int nat_tc(struct __sk_buff *skb, const struct packet *p, u32 side, const struct address *to,
			 u32 port_to_be)
{
	struct ctx ctx = tc_ctx(skb);
	u32 l4 = p ? barrier_var((u32)p->l4) : 0;
	if (!p || !to || l4 > MOST_L4)
		return false;
	bool has_ports = !p->no_csum || !is_ipsec(p->protocol);
	u32 headers = l4 + (has_ports ? sizeof(struct ports) : 0);
	if (unlikely(ctx_data(ctx) + headers > ctx_data_end(ctx)) && bpf_skb_pull_data(skb, headers))
		return false;
	void *data = ctx_data(ctx), *end = ctx_data_end(ctx), *transport = data + l4;
	if (data + ETH_HLEN + (p->is_ipv6 ? IPV6_HLEN : IPV4_HLEN) > end)
		return false;
	be16 *port = transport + (side == NAT_REQUEST ? 2 : 0), to_port = port_to_be, from_port = to_port;
	if (has_ports) {
		if (transport + sizeof(struct ports) > end)
			return false;
		from_port = *port;
		*port = to_port;
	}
	u64 difference = replace_address(data, p->is_ipv6, side, to);
	if (p->no_csum)
		return true;
	u32 check = l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	u64 udp = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	difference = (u32)difference + (difference >> 32);
	difference = (u32)difference + (difference >> 32);
	return !bpf_l4_csum_replace(skb, check, 0, difference, udp | BPF_F_PSEUDO_HDR) &&
	       (from_port == to_port || !bpf_l4_csum_replace(skb, check, from_port, to_port, udp | 2));
}

INLINE bool nat(struct ctx ctx, const struct packet *p, enum nat_side side, const struct address *to, be16 to_port)
{
	return ctx.hook == HOOK_XDP ? nat_xdp(ctx.xdp, p, side, to, to_port) : nat_tc(ctx.skb, p, side, to, to_port);
}
