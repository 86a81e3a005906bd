/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Super-packets into tunnels with a checksum: the kernel, which cuts them into segments when they leave, cannot be told
 * to give each a checksum of the tunnel, so they are cut here, with all checksums complete. Headers and payload are
 * copied aside and each segment is sent as a clone.
 */
#pragma once
#include "fwd/gre_gue.h"

enum { SUPER_MASK = 65535, SEGMENT_MOST = 16384, IP_MOST = 128, TCP_MOST = 60, TCP_FIN_PSH = 0x09, TCP_CWR = 0x80 };

struct super {
	u8 ip[IP_MOST]; /* the headers before the transport header */
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
	u8 payload[SUPER_MASK + 1 + SEGMENT_MOST];
};

/* One for each processor; a per-CPU map does not hold so much. */
ARRAY_MAP(supers, struct super, 1, 0);

struct splitting {
	struct __sk_buff *skb;
	struct work *w;
	struct super *super;
	u32 network; /* bytes of the headers before the transport header */
	u32 transport; /* and of that */
	u32 payload;
	u32 step;
	u32 sequence;
	u32 flags;
	u32 id;
	u32 failed;
};

/* The inner headers of one segment, whose payload sums to `sum`; the sum of the whole packet. */
INLINE u64 write_inner(struct splitting *s, struct super *super, u32 offset, u32 size, u32 sum, bool last)
{
	const struct packet *p = &s->w->packet;
	u32 pseudo, length = s->transport + size, network = OPAQUE(s->network), transport = OPAQUE(s->transport);
	if (p->six) {
		struct ipv6 *ip = (void *)super->ip;
		ip->length = to_be16(s->network - IPV6_BYTES + length);
		pseudo = bpf_csum_diff(NULL, 0, (be32 *)(super->ip + 8), 32, 0);
	} else {
		struct ipv4 *ip = (void *)super->ip;
		be16 total = to_be16(s->network + length), id = to_be16(s->id + offset / s->step);
		u64 difference = (u64)(u16)~ip->length + total + (u16)~ip->id + id;
		ip->check = checked_anew(ip->check, difference);
		ip->length = total;
		ip->id = id;
		pseudo = bpf_csum_diff(NULL, 0, (be32 *)(super->ip + 12), 8, 0);
	}
	if (p->protocol == PROTO_TCP) {
		super->tcp.sequence = to_be32(s->sequence + offset);
		super->tcp.flags = s->flags & ~(last ? 0 : TCP_FIN_PSH) & ~(offset ? TCP_CWR : 0);
		super->tcp.check = 0;
	} else {
		super->udp.length = to_be16(length);
		super->udp.check = 0;
	}
	if (!IS_LENGTH(network, IP_MOST) || !IS_LENGTH(transport, TCP_MOST))
		return 0;
	pseudo = folded((u64)pseudo + to_be16(p->protocol) + to_be16(length));
	u16 check = ~folded((u64)(u32)bpf_csum_diff(NULL, 0, (be32 *)super->transport, transport & ~3u, sum) + pseudo);
	if (p->protocol == PROTO_TCP)
		super->tcp.check = check;
	else
		super->udp.check = check ?: 0xffff;
	/* with its checksum the segment sums to what the pseudo header lacks to zero */
	return (u64)(u32)bpf_csum_diff(NULL, 0, (be32 *)super->ip, network & ~3u, 0) + (u16)~pseudo;
}

INLINE bool write_segment(struct splitting *s, const struct destination *d, const struct root *root, u32 offset,
			  u32 size, bool last)
{
	struct work *w = s->w;
	struct super *super = s->super;
	u32 more = between(w->state), at = ETHER + outer_bytes(d) + more;
	union tunnel_header header = {};
	struct copy *copy = LOOKUP(copies, 0);
	u32 behind = at + s->network + s->transport;
	if (!copy || bpf_skb_store_bytes(s->skb, behind, &super->payload[OPAQUE(offset) & SUPER_MASK], size, 0))
		return false;
	u64 sum = write_inner(s, super, offset, size, sum_of(s->skb, copy->bytes, behind, size, 0), last);
	w->packet.length = s->network + s->transport + size;
	fill_tunnel(&header, &w->packet, root, w->state, more);
	seal(&header, &w->packet, d, &w->hop, w->state, more, sum);
	if (!put_in_front(s->skb, w, d, &header, more))
		return false;
	u32 network = OPAQUE(s->network), transport = OPAQUE(s->transport);
	if (!IS_LENGTH(network, IP_MOST) || bpf_skb_store_bytes(s->skb, at, super->ip, network, 0))
		return false;
	return IS_LENGTH(transport, TCP_MOST) &&
	       !bpf_skb_store_bytes(s->skb, at + s->network, super->transport, transport, 0);
}

