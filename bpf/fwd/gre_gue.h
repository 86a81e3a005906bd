/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * GRE and GUE tunnels (RFC 2784; draft-ietf-intarea-gue; IPVS-SEMANTICS 7.4): outer IP header, tunnel header, packet.
 *
 * Checksums over the packet are computed at TC; XDP passes packets of such tunnels to TC. A packet from another
 * namespace of this machine, or merged by GRO, may have an unfinished transport checksum: its field holds the pseudo
 * header's sum. When finished, such a segment sums to the complement of the pseudo header's sum, so its payload need
 * not be read.
 */
#pragma once
#include "ctx/scratch.h"
#include "fwd/ipip.h"
#include "fwd/nexthop.h"
#include "lb/destination.h"

union tunnel_header {
	struct gre gre;
	struct gue gue;
	u8 bytes[20];
};

INLINE u32 hash_mix(u32 hash, u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1u;
	return hash ^ hash >> 15;
}

INLINE u32 flow_hash(const struct packet *p)
{
	u32 hash = tunnel_secret ^ p->protocol;
	if (p->is_ipv6) {
#pragma unroll
		for (int i = 0; i < 4; i++)
			hash = hash_mix(hash_mix(hash, p->tuple.v6.saddr.word[i]), p->tuple.v6.daddr.word[i]);
		hash = hash_mix(hash, (u32)p->tuple.v6.sport << 16 | p->tuple.v6.dport);
	} else {
		hash = hash_mix(hash_mix(hash, p->tuple.v4.saddr), p->tuple.v4.daddr);
		hash = hash_mix(hash, (u32)p->tuple.v4.sport << 16 | p->tuple.v4.dport);
	}
	return hash_mix(hash, tunnel_secret);
}

INLINE be16 entropy_port(const struct packet *p, const struct root *root)
{
	u32 low = root->port_low, high = root->port_high;
	return bpf_htons(low + (u32)((u64)flow_hash(p) * (high - low) >> 32));
}

INLINE void fill_gre(struct gre *gre, const struct packet *p, u32 flags)
{
	gre->flags = flags & TUNNEL_CSUM ? bpf_htons(GRE_FLAG_CSUM) : 0;
	gre->protocol = p->is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	gre->check = 0;
	gre->reserved = 0;
}

INLINE void fill_gue(struct gue *gue, const struct packet *p, const struct root *root, u32 state, u32 bytes)
{
	gue->udp.saddr = entropy_port(p, root);
	gue->udp.daddr = bpf_htons(state >> (DESTINATION_TUNNEL + 4));
	gue->udp.length = bpf_htons(p->length + bytes);
	gue->udp.check = 0;
	gue->version_control_words = 0;
	gue->protocol = inner_protocol(p);
	gue->flags = 0;
}

INLINE u8 fill_tunnel(union tunnel_header *h, const struct packet *p, const struct root *root, u32 state, u32 bytes)
{
	if (tunnel_kind(state) == TUNNEL_GRE) {
		fill_gre(&h->gre, p, tunnel_flags(state));
		return IPPROTO_GRE;
	}
	fill_gue(&h->gue, p, root, state, bytes);
	return IPPROTO_UDP;
}

/* Whether the kernel has yet to compute the transport checksum (CHECKSUM_PARTIAL). It ignores a change outside the
 * pseudo header for such a packet, so a trial update shows the difference. */
INLINE bool is_csum_partial(struct __sk_buff *skb, const struct packet *p)
{
	u32 at = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	u16 before, after;
	if (!p->l4_complete || p->slow_flags & (SLOW_REASSEMBLED | SLOW_FIRST_FRAGMENT) || p->no_csum)
		return false;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, at, &before, 2) || bpf_l4_csum_replace(skb, at, 0, 1, 2) ||
	    bpf_skb_load_bytes(skb, at, &after, 2))
		return false;
	return before == after || bpf_skb_store_bytes(skb, at, &before, 2, 0);
}

