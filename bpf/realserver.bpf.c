/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Decapsulates packets on a real server: IPIP where the kernel has no tunnel devices, GRE and GUE anywhere. Either
 * family in either.
 *
 * The program is attached at TC ingress. It decapsulates packets for this host whose inner daddr is a VIP, and drops
 * those among them that come from no director; all others pass unmodified. Fragments of the outer packet pass, too,
 * because TC cannot reassemble them. It verifies the tunnel's checksum, and undoes GUE's remote checksum offload
 * (draft-herbert-remotecsumoffload).
 */
#include "lib/csum.h"
#include "lib/gre_gue.h"
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#define MAX_VIPS 4096
#define MAX_PORTS 64
#define MAX_DIRECTORS 1024
#define IPV4_FRAGMENT 0x3fff /* MF and offset, without DF */
#define IP_OFFSET 0x1fff
#define ECN_MASK 3
#define ECN_CE 3
#define AF_INET 2 /* these two are the C library's; no UAPI header has them */
#define AF_INET6 10
#define ETHERTYPE_AT 12

HELPER(31, long, bpf_skb_change_proto, void *skb, be16 protocol, u64 flags);

struct vip {
	be32 address[4]; /* IPv4: in the first word, the others are 0 */
	u32 version;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct vip);
	__type(value, u32); /* bitmap of enum tunnel: the tunnels to decapsulate for it */
} vips SEC(".maps");

/* dports of GUE, in network order. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, be16);
	__type(value, u32);
} gue_ports SEC(".maps");

/* Networks of IPv6, or of IPv4-mapped addresses. */
struct network {
	u32 prefixlen;
	be32 address[4];
};

/* Outer sources that are accepted. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_DIRECTORS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, u32);
} directors SEC(".maps");

enum tunnel { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE }; /* with IPVS's numbers */

/* Counters of `pylvs realserver status`. */
enum { DECAPSULATED, OUTER_FRAGMENT, CONGESTED, FAILED, CORRUPT, FOREIGN, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

struct piece {
	u8 bytes[CSUM_CHUNK];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct piece);
} pieces SEC(".maps");

struct outer {
	u32 length; /* of the outer IP header */
	u32 tunnel_hlen; /* bytes from there to the inner header */
	u32 payload; /* bytes behind the outer IP header, as it says */
	u8 protocol;
	u8 inner; /* IPPROTO_IPIP or IPPROTO_IPV6 */
	u8 ecn;
	u8 tunnel; /* enum tunnel */
	bool fragment;
	bool first; /* the first fragment */
	bool summed; /* the tunnel has a checksum */
	bool remote; /* the inner checksum has to be computed */
	u32 sum_start;
	u32 sum_at;
};

INLINE void count(u32 what)
{
	u64 *value = bpf_map_lookup_elem(&counts, &what);
	if (value)
		*value += 1;
}

