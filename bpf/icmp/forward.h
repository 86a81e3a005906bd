/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Forward an ICMP error about a connection to the other side (IPVS-SEMANTICS 8.2, 8.3). NAT translates its addresses
 * and the inner packet. The inner IP header's checksum is updated; the inner transport checksum is not. PROG_FWD_SLOW
 * sends the error.
 *
 * Reads received, chosen, options, xmit.hop, and of a server's error reply; own_tuple if PROG_CONNECT comes before.
 * Leaves chosen, xmit.is_reply and what it has read for PROG_FWD_SLOW.
 */
#pragma once
#include "conntrack/sync.h"
#include "fwd/account.h"
#include "fwd/nexthop.h"
#include "icmp/error.h"
#include "parse/options4.h"

INLINE bool store_csum(struct __sk_buff *skb, u32 at, const void *from, u32 bytes)
{
	return !bpf_skb_store_bytes(skb, at, from, bytes, BPF_F_RECOMPUTE_CSUM);
}

/* Write an address of the inner packet, and recompute its header checksum. Add the change to `difference`. */
INLINE bool store_inner_address(struct __sk_buff *skb, const struct scratch *w, const struct address *to,
				u64 *difference)
{
	bool server = w->received.side == SIDE_SERVER;
	if (w->packet.is_ipv6) {
		struct address old, new = *to;
		u32 at = w->received.inner.at + (server ? 24 : 8);
		if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)))
			return false;
		*difference += address_sum(&old, 4, true) + address_sum(to, 4, false);
		return store_csum(skb, at, &new, sizeof(new));
	}
	u8 header[HEADER_BUFFER] = {};
	u32 size = barrier_var(w->received.inner.l4 - w->received.inner.at);
	if (!IS_LENGTH(size, 60) || bpf_skb_load_bytes(skb, w->received.inner.at, header, size))
		return false;
	struct ipv4_header *ip = (void *)header;
	be32 *address = server ? &ip->daddr : &ip->saddr;
	*difference += (u64)(u32)~*address + to->word[0] + (u16)~ip->check;
	*address = to->word[0];
	ip->check = 0;
	ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (be32 *)header, HEADER_BUFFER, 0));
	*difference += ip->check;
	return store_csum(skb, w->received.inner.at, header, IPV4_HLEN);
}

INLINE bool store_inner_port(struct __sk_buff *skb, const struct scratch *w, be16 port, u64 *difference)
{
	u32 at = w->received.inner.l4 + (w->received.side == SIDE_SERVER ? 2 : 0);
	be16 old;
	if (bpf_skb_load_bytes(skb, at, &old, 2))
		return false;
	*difference += (u64)(u16)~old + port;
	return store_csum(skb, at, &port, 2);
}

/* Translate the error's own address: saddr to the virtual address, or daddr to the real server's. */
INLINE bool store_outer_address(struct __sk_buff *skb, const struct packet *p, bool server, const struct address *to)
{
	struct address new = *to;
	if (p->is_ipv6)
		return store_csum(skb, ETH_HLEN + (server ? 8 : 24), &new, sizeof(new));
	be32 old, at = ETH_HLEN + (server ? 12 : 16);
	if (bpf_skb_load_bytes(skb, at, &old, 4) || bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new.word[0], 4))
		return false;
	return store_csum(skb, at, &new.word[0], 4);
}

/* Add ICMPv6's pseudo header, with the addresses after translation. */
INLINE bool add_pseudo_header(struct __sk_buff *skb, const struct packet *p, u64 *sum)
{
	struct address ends[2];
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, ends, sizeof(ends)))
		return false;
	*sum += address_sum(&ends[0], 4, false) + address_sum(&ends[1], 4, false) + bpf_htons(IPPROTO_ICMPV6) +
		bpf_htons(p->length + ETH_HLEN - p->l4);
	return true;
}

/* Write the outer header's options before translation: both would be lost with what fwd_slow writes later. */
INLINE bool finish_options(struct __sk_buff *skb, struct scratch *w)
{
	bool server = w->received.side == SIDE_SERVER;
	be32 own = server ? w->reply.saddr.word[0] : packet_daddr4(&w->packet);
	return write_options(skb, w, own) && sum_options(skb, w);
}

