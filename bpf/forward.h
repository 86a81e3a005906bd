/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Sending a packet on (IPVS-SEMANTICS 7.1): does it fit, time to live, link addresses, out.
 */
#pragma once
#include "connection.h"
#include "hop.h"

#define TC_REDIRECT 7

enum { GSO_BY_FRAGMENTS = 0xffff }; /* SCTP: a list of packets, each as long as the sender may send */

enum fit { FITS, FITS_NOT, FITS_IN_FRAGMENTS };

enum { GRE_BYTES = 4, GRE_SUM_BYTES = 4, GUE_BYTES = 4, REMCSUM_BYTES = 8 };

INLINE u32 tunnel_kind(u32 state)
{
	return state >> DESTINATION_TUNNEL & 3;
}

INLINE u32 tunnel_flags(u32 state)
{
	return state >> (DESTINATION_TUNNEL + 2) & 3;
}

/* Bytes between the outer IP header and the inner one, of a destination in this state. */
INLINE u32 between(u32 state)
{
	switch (tunnel_kind(state)) {
	case TUNNEL_GRE:
		return GRE_BYTES + (tunnel_flags(state) & TUNNEL_CSUM ? GRE_SUM_BYTES : 0);
	case TUNNEL_GUE:
		return UDP_BYTES + GUE_BYTES;
	default:
		return 0;
	}
}

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

/* Whether the packet fits into an MTU, less `extra` bytes; `cut` allows fragments whatever DF says. */
INLINE enum fit fit(u32 length, u32 mtu, u32 extra, const struct packet *p, bool cut)
{
	if (likely(length + extra <= mtu))
		return FITS;
	if (p->six)
		return FITS_NOT;
	return cut || !p->df ? FITS_IN_FRAGMENTS : FITS_NOT;
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

INLINE void account_request(u32 destination, const struct packet *p, u32 connections)
{
	struct counters *c = counters_at(destination);
	if (!c)
		return;
	c->connections += connections;
	c->in_packets += 1;
	c->in_bytes += p->length;
}

INLINE void account_reply(u32 destination, const struct packet *p)
{
	struct counters *c = counters_at(destination);
	if (!c)
		return;
	c->out_packets += 1;
	c->out_bytes += p->length;
}
