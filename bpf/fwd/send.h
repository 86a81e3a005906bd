/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Sending a packet on (IPVS-SEMANTICS 7.1): does it fit, time to live, link addresses, out.
 */
#pragma once
#include "ctx/scratch.h"
#include "fwd/nexthop.h"
#include "lb/destination.h"

#define TC_REDIRECT 7

enum { GSO_BY_FRAGMENTS = 0xffff }; /* SCTP: a list of packets, each as long as the sender may send */

enum fit { FITS, FITS_NOT, FITS_IN_FRAGMENTS };

/* The longest packet that the method takes on this way; 0: none. */
INLINE u32 max_len(u32 method, u32 state, bool is_ipv6, const struct hop *hop)
{
	if (method != METHOD_TUNNEL)
		return hop->mtu;
	if (likely(!(state >> DESTINATION_TUNNEL)))
		return hop->room;
	u32 more = tunnel_hlen(state), least = is_ipv6 ? LEAST_MTU6 : LEAST_MTU4;
	return hop->room >= more + least ? hop->room - more : 0;
}

/* Length that counts against the MTU: a super-packet is judged by its segments. */
INLINE u32 segment_length(struct ctx ctx, const struct packet *p)
{
	if (ctx.hook == HOOK_XDP)
		return p->length;
	struct __sk_buff *skb = ctx.raw;
	if (likely(!skb->gso_size))
		return p->length;
	if (skb->gso_size == GSO_BY_FRAGMENTS)
		return 0;
	u32 header = UDP_HLEN;
	if (p->protocol == IPPROTO_TCP) {
		u8 words = 0;
		bpf_skb_load_bytes(skb, p->l4 + 12, &words, 1);
		header = words >> 4 << 2;
	}
	return p->l4 - ETH_HLEN + header + skb->gso_size;
}

/* Likewise; an IPv6 packet that came in fragments is judged by the longest of them. */
INLINE u32 judged_length(void *ctx, const struct scratch *w)
{
	const struct packet *p = &w->packet;
	return p->is_ipv6 && p->slow_flags & SLOW_REASSEMBLED ? w->pieces.largest : segment_length(tc_ctx(ctx), p);
}

/* Time to live one less; the caller knows that it is more than 1. */
INLINE bool dec_ttl(struct ctx ctx, const struct packet *p)
{
	void *data = ctx_data(ctx), *end = ctx_data_end(ctx);
	if (p->is_ipv6) {
		struct ipv6_header *ip = data + ETH_HLEN;
		if ((void *)(ip + 1) > end)
			return false;
		ip->hop_limit -= 1;
		return true;
	}
	struct ipv4_header *ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end)
		return false;
	ip->ttl -= 1;
	u32 check = (u32)ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	return true;
}

INLINE void write_macs(void *data, const struct hop *hop)
{
	WORD_AT(u64, data, 0) = WORD_AT(const u64, hop->target_mac, 0);
	WORD_AT(u32, data, 8) = WORD_AT(const u32, hop->target_mac, 8);
}

INLINE bool set_macs(struct ctx ctx, const struct hop *hop)
{
	struct eth_header *ether = ctx_data(ctx);
	if ((void *)(ether + 1) > ctx_data_end(ctx))
		return false;
	write_macs(ether, hop);
	return true;
}

INLINE bool direct(struct ctx ctx, const struct packet *p, const struct hop *hop)
{
	return dec_ttl(ctx, p) && set_macs(ctx, hop);
}

/* Cut link padding and other bytes behind the packet off, as the kernel does before IPVS sees it. */
INLINE bool trim_padding(struct ctx ctx, const struct packet *p)
{
	u32 wanted = ETH_HLEN + p->length;
	if (ctx.hook == HOOK_XDP) {
		u32 there = ctx_data_end(ctx) - ctx_data(ctx);
		return likely(there <= wanted) || !bpf_xdp_adjust_tail(ctx.raw, (int)wanted - (int)there);
	}
	struct __sk_buff *skb = ctx.raw;
	return likely(skb->len <= wanted) || skb->gso_size || !bpf_skb_change_tail(skb, wanted, 0);
}

/* Whether the packet fits into an MTU, less `extra` bytes; `cut` allows fragments whatever DF says. */
INLINE enum fit fit(u32 length, u32 mtu, u32 extra, const struct packet *p, bool cut)
{
	if (likely(length + extra <= mtu))
		return FITS;
	if (p->is_ipv6)
		return FITS_NOT;
	return cut || !p->df ? FITS_IN_FRAGMENTS : FITS_NOT;
}

