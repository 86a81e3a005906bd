/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_GSO_SEGMENT: segment a GSO packet for a tunnel with a checksum, or of UDP for GUE. The kernel segments such
 * packets at transmission, but cannot compute this checksum for each segment. So the program copies headers and
 * payload, completes all checksums, and sends a clone for each segment. If the kernel has yet to resolve the neighbour,
 * its neighbour code gets the first segment, and the others are lost: they cannot wait.
 *
 * Reads chosen and xmit.
 */
#pragma once
#include "fwd/gre_gue.h"
#include "fwd/send.h"

enum {
	GSO_MASK = 65535,
	SEGMENT_MAX = 16384,
	IP_HLEN_MAX = 128,
	TCP_HLEN_MAX = 60,
	TCP_FIN_PSH = 0x09,
	TCP_CWR = 0x80
};

struct gso_packet {
	u8 ip[IP_HLEN_MAX]; /* from the IP header to the transport header */
	union {
		u8 transport[64];
		struct {
			struct ports ports;
			be32 sequence;
			be32 acknowledged;
			u8 words;
			u8 flags;
			u16 window;
			u16 check;
		} __attribute__((packed)) tcp;
		struct udp udp;
	};
	u8 payload[GSO_MASK + 1 + SEGMENT_MAX];
};

/* One for each CPU, by index: the element is too large for a per-CPU map. */
ARRAY_MAP(gso_packets, struct gso_packet, 1, 0);

struct segment_ctx {
	struct __sk_buff *skb;
	struct scratch *w;
	struct gso_packet *gso;
	u32 network; /* bytes from the IP header to the transport header */
	u32 transport; /* bytes of the transport header */
	u32 payload;
	u32 step;
	u32 sequence;
	u32 flags;
	u32 id;
	u32 failed;
};

/* Write the inner headers of a segment whose payload has the sum `sum`. Return the sum of the whole inner packet. */
INLINE u64 write_inner(struct segment_ctx *s, struct gso_packet *gso, u32 offset, u32 size, u32 sum, bool last)
{
	const struct packet *p = &s->w->packet;
	u32 pseudo, length = s->transport + size, network = barrier_var(s->network),
		    transport = barrier_var(s->transport);
	if (p->is_ipv6) {
		struct ipv6_header *ip = (void *)gso->ip;
		ip->payload_len = bpf_htons(s->network - IPV6_HLEN + length);
		pseudo = bpf_csum_diff(NULL, 0, (be32 *)(gso->ip + 8), 32, 0);
	} else {
		struct ipv4_header *ip = (void *)gso->ip;
		be16 total = bpf_htons(s->network + length), id = bpf_htons(s->id + offset / s->step);
		u64 difference = (u64)(u16)~ip->tot_len + total + (u16)~ip->id + id;
		ip->check = csum_replace(ip->check, difference);
		ip->tot_len = total;
		ip->id = id;
		pseudo = bpf_csum_diff(NULL, 0, (be32 *)(gso->ip + 12), 8, 0);
	}
	if (p->protocol == IPPROTO_TCP) {
		gso->tcp.sequence = bpf_htonl(s->sequence + offset);
		gso->tcp.flags = s->flags & ~(last ? 0 : TCP_FIN_PSH) & ~(offset ? TCP_CWR : 0);
		gso->tcp.check = 0;
	} else {
		gso->udp.length = bpf_htons(length);
		gso->udp.check = 0;
	}
	if (!IS_LENGTH(network, IP_HLEN_MAX) || !IS_LENGTH(transport, TCP_HLEN_MAX))
		return 0;
	pseudo = csum_fold((u64)pseudo + bpf_htons(p->protocol) + bpf_htons(length));
	u16 check =
		~csum_fold((u64)(u32)bpf_csum_diff(NULL, 0, (be32 *)gso->transport, transport & ~3u, sum) + pseudo);
	if (p->protocol == IPPROTO_TCP)
		gso->tcp.check = check;
	else
		gso->udp.check = check ?: 0xffff;
	/* with its checksum a segment sums to the complement of the pseudo header's sum */
	return (u64)(u32)bpf_csum_diff(NULL, 0, (be32 *)gso->ip, network & ~3u, 0) + (u16)~pseudo;
}

INLINE bool write_segment(struct segment_ctx *s, const struct destination *d, const struct root *root, u32 offset,
			  u32 size, bool last)
{
	struct scratch *w = s->w;
	struct gso_packet *gso = s->gso;
	u32 more = tunnel_hlen(w->chosen.state), at = ETH_HLEN + outer_hlen(d) + more;
	union tunnel_header header = {};
	struct copy *copy = map_elem(copies, 0);
	u32 behind = at + s->network + s->transport;
	if (!copy || bpf_skb_store_bytes(s->skb, behind, &gso->payload[barrier_var(offset) & GSO_MASK], size, 0))
		return false;
	u64 sum = write_inner(s, gso, offset, size, csum_frame(s->skb, copy->bytes, behind, size, 0), last);
	w->packet.length = s->network + s->transport + size;
	fill_tunnel(&header, &w->packet, root, w->chosen.state, more);
	if (tunnel_flags(w->chosen.state))
		write_tunnel_csum(&header, &w->packet, d, &w->xmit.hop, w->chosen.state, more, sum);
	if (!push_headers(s->skb, w, d, &header, more))
		return false;
	u32 network = barrier_var(s->network), transport = barrier_var(s->transport);
	if (!IS_LENGTH(network, IP_HLEN_MAX) || bpf_skb_store_bytes(s->skb, at, gso->ip, network, 0))
		return false;
	return IS_LENGTH(transport, TCP_HLEN_MAX) &&
	       !bpf_skb_store_bytes(s->skb, at + s->network, gso->transport, transport, 0);
}

