/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Send a packet (IPVS-SEMANTICS 7.1): MTU, TTL, MAC addresses, transmission, ICMP errors.
 */
#pragma once
#include "ctx/device.h"
#include "ctx/scratch.h"
#include "fwd/nexthop.h"
#include "lb/destination.h"

enum { GSO_BY_FRAGMENTS = 0xffff }; /* gso_size of SCTP: a list of packets, each within the sender's MTU */

enum fit { FITS, FITS_NOT, FITS_IN_FRAGMENTS };

/* Return the longest packet that the method can send by a path with this MTU; 0: none. `is_ipv6`: the outer header is
 * IPv6. */
INLINE u32 max_len(u32 method, u32 state, bool is_ipv6, u32 mtu)
{
	if (method != METHOD_TUNNEL)
		return mtu;
	u32 head = (is_ipv6 ? IPV6_HLEN : IPV4_HLEN) + tunnel_hlen(state), min = is_ipv6 ? MIN_MTU6 : MIN_MTU4;
	return mtu >= head + min ? mtu - head : 0;
}

/* Return the MTU of the path to a destination for a packet. The hop's own MTU is the least of all clients: of tunnels
 * to the same real server, whose outer header has DF. */
INLINE u32 path_mtu(const struct packet *p, u32 method, const struct destination *d, const struct hop *hop, u32 now)
{
	if (likely(hop->mtu == hop->link_mtu) || method != METHOD_TUNNEL || p->is_ipv6)
		return hop->link_mtu;
	return client_mtu(hop, d->address.word[0], p->tuple.v4.saddr, now);
}

/* Return the length to compare with the MTU: for a GSO packet that of its segments. */
INLINE u32 segment_length(struct ctx ctx, const struct packet *p)
{
	if (ctx.hook == HOOK_XDP)
		return p->length;
	struct __sk_buff *skb = ctx.skb;
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

/* Likewise; for a reassembled IPv6 packet the length of its longest fragment. */
INLINE u32 mtu_length(struct __sk_buff *skb, const struct scratch *w)
{
	const struct packet *p = &w->packet;
	return p->is_ipv6 && p->slow_flags & SLOW_REASSEMBLED ? w->frags.largest : segment_length(tc_ctx(skb), p);
}

/* Decrement the TTL, which is above 1. */
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
	WORD_AT(u64, data, 0) = WORD_AT(const u64, hop->dmac, 0);
	WORD_AT(u32, data, 8) = WORD_AT(const u32, hop->dmac, 8);
}

INLINE bool set_macs(struct ctx ctx, const struct hop *hop)
{
	struct eth_header *ether = ctx_data(ctx);
	if ((void *)(ether + 1) > ctx_data_end(ctx))
		return false;
	write_macs(ether, hop);
	return true;
}

INLINE bool fwd_direct(struct ctx ctx, const struct packet *p, const struct hop *hop)
{
	return dec_ttl(ctx, p) && set_macs(ctx, hop);
}

/* Trim link padding, as the kernel does before IPVS sees the packet. */
INLINE bool trim_xdp(struct xdp_md *xdp, u32 length)
{
	u32 wanted = ETH_HLEN + length, there = ctx_data_end(xdp_ctx(xdp)) - ctx_data(xdp_ctx(xdp));
	return likely(there <= wanted) || !bpf_xdp_adjust_tail(xdp, (int)wanted - (int)there);
}

INLINE bool trim_padding(struct ctx ctx, const struct packet *p)
{
	if (ctx.hook == HOOK_XDP)
		return trim_xdp(ctx.xdp, p->length);
	u32 wanted = ETH_HLEN + p->length;
	return likely(ctx.skb->len <= wanted) || ctx.skb->gso_size || !bpf_skb_change_tail(ctx.skb, wanted, 0);
}

/* Whether a packet fits into an MTU, less `extra` bytes. `may_fragment`: in spite of DF. */
INLINE enum fit fit(u32 length, u32 mtu, u32 extra, const struct packet *p, bool may_fragment)
{
	if (likely(length + extra <= mtu))
		return FITS;
	if (p->is_ipv6)
		return FITS_NOT;
	return may_fragment || !p->df ? FITS_IN_FRAGMENTS : FITS_NOT;
}

/* Replace the route of a packet of this host, which is sent to lo. If the packet waits for its neighbour, the kernel
 * would take the MAC address of that route: zeroes. A tunnel key replaces the route; only devices in `external` mode
 * read it. */
INLINE void clear_route(struct __sk_buff *skb)
{
	struct bpf_tunnel_key none = {};
	bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
}

/* The packet leaves by a device (trace/frame.h). */
int trace_forwarded(const struct hop *hop);

/* Send by the kernel's neighbour code, which resolves the neighbour and keeps it valid. */
INLINE int xmit_neigh(struct __sk_buff *skb, const struct hop *hop)
{
	if (unlikely(skb->ifindex == loopback) && hop->ifindex != loopback)
		clear_route(skb);
	struct bpf_redir_neigh next = {.nh_family = hop->gateway_is_ipv6 ? AF_INET6 : AF_INET};
	if (hop->gateway_is_ipv6)
		__builtin_memcpy(next.ipv6_nh, &hop->gateway, sizeof(hop->gateway));
	else
		next.ipv4_nh = hop->gateway.word[0];
	if (is_traced()) {
		trace_sent_tc(skb, hop->ifindex);
		trace_forwarded(hop);
	}
	return bpf_redirect_neigh(hop->ifindex, &next, sizeof(next), 0);
}