/* Whether this host forwards the outer packet: then it is for another host. Local addresses are never forwarded. */
INLINE bool is_forwarded(struct __sk_buff *skb, struct bpf_fib_lookup *route)
{
	route->ifindex = skb->ingress_ifindex;
	switch (bpf_fib_lookup(skb, route, sizeof(*route), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return true;
	default:
		return false;
	}
}

INLINE bool is_tunnel(u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE ||
	       protocol == IPPROTO_UDP;
}

/* Parse the outer IP header. Return false if no tunnel can follow. */
INLINE bool parse_outer4(struct __sk_buff *skb, struct outer *outer, struct bpf_fib_lookup *route)
{
	struct iphdr ip;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return false;
	if (ip.version != 4 || ip.ihl < 5 || !is_tunnel(ip.protocol) || bpf_ntohs(ip.tot_len) < ip.ihl * 4)
		return false;
	outer->length = ip.ihl * 4;
	outer->payload = bpf_ntohs(ip.tot_len) - outer->length;
	outer->protocol = ip.protocol;
	outer->ecn = ip.tos & ECN_MASK;
	outer->fragment = ip.frag_off & bpf_htons(IPV4_FRAGMENT);
	outer->first = !(ip.frag_off & bpf_htons(IP_OFFSET));
	route->family = AF_INET;
	route->l4_protocol = ip.protocol;
	route->tot_len = bpf_ntohs(ip.tot_len);
	route->ipv4_src = ip.saddr;
	route->ipv4_dst = ip.daddr;
	return true;
}

INLINE bool parse_outer6(struct __sk_buff *skb, struct outer *outer, struct bpf_fib_lookup *route)
{
	struct ipv6hdr ip;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return false;
	if (ip.version != 6 || !is_tunnel(ip.nexthdr))
		return false;
	outer->length = sizeof(ip);
	outer->payload = bpf_ntohs(ip.payload_len);
	outer->protocol = ip.nexthdr;
	outer->ecn = (ip.flow_lbl[0] >> 4) & ECN_MASK;
	outer->fragment = false; /* a fragment would have an extension header */
	outer->first = true;
	route->family = AF_INET6;
	route->l4_protocol = ip.nexthdr;
	route->tot_len = bpf_ntohs(ip.payload_len);
	__builtin_memcpy(route->ipv6_src, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(route->ipv6_dst, &ip.daddr, sizeof(ip.daddr));
	return true;
}

/* GRE (RFC 2784): version 0, at most a checksum. */
INLINE bool parse_gre(struct __sk_buff *skb, struct outer *outer)
{
	struct gre gre;
	outer->tunnel = TUNNEL_GRE;
	if (!outer->first)
		return true; /* a later fragment has no GRE header */
	if (bpf_skb_load_bytes(skb, ETH_HLEN + outer->length, &gre, GRE_HLEN) || gre.flags & ~bpf_htons(GRE_FLAG_CSUM))
		return false;
	outer->summed = gre.flags;
	outer->tunnel_hlen = GRE_HLEN + (gre.flags ? GRE_CSUM_LEN : 0);
	outer->inner = gre.protocol == bpf_htons(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
	return gre.protocol == bpf_htons(ETH_P_IP) || gre.protocol == bpf_htons(ETH_P_IPV6);
}

/* GUE: version 0, data, no option except the remote checksum. */
INLINE bool parse_gue(struct __sk_buff *skb, struct outer *outer)
{
	struct gue gue;
	u32 at = ETH_HLEN + outer->length;
	outer->tunnel = TUNNEL_GUE;
	if (!outer->first || bpf_skb_load_bytes(skb, at, &gue, UDP_HLEN + GUE_HLEN) ||
	    !bpf_map_lookup_elem(&gue_ports, &gue.udp.daddr) || gue.version_control_words & ~GUE_WORDS)
		return false;
	outer->summed = gue.udp.check;
	outer->tunnel_hlen = UDP_HLEN + GUE_HLEN + gue.version_control_words * 4;
	outer->inner = gue.protocol;
	if (gue.flags) {
		if (gue.flags != bpf_htons(GUE_PRIVATE) || gue.version_control_words != GUE_REMCSUM_WORDS ||
		    bpf_skb_load_bytes(skb, at, &gue, sizeof(gue)) || gue.private_flags != bpf_htonl(GUE_REMCSUM))
			return false;
		outer->remote = true;
		outer->sum_start = bpf_ntohs(gue.sum_start);
		outer->sum_at = bpf_ntohs(gue.sum_at);
	}
	return outer->inner == IPPROTO_IPIP || outer->inner == IPPROTO_IPV6;
}

INLINE bool find_inner(struct __sk_buff *skb, struct outer *outer)
{
	switch (outer->protocol) {
	case IPPROTO_GRE:
		return parse_gre(skb, outer);
	case IPPROTO_UDP:
		return parse_gue(skb, outer);
	default:
		outer->tunnel = TUNNEL_IPIP;
		outer->inner = outer->protocol;
		return true;
	}
}

/* Whether the inner daddr is a VIP with this tunnel. Also return the inner ECN. */
INLINE bool is_for_vip(struct __sk_buff *skb, const struct outer *outer, u8 *ecn)
{
	struct vip key = {};
	if (outer->inner == IPPROTO_IPIP) {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + outer->length + outer->tunnel_hlen, &ip, sizeof(ip)) ||
		    ip.version != 4)
			return false;
		key.version = 4;
		key.address[0] = ip.daddr;
		*ecn = ip.tos & ECN_MASK;
	} else {
		struct ipv6hdr ip;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + outer->length + outer->tunnel_hlen, &ip, sizeof(ip)) ||
		    ip.version != 6)
			return false;
		key.version = 6;
		__builtin_memcpy(key.address, &ip.daddr, sizeof(ip.daddr));
		*ecn = (ip.flow_lbl[0] >> 4) & ECN_MASK;
	}
	u32 *tunnels = bpf_map_lookup_elem(&vips, &key);
	return tunnels && *tunnels >> outer->tunnel & 1;
}