/* `sum` is that of the message as received. */
INLINE bool translate(struct __sk_buff *skb, struct scratch *w, const struct destination *d, u16 sum)
{
	struct packet *p = &w->packet;
	bool server = w->received.side == SIDE_SERVER;
	struct address to = server ? w->reply.saddr : d->address;
	u16 check;
	if (bpf_skb_load_bytes(skb, p->l4 + 2, &check, 2))
		return false;
	u64 total = (u64)sum + (u16)~check;
	if (!store_inner_address(skb, w, &to, &total) || !store_outer_address(skb, p, server, &to))
		return false;
	be16 port = server ? w->reply.sport : w->chosen.port;
	if (has_ports(w->received.inner.protocol) && !store_inner_port(skb, w, port, &total))
		return false;
	if (p->is_ipv6 && !add_pseudo_header(skb, p, &total))
		return false;
	check = ~csum_fold(total);
	if (p->is_ipv6 && !check)
		check = 0xffff;
	return store_csum(skb, p->l4 + 2, &check, 2);
}

/* Decrement the TTL of a forwarded error before translation: IPVS sees it after routing. */
INLINE bool dec_ttl_as_routed(struct __sk_buff *skb, struct packet *p)
{
	if (!dec_ttl(tc_ctx(skb), p))
		return false;
	p->ttl -= 1;
	return true;
}

/* Route a server's error as if this host sent it from the virtual address (snat_reroute), as replies are routed. Return
 * false without a route. */
INLINE bool reroute_error(struct __sk_buff *skb, struct scratch *w)
{
	const struct packet *p = &w->packet;
	struct address client = {};
	packet_daddr(&client, p);
	lookup_hop(tc_ctx(skb), &w->xmit.hop, &client, p->is_ipv6, loopback, &w->reply.saddr);
	return w->xmit.hop.verdict != HOP_NO_ROUTE && w->xmit.hop.verdict != HOP_NO_FORWARDING;
}

INLINE int prog_icmp_forward(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct copy *copy = map_elem(copies, 0);
	if (!copy)
		return pass_to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	bool server = w->received.side == SIDE_SERVER, is_ipv6 = p->is_ipv6, masq = w->chosen.method == METHOD_MASQ;
	bool by_hash = p->by_inner == BY_INNER_HASH;
	if (p->by_inner) {
		p->tuple = w->own_tuple;
		p->protocol = is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
		p->by_inner = BY_OWN_TUPLE;
	}
	struct destination *d = map_elem(destinations, w->chosen.destination);
	if (!d && by_hash) {
		w->owner = (struct owner){};
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	}
	if (!d)
		return pass_to_stack(HOOK_TC);
	if (by_hash)
		count(REASON_ICMP_BY_HASH);
	if (is_traced())
		trace_server(w->chosen.destination, w->chosen.method, d->port, TRACE_RELATED);
	note_owner(w, d->service, d->service_added);
	u16 sum = !is_ipv6 || masq ? icmp_sum(skb, p, copy) : 0;
	/* IPVS checks ICMPv6 without the pseudo header, so it drops nearly all of these */
	if ((!is_ipv6 || server) && sum != 0xffff)
		return drop(HOOK_TC, REASON_BAD_CHECKSUM);
	account_available(tc_ctx(skb), w->chosen.destination, server ? SIDE_REPLY : SIDE_REQUEST, p, root);
	if (!server && !masq)
		sync_conn(root, w->flow.slot, SYNC_ICMP, ticks());
	if (masq && !(finish_options(skb, w) && translate(skb, w, d, sum)))
		return drop(HOOK_TC, REASON_TRUNCATED);
	if (server && !w->received.transit)
		return to_own_client(skb, p);
	if (server && masq && root->settings.snat_reroute && !reroute_error(skb, w))
		return drop(HOOK_TC, REASON_NO_ROUTE);
	if (!server && w->received.transit && !dec_ttl_as_routed(skb, p))
		return drop(HOOK_TC, REASON_TRUNCATED);
	w->xmit.is_reply = server;
	w->chosen.state = destination_flags(d, READ_ONCE(root->live));
	return tail_call(tc_ctx(skb), PROG_FWD_SLOW);
}