/* Whether PROG_GSO_SEGMENT can segment a GSO packet. */
INLINE bool can_segment(struct __sk_buff *skb, const struct scratch *w)
{
	return has_neighbour(&w->xmit.hop) && !w->xmit.fragment_size && is_csum_partial(skb, &w->packet);
}

/* Return the packet's sum from its IP header on, as if its own checksums were finished. */
INLINE u32 packet_sum(struct __sk_buff *skb, struct copy *copy, const struct packet *p)
{
	if (!is_csum_partial(skb, p))
		return csum_frame(skb, copy->bytes, ETH_HLEN, p->length, 0);
	u16 pseudo = 0;
	bpf_skb_load_bytes(skb, p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6), &pseudo, 2);
	return csum_frame(skb, copy->bytes, ETH_HLEN, p->l4 - ETH_HLEN, (u16)~pseudo);
}

INLINE u64 halves_sum(const u8 *bytes, u32 size)
{
	const u16 *half = (const void *)bytes;
	u64 sum = 0;
#pragma unroll
	for (u32 i = 0; i < 10; i++)
		if (i < size / 2)
			sum += half[i];
	return sum;
}

INLINE u64 addresses_sum(const struct packet *p, const struct destination *d, const struct hop *hop)
{
	bool is_ipv6 = d->family == 6;
	const struct address *saddr = fib_gives_saddr ? &hop->saddr : &d->saddr;
	return address_sum(saddr, is_ipv6 ? 4 : 1, false) + address_sum(&d->address, is_ipv6 ? 4 : 1, false);
}

/* Write the tunnel's checksum over its header and a packet with this sum. */
INLINE void write_tunnel_csum(union tunnel_header *h, const struct packet *p, const struct destination *d,
			      const struct hop *hop, u32 state, u32 more, u64 sum)
{
	if (tunnel_kind(state) == TUNNEL_GRE) {
		h->gre.check = ~csum_fold(sum + halves_sum(h->bytes, GRE_HLEN));
		return;
	}
	sum += addresses_sum(p, d, hop) + bpf_htons(IPPROTO_UDP) + bpf_htons(p->length + more);
	u16 check = ~csum_fold(sum + halves_sum(h->bytes, UDP_HLEN + GUE_HLEN));
	h->gue.udp.check = check ?: 0xffff;
}

/* Write link, outer IP and tunnel header into the headroom. */
VERIFIED_ONCE int push_headers(struct __sk_buff *skb, const struct scratch *w, const struct destination *d,
			       const union tunnel_header *header, u32 more)
{
	if (!w || !d || !header)
		return false;
	const struct packet *p = &w->packet;
	bool pmtu_disc = get_root()->settings.pmtu_disc;
	u8 protocol = tunnel_kind(w->chosen.state) == TUNNEL_GUE ? IPPROTO_UDP : IPPROTO_GRE;
	if (d->family == 6) {
		struct outer6 outer;
		fill_outer6(&outer, p, d, &w->xmit.hop, protocol, more);
		if (bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0))
			return false;
	} else {
		struct outer4 outer;
		fill_outer4(&outer, p, d, &w->xmit.hop, protocol, more, pmtu_disc);
		if (bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0))
			return false;
	}
	more = barrier_var(more);
	return IS_LENGTH(more, sizeof(*header)) && !bpf_skb_store_bytes(skb, ETH_HLEN + outer_hlen(d), header, more, 0);
}

INLINE bool push_headroom(struct __sk_buff *skb, const struct scratch *w, const struct destination *d, u32 more)
{
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (!w->xmit.fragment_size) { /* a packet to be fragmented must not be an encapsulated one to the kernel */
		flags |= d->family == 6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
		flags |= tunnel_kind(w->chosen.state) == TUNNEL_GUE ? BPF_F_ADJ_ROOM_ENCAP_L4_UDP
								    : BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	}
	return !bpf_skb_adjust_room(skb, outer_hlen(d) + more, BPF_ADJ_ROOM_MAC, flags);
}