/* --- checksums --- */

/* Return the folded sum of a part of the frame; `whole`: all of it was there. */
INLINE u16 csum_part(struct __sk_buff *skb, u32 at, u32 length, u32 sum, bool *whole)
{
	u32 zero = 0;
	struct piece *piece = bpf_map_lookup_elem(&pieces, &zero);
	*whole = false;
	if (!piece)
		return 0;
	struct csum_frame_ctx s = {.skb = skb, .buffer = piece->bytes, .at = at, .left = length, .sum = sum};
	FORGET_BOUNDS(s, at, sum);
	bpf_loop(65536 / CSUM_CHUNK + 1, csum_step, &s, 0);
	*whole = !s.left;
	return csum_fold(s.sum);
}

/* Whether the kernel has yet to compute the inner checksum (CHECKSUM_PARTIAL), in a packet from another namespace of
 * this machine. It ignores an update outside the pseudo header then. The tunnel's checksum covers the finished
 * packet. */
INLINE bool is_csum_partial(struct __sk_buff *skb, const struct outer *outer)
{
	u32 at = ETH_HLEN + outer->length + outer->tunnel_hlen;
	u16 before, after;
	u8 first, protocol;
	if (bpf_skb_load_bytes(skb, at, &first, 1) ||
	    bpf_skb_load_bytes(skb, at + (outer->inner == IPPROTO_IPIP ? 9 : 6), &protocol, 1))
		return false;
	at += outer->inner == IPPROTO_IPIP ? (first & 15) * 4 : sizeof(struct ipv6hdr);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return false;
	at += protocol == IPPROTO_TCP ? 16 : 6;
	if (bpf_skb_load_bytes(skb, at, &before, 2) || bpf_l4_csum_replace(skb, at, 0, 1, 2) ||
	    bpf_skb_load_bytes(skb, at, &after, 2))
		return false;
	return before == after || bpf_skb_store_bytes(skb, at, &before, 2, 0);
}

/* Whether the tunnel's checksum is right. The kernel has verified that of merged packets. */
INLINE bool is_csum_valid(struct __sk_buff *skb, const struct outer *outer, const struct bpf_fib_lookup *route)
{
	u32 sum = 0;
	bool whole;
	if (!outer->summed || skb->gso_size)
		return true;
	if (outer->tunnel == TUNNEL_GUE) {
		sum = bpf_htons(IPPROTO_UDP) + bpf_htons(outer->payload);
		if (route->family == AF_INET) {
			be32 ends[2] = {route->ipv4_src, route->ipv4_dst};
			sum = bpf_csum_diff(NULL, 0, ends, sizeof(ends), sum);
		} else {
			sum = bpf_csum_diff(NULL, 0, (be32 *)route->ipv6_src, 16, sum);
			sum = bpf_csum_diff(NULL, 0, (be32 *)route->ipv6_dst, 16, sum);
		}
	}
	u16 found = csum_part(skb, ETH_HLEN + outer->length, outer->payload, sum, &whole);
	return whole && (found == 0xffff || is_csum_partial(skb, outer));
}

/* Compute the checksum that the sender has left to the receiver. */
INLINE bool store_remote_csum(struct __sk_buff *skb, const struct outer *outer)
{
	u32 inside = ETH_HLEN + outer->length + outer->tunnel_hlen, length = outer->payload - outer->tunnel_hlen;
	bool whole;
	if (skb->gso_size || outer->payload <= outer->tunnel_hlen || outer->sum_at < outer->sum_start ||
	    outer->sum_at + 2 > length)
		return false;
	u16 check = ~csum_part(skb, inside + outer->sum_start, length - outer->sum_start, 0, &whole);
	check = check ?: 0xffff; /* the same sum; in UDP 0 means "no checksum" */
	return whole && !bpf_skb_store_bytes(skb, inside + outer->sum_at, &check, 2, BPF_F_RECOMPUTE_CSUM);
}

