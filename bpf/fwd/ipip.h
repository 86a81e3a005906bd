/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPIP tunnels: an outer header from this host to the real server (IPVS-SEMANTICS 7.4), either family in either.
 * fwd/gre_gue.h uses the same outer headers.
 */
#pragma once
#include "abi/config.h"
#include "abi/percpu.h"
#include "ctx/ctx.h"
#include "lib/headers.h"
#include "parse/packet.h"

/* Return the outer TOS: Congestion Experienced becomes ECT(0). */
INLINE u8 outer_tos(u8 tos)
{
	return (tos & 3) == 3 ? tos & ~1 : tos;
}

/* Return the length of the outer IP header. */
INLINE u32 outer_hlen(const struct destination *d)
{
	return d->family == 6 ? IPV6_HLEN : IPV4_HLEN;
}

INLINE u8 inner_protocol(const struct packet *p)
{
	return p->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/* `more` is the length of the tunnel header that follows. */
INLINE void fill_outer4(struct outer4 *o, const struct packet *p, const struct destination *d, const struct hop *hop,
			u8 protocol, u32 more, bool pmtu_disc)
{
	bool df = !p->is_ipv6 && p->df && pmtu_disc;
	__builtin_memcpy(o->ether.h_dest, hop->dmac, 6);
	__builtin_memcpy(o->ether.h_source, hop->smac, 6);
	o->ether.h_proto = bpf_htons(ETH_P_IP);
	o->ip.version_ihl = 0x45;
	o->ip.tos = outer_tos(p->tos);
	o->ip.tot_len = bpf_htons(p->length + IPV4_HLEN + more);
	/* The kernel clears DF for its sockets' UDP packets, so these need an id. */
	bool numbered = !df || (p->from_host && p->protocol == IPPROTO_UDP);
	o->ip.id = !numbered ? 0 : ((u16)bpf_get_prandom_u32() ?: 1);
	o->ip.frag_off = df ? bpf_htons(IP_DF) : 0;
	o->ip.ttl = p->ttl - 1;
	o->ip.protocol = protocol;
	o->ip.check = 0;
	o->ip.saddr = fib_gives_saddr ? hop->saddr.word[0] : d->saddr.word[0];
	o->ip.daddr = d->address.word[0];
	o->ip.check = ~ipv4_header_sum(&o->ip);
}

INLINE void fill_outer6(struct outer6 *o, const struct packet *p, const struct destination *d, const struct hop *hop,
			u8 protocol, u32 more)
{
	__builtin_memcpy(o->ether.h_dest, hop->dmac, 6);
	__builtin_memcpy(o->ether.h_source, hop->smac, 6);
	o->ether.h_proto = bpf_htons(ETH_P_IPV6);
	o->ip.version_class_flow = bpf_htonl(0x60000000 | (u32)outer_tos(p->tos) << 20);
	o->ip.payload_len = bpf_htons(p->length + more);
	o->ip.nexthdr = protocol;
	o->ip.hop_limit = p->ttl - 1;
	o->ip.saddr = fib_gives_saddr ? hop->saddr : d->saddr;
	o->ip.daddr = d->address;
}

/* The TC part of encapsulate. */
VERIFIED_ONCE int encapsulate_tc(struct __sk_buff *skb, const struct packet *p, const struct destination *d,
				 const struct hop *hop, u32 to_be_fragmented)
{
	if (!p || !d || !hop)
		return false;
	bool is_ipv6 = d->family == 6;
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (!to_be_fragmented)
		flags |= is_ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, outer_hlen(d), BPF_ADJ_ROOM_MAC, flags))
		return false;
	if (is_ipv6) {
		struct outer6 outer;
		fill_outer6(&outer, p, d, hop, inner_protocol(p), 0);
		return !bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0);
	}
	struct outer4 outer;
	fill_outer4(&outer, p, d, hop, inner_protocol(p), 0, root_value.settings.pmtu_disc);
	return !bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0);
}

/* The XDP part. The caller has grown the headroom. */
INLINE bool encapsulate_xdp(struct xdp_md *ctx, const struct packet *p, const struct destination *d,
			    const struct hop *hop, bool outer_is_ipv6, bool pmtu_disc)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	if (outer_is_ipv6) {
		if (data + sizeof(struct outer6) > end)
			return false;
		fill_outer6(data, p, d, hop, inner_protocol(p), 0);
	} else {
		if (data + sizeof(struct outer4) > end)
			return false;
		fill_outer4(data, p, d, hop, inner_protocol(p), 0, pmtu_disc);
	}
	return true;
}

/* Prepend Ethernet and outer IP headers; the TTL was decremented before. `to_be_fragmented`: the result will be
 * fragmented, so it must not be an encapsulated packet to the kernel. */
INLINE bool encapsulate(struct ctx ctx, const struct packet *p, const struct destination *d, const struct hop *hop,
			bool pmtu_disc, bool to_be_fragmented)
{
	if (ctx.hook == HOOK_TC)
		return encapsulate_tc(ctx.skb, p, d, hop, to_be_fragmented);
	return encapsulate_xdp(ctx.xdp, p, d, hop, d->family == 6, pmtu_disc);
}