/* A packet of this host's own has the route by lo that it came with. A packet that waits for its next hop's link address
 * would get the one of that route's: zeroes. A tunnel's key takes the route's place; only devices of `external` mode read
 * it. */
INLINE void clear_route(struct __sk_buff *skb)
{
	struct bpf_tunnel_key none = {};
	bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
}

/* Out through the kernel's neighbour code, which resolves the next hop and keeps it alive. */
INLINE int xmit_neigh(struct __sk_buff *skb, const struct hop *hop, bool is_ipv6)
{
	if (unlikely(skb->ifindex == loopback) && hop->ifindex != loopback)
		clear_route(skb);
	struct bpf_redir_neigh next = {.nh_family = is_ipv6 ? AF_INET6 : AF_INET};
	if (is_ipv6)
		__builtin_memcpy(next.ipv6_nh, &hop->gateway, sizeof(hop->gateway));
	else
		next.ipv4_nh = hop->gateway.word[0];
	return bpf_redirect_neigh(hop->ifindex, &next, sizeof(next), 0);
}

/* Out by the hop's device. XDP needs both MACs in place; at TC the kernel's neighbour code puts them there, which knows
 * of a new link address at once. `six` tells what the frame is as it leaves. */
INLINE int xmit(struct ctx ctx, const struct hop *hop, bool is_ipv6)
{
	if (ctx.hook == HOOK_TC)
		return xmit_neigh(ctx.raw, hop, is_ipv6);
	return xdp_xmit(hop, hop->ifindex == ctx_ifindex(ctx) ? XMIT_TX : XMIT_REDIRECT);
}

/* --- accounting (IPVS-SEMANTICS 9.1) --- */

/* What passes here of ICMP are errors about connections, rewritten by PROG_ICMP_FORWARD. */
INLINE bool is_icmp(const struct packet *p)
{
	return p->protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Errors are never answered by errors (RFC 1122 3.2.2, RFC 4443 2.4 e). */
INLINE int send_icmp_error(struct __sk_buff *skb, struct scratch *w, u32 reason, u32 type, u32 code, u32 rest)
{
	if (is_icmp(&w->packet))
		return drop(HOOK_TC, reason);
	count(reason);
	w->error_type = type;
	w->error_code = code;
	w->error_rest = rest;
	return tail_call(tc_ctx(skb), PROG_ICMP_SEND);
}

/* Length at which the packet, so long when it is finished, is cut; 0: it leaves whole. What came in fragments leaves in
 * fragments no longer than those that came (IPVS-SEMANTICS 7.1 end). */
INLINE u32 fragment_size(const struct scratch *w, u32 length, bool too_long)
{
	u32 largest = w->pieces.largest, mtu = w->hop.mtu;
	bool is_ipv6 = w->packet.is_ipv6;
	if (!(w->packet.slow_flags & SLOW_REASSEMBLED))
		return too_long ? mtu : 0;
	if (w->outer_is_ipv6 && !is_ipv6 && w->pieces.df) /* the kernel mistakes a flag for a length of 64 */
		return LEAST_MTU6;
	if (w->outer_is_ipv6 != is_ipv6)
		return length > mtu ? mtu : 0;
	if (!is_ipv6)
		return largest < mtu ? largest : mtu;
	if (length <= largest)
		return 0;
	return largest > LEAST_MTU6 ? largest : LEAST_MTU6;
}

/* The packet is as it shall be; w->hop, w->mtu and w->outer_is_ipv6 tell where it goes. */
INLINE int xmit_finished(struct __sk_buff *skb, struct scratch *w)
{
	if (w->hop.verdict == HOP_LOCAL)
		return w->is_reply ? to_own_client(skb, &w->packet) : pass_to_stack(HOOK_TC);
	if (w->mtu)
		return tail_call(tc_ctx(skb), PROG_FRAGMENT);
	return xmit_neigh(skb, &w->hop, w->outer_is_ipv6);
}

/* Likewise, but for a checksum that is computed anew. */
INLINE int xmit_nat(struct __sk_buff *skb, struct scratch *w, bool other_port)
{
	u8 protocol = w->packet.protocol;
	if (protocol == IPPROTO_UDP && w->packet.no_csum)
		return tail_call(tc_ctx(skb), PROG_UDP_CSUM);
	if (protocol == IPPROTO_SCTP && other_port)
		return tail_call(tc_ctx(skb), PROG_SCTP_CSUM);
	return xmit_finished(skb, w);
}