INLINE bool is_from_director(const struct bpf_fib_lookup *route)
{
	struct network sender = {.prefixlen = 128, .address = {0, 0, bpf_htonl(0xffff), route->ipv4_src}};
	if (route->family == AF_INET6)
		__builtin_memcpy(sender.address, route->ipv6_src, sizeof(sender.address));
	return bpf_map_lookup_elem(&directors, &sender);
}

/* Remove everything before the inner packet. Between families first change the packet's protocol, which moves 20 bytes:
 * the flags that do both at once (BPF_F_ADJ_ROOM_DECAP_*) are newer than Linux 6.1. */
INLINE bool decap(struct __sk_buff *skb, const struct outer *outer)
{
	s32 length = outer->length + outer->tunnel_hlen;
	be16 inner = outer->inner == IPPROTO_IPIP ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	const s32 more = sizeof(struct ipv6hdr) - sizeof(struct iphdr);
	if (skb->protocol != inner) {
		if (bpf_skb_change_proto(skb, inner, 0))
			return false;
		length += inner == bpf_htons(ETH_P_IP) ? -more : more;
		if (bpf_skb_store_bytes(skb, ETHERTYPE_AT, &inner, sizeof(inner), 0))
			return false;
	}
	return !bpf_skb_adjust_room(skb, -length, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Copy Congestion Experienced from the outer to the inner header (RFC 6040 4.2). */
INLINE bool mark_congestion(struct __sk_buff *skb, const struct outer *outer)
{
	be16 word;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &word, sizeof(word)))
		return false;
	if (outer->inner == IPPROTO_IPIP) {
		be16 marked = word | bpf_htons(ECN_CE);
		if (bpf_l3_csum_replace(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, check), word, marked,
					sizeof(word)))
			return false;
		return !bpf_skb_store_bytes(skb, ETH_HLEN, &marked, sizeof(marked), 0);
	}
	word |= bpf_htons(ECN_CE << 4); /* lowest bits of the traffic class, in the upper half of the second byte */
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &word, sizeof(word), 0);
}

SEC("tc")
int decapsulate(struct __sk_buff *skb)
{
	struct outer outer = {};
	struct bpf_fib_lookup route = {};
	u8 ecn = 0;
	if (skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!parse_outer4(skb, &outer, &route))
			return TC_ACT_UNSPEC;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (!parse_outer6(skb, &outer, &route))
			return TC_ACT_UNSPEC;
	} else {
		return TC_ACT_UNSPEC;
	}
	if (!find_inner(skb, &outer))
		return TC_ACT_UNSPEC;
	struct bpf_fib_lookup query = route; /* the lookup overwrites it */
	if (is_forwarded(skb, &query))
		return TC_ACT_UNSPEC;
	if (outer.fragment) {
		count(OUTER_FRAGMENT);
		return TC_ACT_UNSPEC;
	}
	if (!is_for_vip(skb, &outer, &ecn))
		return TC_ACT_UNSPEC;
	if (!is_from_director(&route)) {
		count(FOREIGN);
		return TC_ACT_SHOT;
	}
	if (!is_csum_valid(skb, &outer, &route)) {
		count(CORRUPT);
		return TC_ACT_SHOT;
	}
	if (outer.ecn == ECN_CE && !ecn) { /* RFC 6040 4.2: a sender without ECN learns of congestion by loss only */
		count(CONGESTED);
		return TC_ACT_SHOT;
	}
	if ((outer.remote && !store_remote_csum(skb, &outer)) || !decap(skb, &outer) ||
	    (outer.ecn == ECN_CE && ecn != ECN_CE && !mark_congestion(skb, &outer))) {
		count(FAILED);
		return TC_ACT_SHOT;
	}
	count(DECAPSULATED);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
