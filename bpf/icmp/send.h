/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_ICMP_SEND: turn a packet into an ICMP error to its sender, from the virtual address (RFC 792, RFC 4443). The
 * error contains as much of the packet as the kernel would quote: 576 bytes in all for IPv4, 1280 for IPv6.
 *
 * Reads error, options, and chosen.destination of a translated error.
 */
#pragma once
#include "conntrack/lookup.h"
#include "fwd/account.h"
#include "fwd/send.h"
#include "icmp/error.h"
#include "icmp/ratelimit.h"
#include "parse/options4.h"

enum {
	ICMP4_MAX_INNER = 548,
	ICMP6_MAX_INNER = 1232,
	INNER_BUFFER = 1280,
	ICMP_HLEN = 8,
	ICMP_TTL = 64,
	ICMP_TOS = 0xc0,
	TOS_KEPT = 0x1e
};

struct error6 {
	struct ipv6_header ip;
	struct icmp_header icmp;
} __attribute__((packed));

INLINE bool is_too_big(const struct scratch *w)
{
	return reports_mtu(w->error.type, w->error.code, w->packet.is_ipv6);
}

VERIFIED_ONCE int zero_inner(struct copy *copy)
{
	if (copy)
		memzero(copy->bytes, INNER_BUFFER);
	return 0;
}

INLINE u32 inner_sum(struct copy *copy)
{
	u32 sum = bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, 512, 0);
	sum = bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + 512), 512, sum);
	return bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + 1024), INNER_BUFFER - 1024, sum);
}

/* A packet from another namespace of this machine may have an unfinished checksum: the pseudo header's sum, which the
 * sending device completes. The error's own checksum must then cover the completed field. */
INLINE u32 completed_sum(const struct packet *p, const struct copy *copy, u32 inner_len, u32 sum)
{
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return sum;
	u32 head = p->l4 - ETH_HLEN, at = head + (p->protocol == IPPROTO_TCP ? 16 : 6);
	if (at + 2 > inner_len || at > INNER_BUFFER - 2 || (head & 3))
		return sum;
	u16 field = *(u16 *)(copy->bytes + at);
	u32 pseudo = bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + (p->is_ipv6 ? 8 : 12)), p->is_ipv6 ? 32 : 8, 0);
	pseudo = csum_fold((u64)pseudo + bpf_htons(p->protocol) + bpf_htons(p->length - head));
	if (pseudo != field)
		return sum;
	u16 header = 0xffff; /* the sum of an IPv4 header with a right checksum */
	if (p->is_ipv6 && head <= 508)
		header = csum_fold(bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, barrier_var(head) & 508, 0));
	u16 segment = csum_fold((u64)sum + (u16)~header);
	if (inner_len == p->length && csum_fold((u64)segment + pseudo) == 0xffff)
		return sum; /* equals the pseudo header's sum by chance */
	u16 complete = ~segment;
	return csum_fold((u64)sum + (u16)~field + complete);
}

/* Choose the saddr: the virtual address, if it is local. An address that only policy routing delivers gets
 * no IPv4 errors. IPv6 errors about it come from the address that routing prefers. */
INLINE bool error_saddr(struct __sk_buff *skb, struct scratch *w, struct address *saddr)
{
	const struct packet *p = &w->packet;
	packet_daddr(saddr, p);
	struct root *root = get_root();
	if (likely(!facts_of(root)->marks) || is_local_vip(tc_ctx(skb), saddr, p->is_ipv6))
		return true;
	if (!p->is_ipv6)
		return false;
	struct address client = p->tuple.v6.saddr;
	lookup_hop(tc_ctx(skb), &w->xmit.hop, &client, true, loopback, NULL);
	if (fib_gives_saddr && w->xmit.hop.verdict != HOP_NO_ROUTE)
		*saddr = w->xmit.hop.saddr;
	return true;
}

/* Count the error like IPVS, which sees the host send it: as a reply of the connection that it is about (8.2). There is
 * none with one-packet scheduling, and NAT's requests have another daddr. One to the virtual address is a request. */
INLINE void account_error(struct __sk_buff *skb, const struct scratch *w, u32 bytes)
{
	const struct packet *p = &w->packet;
	const struct connection *c = w->error.translated ? NULL : find_connection(p).connection;
	if (w->error.translated || (c && c->method != METHOD_MASQ))
		add_forwarded(p->input, HOOK_TC, -1ull); /* the error was not received */
	if (unlikely(w->error.translated)) {
		account(tc_ctx(skb), w->chosen.destination, SIDE_REQUEST, p, bytes, 0);
		return;
	}
	if (c && c->method != METHOD_MASQ)
		account(tc_ctx(skb), c->destination, SIDE_REPLY, p, bytes, 0);
}

/* End a packet whose error cannot be sent. */
INLINE int error_unsent(const struct scratch *w, u32 note)
{
	count(note);
	return drop(HOOK_TC, w->error.reason ?: REASON_ERROR_UNSENT);
}

/* End a packet whose error is sent with this verdict. An error that was received is forwarded. */
INLINE int error_sent(const struct scratch *w, u32 verdict)
{
	if (w->error.reason == REASON_NONE)
		return end_as(verdict, END_FORWARDED, REASON_NONE);
	count(REASON_ICMP_SENT);
	return end_as(verdict, END_DROPPED, w->error.reason);
}