static int split_step(u32 index, struct splitting *s)
{
	u32 offset = index * s->step;
	struct destination *d = LOOKUP(destinations, s->w->chosen);
	struct root *root = the_root();
	if (offset >= s->payload || !d)
		return 1;
	u32 size = s->payload - offset;
	bool last = size <= s->step;
	if (!last)
		size = s->step;
	s->failed = 1;
	u32 length = ETHER + outer_bytes(d) + between(s->w->state) + s->network + s->transport + size;
	size = OPAQUE(size);
	if (!IS_LENGTH(size, SEGMENT_MOST) || bpf_skb_change_tail(s->skb, length, 0) ||
	    !write_segment(s, d, root, offset, size, last) || bpf_clone_redirect(s->skb, s->w->hop.ifindex, 0))
		return 1;
	s->failed = 0;
	return 0;
}

/* Headers and payload, copied aside. */
INLINE bool read_super(struct splitting *s)
{
	struct __sk_buff *skb = s->skb;
	struct super *super = s->super;
	const struct packet *p = &s->w->packet;
	u32 network = OPAQUE(s->network);
	if (!IS_LENGTH(network, IP_MOST) || bpf_skb_load_bytes(skb, ETHER, super->ip, network) ||
	    bpf_skb_load_bytes(skb, p->l4, super->transport, UDP_BYTES))
		return false;
	s->transport = UDP_BYTES;
	if (p->protocol == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->l4, super->transport, TCP_BYTES))
			return false;
		s->transport = super->tcp.words >> 4 << 2;
	}
	u32 transport = OPAQUE(s->transport);
	if (!IS_LENGTH(transport, TCP_MOST) || bpf_skb_load_bytes(skb, p->l4, super->transport, transport))
		return false;
	s->sequence = from_be32(super->tcp.sequence);
	s->flags = super->tcp.flags;
	s->id = p->six ? 0 : from_be16(((struct ipv4 *)super->ip)->id);
	s->payload = skb->len - p->l4 - s->transport;
	u32 payload = OPAQUE(s->payload);
	return skb->len > p->l4 + s->transport && IS_LENGTH(payload, SUPER_MASK) &&
	       !bpf_skb_load_bytes(skb, p->l4 + s->transport, super->payload, payload);
}

INLINE int stage_split(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct destination *d = w ? LOOKUP(destinations, w->chosen) : NULL;
	struct super *super = LOOKUP(supers, bpf_get_smp_processor_id());
	if (!w || !d || !super)
		return to_stack(HOOK_TC);
	const struct packet *p = &w->packet;
	struct splitting s = {.skb = skb, .w = w, .super = super, .network = p->l4 - ETHER, .step = skb->gso_size};
	if (w->hop.verdict != HOP_READY || w->mtu || !s.step || !unfinished(skb, p) || !read_super(&s))
		return dropped(HOOK_TC, REASON_SUPER);
	u32 first = s.payload < s.step ? s.payload : s.step;
	/* It becomes a plain packet; and pulled over the place where its checksum begins, it has none to be finished. */
	s32 front = p->l4 + UDP_BYTES;
	if (bpf_skb_change_tail(skb, p->l4 + s.transport + first, 0) ||
	    bpf_skb_adjust_room(skb, -front, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_adjust_room(skb, front + outer_bytes(d) + between(w->state), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO))
		return dropped(HOOK_TC, REASON_SUPER);
	FORGET(s, network, failed);
	bpf_loop(SUPER_MASK, split_step, &s, 0);
	return dropped(HOOK_TC, s.failed ? REASON_SUPER : REASON_SPLIT);
}