/* Send by the hop's device. At XDP the caller has written both MAC addresses. At TC the kernel's neighbour code writes
 * them, and learns of a changed MAC address at once. */
INLINE int xmit(struct ctx ctx, const struct packet *p, const struct hop *hop)
{
	if (ctx.hook == HOOK_TC)
		return xmit_neigh(ctx.skb, hop);
	if (is_traced()) {
		trace_sent_xdp(ctx.xdp, hop->ifindex);
		trace_forwarded(hop);
	}
	return xdp_xmit(hop, hop->ifindex == p->input ? XMIT_TX : XMIT_REDIRECT);
}

/* --- packets that need the slow path --- */

/* Whether it is an ICMP error about a connection, rewritten by PROG_ICMP_FORWARD: other ICMP does not get here. */
INLINE bool is_icmp(const struct packet *p)
{
	return p->protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Send an ICMP error to the sender, except about an ICMP error (RFC 1122 3.2.2, RFC 4443 2.4 e). */
INLINE int send_icmp_error(struct __sk_buff *skb, struct scratch *w, u32 reason, enum icmp_error error, u32 rest)
{
	if (is_icmp(&w->packet))
		return drop(HOOK_TC, reason);
	set_icmp_error(w, reason, error, rest);
	return tail_call(tc_ctx(skb), PROG_ICMP_SEND);
}

/* Return the size of fragments of a packet that is `length` long when finished; 0: do not fragment. A reassembled
 * packet leaves in fragments no longer than those received (IPVS-SEMANTICS 7.1 end). */
INLINE u32 fragment_size(const struct scratch *w, u32 length, bool too_long)
{
	u32 largest = w->frags.largest, mtu = w->xmit.hop.mtu;
	bool is_ipv6 = w->packet.is_ipv6;
	if (!(w->packet.slow_flags & SLOW_REASSEMBLED))
		return too_long ? mtu : 0;
	if (w->xmit.is_ipv6 && !is_ipv6 && w->frags.df) /* as in the kernel, which takes a flag for a length of 64 */
		return MIN_MTU6;
	if (w->xmit.is_ipv6 != is_ipv6)
		return length > mtu ? mtu : 0;
	if (!is_ipv6)
		return largest < mtu ? largest : mtu;
	if (length <= largest)
		return 0;
	return largest > MIN_MTU6 ? largest : MIN_MTU6;
}

enum { MAX_ADJUST = 0xfff, LEAST_SEGMENT = 8 };

/* Shorten the segments of a merged TCP packet by so many bytes. Growing the frame for a moment makes the kernel do
 * that. Return false if it does not. */
INLINE bool shorten_segments(struct __sk_buff *skb, const struct packet *p, u32 by)
{
	u32 before = skb->gso_size;
	by = barrier_var(by);
	return p->protocol == IPPROTO_TCP && IS_LENGTH(by, MAX_ADJUST) && before >= by + LEAST_SEGMENT &&
	       !bpf_skb_adjust_room(skb, by, BPF_ADJ_ROOM_MAC, 0) &&
	       !bpf_skb_adjust_room(skb, -(s32)by, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       skb->gso_size == before - by; /* not those of a list of packets */
}

/* Set the size of fragments of a packet that is `surplus` bytes too long. The kernel does not fragment the segments of
 * merged packets, so these become shorter. */
VERIFIED_ONCE int set_fragment_size(struct __sk_buff *skb, struct scratch *w, u32 length, u32 surplus)
{
	if (w)
		w->xmit.fragment_size =
			fragment_size(w, length, surplus && !shorten_segments(skb, &w->packet, surplus));
	return 0;
}

/* Send a finished packet, as w->xmit describes it. */
INLINE int xmit_finished(struct __sk_buff *skb, struct scratch *w)
{
	if (w->xmit.hop.verdict == HOP_LOCAL) {
		if (w->xmit.is_reply)
			return to_own_client(skb, &w->packet);
		trace_sent(tc_ctx(skb), 0);
		return pass_for(HOOK_TC, REASON_SERVER_LOCAL);
	}
	if (w->xmit.fragment_size)
		return tail_call(tc_ctx(skb), PROG_FRAGMENT);
	return xmit_neigh(skb, &w->xmit.hop);
}

/* Likewise, after computing a checksum that cannot be updated. */
INLINE int xmit_nat(struct __sk_buff *skb, struct scratch *w, bool other_port)
{
	u8 protocol = w->packet.protocol;
	if (protocol == IPPROTO_UDP && w->packet.no_csum)
		return tail_call(tc_ctx(skb), PROG_UDP_CSUM);
	if (protocol == IPPROTO_SCTP && other_port)
		return tail_call(tc_ctx(skb), PROG_SCTP_CSUM);
	return xmit_finished(skb, w);
}