INLINE int prog_icmp_send(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct copy *copy = map_elem(copies, 0);
	if (!copy)
		return pass_to_stack(HOOK_TC);
	if (is_traced())
		trace_rejected(w->error.reason);
	struct packet *p = &w->packet;
	bool is_ipv6 = p->is_ipv6;
	u32 max = is_ipv6 ? ICMP6_MAX_INNER : ICMP4_MAX_INNER, inner_len = skb->len - ETH_HLEN;
	if (!may_send(root, p, is_too_big(w)))
		return error_unsent(w, REASON_ICMP_RATE_LIMITED);
	struct address saddr = {};
	if (!error_saddr(skb, w, &saddr))
		return error_unsent(w, REASON_ICMP_UNSENT);
	memzero(&w->echo, sizeof(w->echo));
	w->echo.size = is_ipv6 ? IPV6_HLEN : IPV4_HLEN;
	if (p->slow_flags & SLOW_OPTIONS &&
	    (!write_options(skb, w, packet_daddr4(p)) || !echo_options(&w->options, &w->echo, packet_daddr4(p))))
		return error_unsent(w, REASON_ICMP_UNSENT);
	if (!is_ipv6)
		max -= w->echo.size - IPV4_HLEN;
	if (inner_len > p->length)
		inner_len = p->length;
	if (inner_len > max)
		inner_len = max;
	if (!inner_len || (skb->len != ETH_HLEN + inner_len && bpf_skb_change_tail(skb, ETH_HLEN + inner_len, 0)))
		return error_unsent(w, REASON_ICMP_UNSENT);
	zero_inner(copy);
	u32 bounded = barrier_var(inner_len);
	if (!IS_LENGTH(bounded, ICMP6_MAX_INNER) || bpf_skb_load_bytes(skb, ETH_HLEN, copy->bytes, bounded))
		return error_unsent(w, REASON_ICMP_UNSENT);
	u32 sum = completed_sum(p, copy, inner_len, inner_sum(copy));
	u32 extra = w->echo.size + ICMP_HLEN;
	if (bpf_skb_adjust_room(skb, extra, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return error_unsent(w, REASON_ICMP_UNSENT);

	struct icmp_header icmp = {.type = w->error.type, .code = w->error.code, .rest = bpf_htonl(w->error.rest)};
	u64 total = (u64)sum + bpf_htons(w->error.type << 8 | w->error.code) + bpf_htonl(w->error.rest);
	struct address client = {};
	u8 ttl = ICMP_TTL - (w->error.translated & 1);
	if (is_ipv6) {
		struct error6 e = {};
		e.ip.version_class_flow = bpf_htonl(0x60000000);
		e.ip.payload_len = bpf_htons(ICMP_HLEN + inner_len);
		e.ip.nexthdr = IPPROTO_ICMPV6;
		e.ip.hop_limit = ttl;
		e.ip.saddr = saddr;
		e.ip.daddr = client = p->tuple.v6.saddr;
		total += address_sum(&p->tuple.v6.saddr, 4, false) + address_sum(&saddr, 4, false);
		total += bpf_htons(IPPROTO_ICMPV6) + bpf_htons(ICMP_HLEN + inner_len);
		icmp.check = ~csum_fold(total);
		e.icmp = icmp;
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &e, sizeof(e), 0))
			return error_unsent(w, REASON_ICMP_UNSENT);
	} else {
		struct ipv4_header *ip = (void *)w->echo.bytes;
		u32 size = barrier_var(w->echo.size);
		ip->version_ihl = 0x40 | size >> 2;
		ip->tos = ICMP_TOS | (p->tos & TOS_KEPT);
		ip->tot_len = bpf_htons(extra + inner_len);
		ip->id = (u16)bpf_get_prandom_u32() ?: 1;
		ip->ttl = ttl;
		ip->protocol = IPPROTO_ICMP;
		ip->saddr = saddr.word[0];
		ip->daddr = client.word[0] = p->tuple.v4.saddr;
		ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (be32 *)w->echo.bytes, HEADER_BUFFER, 0));
		icmp.check = ~csum_fold(total);
		if (!IS_LENGTH(size, HEADER_BUFFER) || bpf_skb_store_bytes(skb, ETH_HLEN, w->echo.bytes, size, 0) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN + size, &icmp, sizeof(icmp), 0))
			return error_unsent(w, REASON_ICMP_UNSENT);
	}
	lookup_hop(tc_ctx(skb), &w->xmit.hop, &client, is_ipv6, loopback, NULL);
	if (w->xmit.hop.verdict != HOP_NO_ROUTE)
		account_error(skb, w, extra + inner_len);
	if (w->xmit.hop.verdict == HOP_LOCAL && p->from_host)
		return error_sent(w, -1); /* the client is on this host */
	if (w->xmit.hop.verdict == HOP_READY && set_macs(tc_ctx(skb), &w->xmit.hop))
		return error_sent(w, xmit(tc_ctx(skb), &w->packet, &w->xmit.hop));
	if (w->xmit.hop.verdict == HOP_UNRESOLVED)
		return error_sent(w, xmit_neigh(skb, &w->xmit.hop));
	return error_unsent(w, REASON_ICMP_UNSENT);
}