static int segment_step(u32 index, struct segment_ctx *s)
{
	u32 offset = index * s->step;
	struct destination *d = map_elem(destinations, s->w->chosen.destination);
	struct root *root = get_root();
	if (offset >= s->payload || !d)
		return 1;
	u32 size = s->payload - offset;
	bool last = size <= s->step;
	if (!last)
		size = s->step;
	s->failed = 1;
	u32 length = ETH_HLEN + outer_hlen(d) + tunnel_hlen(s->w->chosen.state) + s->network + s->transport + size;
	size = barrier_var(size);
	if (!IS_LENGTH(size, SEGMENT_MAX) || bpf_skb_change_tail(s->skb, length, 0) ||
	    !write_segment(s, d, root, offset, size, last))
		return 1;
	bool is_unresolved = s->w->xmit.hop.verdict == HOP_UNRESOLVED; /* then the caller sends this segment */
	s->failed = !is_unresolved && bpf_clone_redirect(s->skb, s->w->xmit.hop.ifindex, 0);
	return is_unresolved || s->failed;
}

/* Copy headers and payload. */
INLINE bool copy_gso_packet(struct segment_ctx *s)
{
	struct __sk_buff *skb = s->skb;
	struct gso_packet *gso = s->gso;
	const struct packet *p = &s->w->packet;
	u32 network = barrier_var(s->network);
	if (!IS_LENGTH(network, IP_HLEN_MAX) || bpf_skb_load_bytes(skb, ETH_HLEN, gso->ip, network) ||
	    bpf_skb_load_bytes(skb, p->l4, gso->transport, UDP_HLEN))
		return false;
	s->transport = UDP_HLEN;
	if (p->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->l4, gso->transport, TCP_HLEN))
			return false;
		s->transport = gso->tcp.words >> 4 << 2;
	}
	u32 transport = barrier_var(s->transport);
	if (!IS_LENGTH(transport, TCP_HLEN_MAX) || bpf_skb_load_bytes(skb, p->l4, gso->transport, transport))
		return false;
	s->sequence = bpf_ntohl(gso->tcp.sequence);
	s->flags = gso->tcp.flags;
	s->id = p->is_ipv6 ? 0 : bpf_ntohs(((struct ipv4_header *)gso->ip)->id);
	s->payload = skb->len - p->l4 - s->transport;
	u32 payload = barrier_var(s->payload);
	return skb->len > p->l4 + s->transport && IS_LENGTH(payload, GSO_MASK) &&
	       !bpf_skb_load_bytes(skb, p->l4 + s->transport, gso->payload, payload);
}

INLINE int prog_gso_segment(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct destination *d = map_elem(destinations, w->chosen.destination);
	struct gso_packet *gso = map_elem(gso_packets, bpf_get_smp_processor_id());
	if (!d || !gso)
		return pass_to_stack(HOOK_TC);
	const struct packet *p = &w->packet;
	struct segment_ctx s = {.skb = skb, .w = w, .gso = gso, .network = p->l4 - ETH_HLEN, .step = skb->gso_size};
	if (!can_segment(skb, w) || !s.step || !copy_gso_packet(&s))
		return drop(HOOK_TC, REASON_GSO_UNSUPPORTED);
	u32 first = s.payload < s.step ? s.payload : s.step;
	/* Make it a plain packet: removing and adding space beyond the start of its unfinished checksum makes the
	 * kernel forget that. */
	s32 front = p->l4 + UDP_HLEN;
	if (bpf_skb_change_tail(skb, p->l4 + s.transport + first, 0) ||
	    bpf_skb_adjust_room(skb, -front, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_adjust_room(skb, front + outer_hlen(d) + tunnel_hlen(w->chosen.state), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(HOOK_TC, REASON_GSO_UNSUPPORTED);
	FORGET_BOUNDS(s, network, failed);
	bpf_loop(GSO_MASK, segment_step, &s, 0);
	if (s.failed)
		return drop(HOOK_TC, REASON_GSO_UNSUPPORTED);
	count(REASON_GSO_SEGMENTED);
	if (w->xmit.hop.verdict != HOP_UNRESOLVED)
		return end_as(TC_SHOT, END_FORWARDED, REASON_NONE);
	return xmit_neigh(skb, &w->xmit.hop);
}
