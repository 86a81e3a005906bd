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
INLINE u32 room(u32 method, u32 state, bool six, const struct hop *hop)
{
	if (method != METHOD_TUNNEL)
		return hop->mtu;
	if (likely(!(state >> DESTINATION_TUNNEL)))
		return hop->room;
	u32 more = between(state), least = six ? LEAST_MTU6 : LEAST_MTU4;
	return hop->room >= more + least ? hop->room - more : 0;
}

/* Length that counts against the MTU: a super-packet is judged by its segments. */
INLINE u32 segment_length(void *ctx, const struct packet *p, enum hook hook)
{
	if (hook == HOOK_XDP)
		return p->length;
	struct __sk_buff *skb = ctx;
	if (likely(!skb->gso_size))
		return p->length;
	if (skb->gso_size == GSO_BY_FRAGMENTS)
		return 0;
	u32 header = UDP_BYTES;
	if (p->protocol == PROTO_TCP) {
		u8 words = 0;
		bpf_skb_load_bytes(skb, p->l4 + 12, &words, 1);
		header = words >> 4 << 2;
	}
	return p->l4 - ETHER + header + skb->gso_size;
}

/* Likewise; an IPv6 packet that came in fragments is judged by the longest of them. */
INLINE u32 judged_length(void *ctx, const struct work *w)
{
	const struct packet *p = &w->packet;
	return p->six && p->odd & ODDITY_GATHERED ? w->pieces.largest : segment_length(ctx, p, HOOK_TC);
}

/* Time to live one less; the caller knows that it is more than 1. */
INLINE bool age(void *ctx, const struct packet *p, enum hook hook)
{
	void *data = frame_start(ctx, hook), *end = frame_end(ctx, hook);
	if (p->six) {
		struct ipv6 *ip = data + ETHER;
		if ((void *)(ip + 1) > end)
			return false;
		ip->hops -= 1;
		return true;
	}
	struct ipv4 *ip = data + ETHER;
	if ((void *)(ip + 1) > end)
		return false;
	ip->ttl -= 1;
	u32 check = (u32)ip->check + to_be16(0x0100);
	ip->check = check + (check >= 0xffff);
	return true;
}

INLINE void write_links(void *data, const struct hop *hop)
{
	WORD_AT(u64, data, 0) = WORD_AT(const u64, hop->target_mac, 0);
	WORD_AT(u32, data, 8) = WORD_AT(const u32, hop->target_mac, 8);
}

INLINE bool address_link(void *ctx, const struct hop *hop, enum hook hook)
{
	struct ether *ether = frame_start(ctx, hook);
	if ((void *)(ether + 1) > frame_end(ctx, hook))
		return false;
	write_links(ether, hop);
	return true;
}

INLINE bool direct(void *ctx, const struct packet *p, const struct hop *hop, enum hook hook)
{
	return age(ctx, p, hook) && address_link(ctx, hop, hook);
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

/* Whether the packet fits into an MTU, less `extra` bytes; `cut` allows fragments whatever DF says. */
INLINE enum fit fit(u32 length, u32 mtu, u32 extra, const struct packet *p, bool cut)
{
	if (likely(length + extra <= mtu))
		return FITS;
	if (p->six)
		return FITS_NOT;
	return cut || !p->df ? FITS_IN_FRAGMENTS : FITS_NOT;
}

/* A packet of this host's own has the route by lo that it came with. A packet that waits for its next hop's link address
 * would get the one of that route's: zeroes. A tunnel's key takes the route's place; only devices of `external` mode read
 * it. */
INLINE void forget_route(struct __sk_buff *skb)
{
	struct bpf_tunnel_key none = {};
	bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
}

/* Out through the kernel's neighbour code, which resolves the next hop and keeps it alive. */
INLINE int transmit_neighbour(struct __sk_buff *skb, const struct hop *hop, bool six)
{
	if (unlikely(skb->ifindex == loopback) && hop->ifindex != loopback)
		forget_route(skb);
	struct bpf_redir_neigh next = {.nh_family = six ? FAMILY_V6 : FAMILY_V4};
	if (six)
		__builtin_memcpy(next.ipv6_nh, &hop->gateway, sizeof(hop->gateway));
	else
		next.ipv4_nh = hop->gateway.word[0];
	return bpf_redirect_neigh(hop->ifindex, &next, sizeof(next), 0);
}

/* Out by the hop's device. XDP needs both MACs in place; at TC the kernel's neighbour code puts them there, which knows
 * of a new link address at once. `six` tells what the frame is as it leaves. */
INLINE int transmit(void *ctx, const struct hop *hop, bool six, enum hook hook)
{
	if (hook == HOOK_TC)
		return transmit_neighbour(ctx, hop, six);
	return sent_by(hop, hop->ifindex == input_device(ctx, hook) ? WAY_BACK : WAY_ACROSS);
}

/* --- accounting (IPVS-SEMANTICS 9.1) --- */

/* What passes here of ICMP are errors about connections, rewritten by STAGE_ERROR_CARRY. */
INLINE bool is_icmp(const struct packet *p)
{
	return p->protocol == (p->six ? PROTO_ICMP6 : PROTO_ICMP);
}

/* Errors are never answered by errors (RFC 1122 3.2.2, RFC 4443 2.4 e). */
INLINE int answer(struct __sk_buff *skb, struct work *w, u32 reason, u32 type, u32 code, u32 rest)
{
	if (is_icmp(&w->packet))
		return dropped(HOOK_TC, reason);
	count(reason);
	w->error_type = type;
	w->error_code = code;
	w->error_rest = rest;
	return go_on(skb, HOOK_TC, STAGE_ICMP);
}

/* Length at which the packet, so long when it is finished, is cut; 0: it leaves whole. What came in fragments leaves in
 * fragments no longer than those that came (IPVS-SEMANTICS 7.1 end). */
INLINE u32 cut_at(const struct work *w, u32 length, bool too_long)
{
	u32 largest = w->pieces.largest, mtu = w->hop.mtu;
	bool six = w->packet.six;
	if (!(w->packet.odd & ODDITY_GATHERED))
		return too_long ? mtu : 0;
	if (w->outer_six && !six && w->pieces.df) /* the kernel mistakes a flag for a length of 64 */
		return LEAST_MTU6;
	if (w->outer_six != six)
		return length > mtu ? mtu : 0;
	if (!six)
		return largest < mtu ? largest : mtu;
	if (length <= largest)
		return 0;
	return largest > LEAST_MTU6 ? largest : LEAST_MTU6;
}

/* The packet is as it shall be; w->hop, w->mtu and w->outer_six tell where it goes. */
INLINE int finish(struct __sk_buff *skb, struct work *w)
{
	if (w->hop.verdict == HOP_LOCAL)
		return w->replying ? to_own_client(skb, &w->packet) : to_stack(HOOK_TC);
	if (w->mtu)
		return go_on(skb, HOOK_TC, STAGE_CUT);
	return transmit_neighbour(skb, &w->hop, w->outer_six);
}

/* Likewise, but for a checksum that is computed anew. */
INLINE int finish_nat(struct __sk_buff *skb, struct work *w, bool other_port)
{
	u8 protocol = w->packet.protocol;
	if (protocol == PROTO_UDP && w->packet.no_sum)
		return go_on(skb, HOOK_TC, STAGE_SUM);
	if (protocol == PROTO_SCTP && other_port)
		return go_on(skb, HOOK_TC, STAGE_CRC);
	return finish(skb, w);
}
