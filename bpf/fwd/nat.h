/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * NAT: replace daddr and dport of a request, or saddr and sport of a reply, and update checksums incrementally
 * (IPVS-SEMANTICS 7.3). At TC the helpers update them, because only they know unfinished ones.
 */
#pragma once
#include "ctx/ctx.h"
#include "lib/headers.h"
#include "parse/packet.h"

enum nat_side { NAT_REQUEST, NAT_REPLY };

INLINE bool nat_xdp(struct xdp_md *ctx, const struct packet *p, enum nat_side side, const struct address *to, be16 to_port)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	u32 l4 = ETH_HLEN + (p->is_ipv6 ? IPV6_HLEN : IPV4_HLEN);
	u8 *transport = data + l4;
	if ((void *)(transport + UDP_HLEN) > end)
		return false;
	struct ports *ports = (void *)transport;
	be16 *port = side == NAT_REQUEST ? &ports->daddr : &ports->saddr;
	u64 difference;
	if (p->is_ipv6) {
		struct ipv6_header *ip = data + ETH_HLEN;
		struct address *from = side == NAT_REQUEST ? &ip->daddr : &ip->saddr;
		difference = address_sum(from, 4, true) + address_sum(to, 4, false);
		*from = *to;
	} else {
		struct ipv4_header *ip = data + ETH_HLEN;
		be32 *from = side == NAT_REQUEST ? &ip->daddr : &ip->saddr;
		difference = (u64)~*from + to->word[0];
		ip->check = csum_replace(ip->check, difference);
		*from = to->word[0];
	}
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

VERIFIED_ONCE int nat_tc(struct __sk_buff *ctx, const struct packet *p, u32 side, const struct address *to,
			 u32 port_to_be)
{
	if (!p || !to)
		return false;
	be16 to_port = port_to_be;
	u32 check = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	u32 port = p->l4 + (side == NAT_REQUEST ? 2 : 0);
	u64 udp = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	be16 from_port = to_port;
	if (!(p->no_csum && is_ipsec(p->protocol)) && bpf_skb_load_bytes(ctx, port, &from_port, 2))
		return false;
	if (p->is_ipv6) {
		u32 at = ETH_HLEN + (side == NAT_REQUEST ? 24 : 8);
		struct address from, new = *to;
		if (bpf_skb_load_bytes(ctx, at, &from, sizeof(from)))
			return false;
		s64 difference = bpf_csum_diff(from.word, sizeof(from), new.word, sizeof(new), 0);
		if (difference < 0 ||
		    (!p->no_csum && bpf_l4_csum_replace(ctx, check, 0, difference, udp | BPF_F_PSEUDO_HDR)))
			return false;
		if (bpf_skb_store_bytes(ctx, at, &new, sizeof(new), 0))
			return false;
	} else {
		u32 at = ETH_HLEN + (side == NAT_REQUEST ? 16 : 12);
		be32 from, new = to->word[0];
		if (bpf_skb_load_bytes(ctx, at, &from, 4))
			return false;
		if (!p->no_csum && bpf_l4_csum_replace(ctx, check, from, new, udp | BPF_F_PSEUDO_HDR | 4))
			return false;
		if (bpf_l3_csum_replace(ctx, ETH_HLEN + 10, from, new, 4) || bpf_skb_store_bytes(ctx, at, &new, 4, 0))
			return false;
	}
	if (from_port != to_port) {
		if (!p->no_csum && bpf_l4_csum_replace(ctx, check, from_port, to_port, udp | 2))
			return false;
		if (bpf_skb_store_bytes(ctx, port, &to_port, 2, 0))
			return false;
	}
	return true;
}

INLINE bool nat(struct ctx ctx, const struct packet *p, enum nat_side side, const struct address *to, be16 to_port)
{
	return ctx.hook == HOOK_XDP ? nat_xdp(ctx.xdp, p, side, to, to_port) : nat_tc(ctx.skb, p, side, to, to_port);
}
