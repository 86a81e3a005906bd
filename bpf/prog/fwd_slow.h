/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_FWD_SLOW: what `send` in fwd/conn.h cannot do: resolve a neighbour, send an ICMP error, fragment, complete
 * checksums. The packet was counted before, but not modified.
 *
 * Reads chosen, options, frags and xmit.is_reply; of a reply also reply and xmit.hop, of an ICMP error also received.
 * Leaves xmit for PROG_ENCAP, PROG_UDP_CSUM, PROG_SCTP_CSUM and PROG_FRAGMENT, and error for PROG_ICMP_SEND.
 */
#pragma once
#include "fwd/gre_gue.h"
#include "fwd/mss.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "parse/options4.h"

INLINE int fwd_slow_reply(struct __sk_buff *skb, struct scratch *w)
{
	struct packet *p = &w->packet;
	w->xmit.is_ipv6 = p->is_ipv6;
	const struct destination *d = map_elem(destinations, w->chosen.destination);
	if (d && !is_icmp(p))
		clamp_mss(tc_ctx(skb), p, d, get_root());
	u32 length = mtu_length(skb, w), mtu = w->xmit.hop.mtu;
	set_fragment_size(skb, w, p->length, length > mtu ? length - mtu : 0);
	if (!write_options(skb, w, w->reply.saddr.word[0]) || !sum_options(skb, w) ||
	    !trim_padding(tc_ctx(skb), p) || !dec_ttl(tc_ctx(skb), p) ||
	    !(is_icmp(p) || nat(tc_ctx(skb), p, NAT_REPLY, &w->reply.saddr, w->reply.sport)))
		return drop(HOOK_TC, REASON_TRUNCATED);
	return xmit_nat(skb, w, w->reply.sport != packet_sport(p));
}

INLINE int fwd_slow_request(struct __sk_buff *skb, struct scratch *w, const struct root *root)
{
	struct packet *p = &w->packet;
	struct destination *d = map_elem(destinations, w->chosen.destination);
	bool icmp = is_icmp(p), masq = w->chosen.method == METHOD_MASQ && !icmp;
	bool other_port = w->chosen.port != packet_dport(p);
	if (!d)
		return pass_to_stack(HOOK_TC);
	struct hop *hop = destination_hop(tc_ctx(skb), w->chosen.destination, d, ticks(), NULL);
	if (!hop)
		return pass_to_stack(HOOK_TC);
	if (!icmp)
		clamp_mss(tc_ctx(skb), p, d, root);
	if (hop->verdict == HOP_NO_ROUTE || hop->verdict == HOP_NO_FORWARDING)
		return send_icmp_error(skb, w, REASON_NO_ROUTE, ICMP_NO_ROUTE, 0);
	if (hop->verdict == HOP_LOCAL) {
		if (icmp && w->received.transit)
			return drop(HOOK_TC, REASON_LOCAL_REFUSED);
		if (!masq)
			return pass_for(HOOK_TC, REASON_SERVER_LOCAL);
		if (!p->from_host && is_loopback_address(&d->address, d->family))
			return drop(HOOK_TC, REASON_LOCAL_REFUSED);
		if (!p->l4_complete || !nat(tc_ctx(skb), p, NAT_REQUEST, &d->address, w->chosen.port))
			return drop(HOOK_TC, REASON_TRUNCATED);
		w->xmit.hop = *hop;
		return xmit_nat(skb, w, other_port);
	}
	if (p->from_host && has_loopback_saddr(p))
		return drop(HOOK_TC, REASON_LOCAL_REFUSED);
	if (!write_options(skb, w, packet_daddr4(p)))
		return drop(HOOK_TC, REASON_TRUNCATED);
	if (p->ttl <= 1)
		return send_icmp_error(skb, w, REASON_TTL, ICMP_TTL_EXCEEDED, 0);

	bool tunnel = w->chosen.method == METHOD_TUNNEL, may_fragment = icmp || (tunnel && !root->settings.pmtu_disc);
	w->xmit.hop = *hop;
	hop = &w->xmit.hop;
	hop->mtu = path_mtu(p, w->chosen.method, d, hop, ticks());
	u32 max = max_len(w->chosen.method, w->chosen.state, d->family == 6, hop->mtu);
	if (tunnel && !max)
		return drop(HOOK_TC, REASON_MTU_TOO_SMALL);
	u32 length = mtu_length(skb, w);
	enum fit fits = fit(length, max, 0, p, may_fragment);
	if (fits == FITS_NOT) {
		dec_ttl(tc_ctx(skb), p); /* the kernel quotes the packet after decrementing */
		return send_icmp_error(skb, w, REASON_TOO_BIG, ICMP_TOO_BIG, max);
	}
	w->xmit.is_ipv6 = tunnel ? d->family == 6 : p->is_ipv6;
	set_fragment_size(skb, w, p->length + hop->mtu - max, fits == FITS_IN_FRAGMENTS ? length - max : 0);
	w->xmit.resolve = 1;
	if ((masq && !p->l4_complete) || !sum_options(skb, w) || !trim_padding(tc_ctx(skb), p) ||
	    !dec_ttl(tc_ctx(skb), p))
		return drop(HOOK_TC, REASON_TRUNCATED);
	if (masq) {
		if (!nat(tc_ctx(skb), p, NAT_REQUEST, &d->address, w->chosen.port))
			return drop(HOOK_TC, REASON_TRUNCATED);
		return xmit_nat(skb, w, other_port);
	}
	if (tunnel && w->chosen.state >> DESTINATION_TUNNEL)
		return tail_call(tc_ctx(skb), PROG_ENCAP);
	if (tunnel && !encapsulate(tc_ctx(skb), p, d, hop, root->settings.pmtu_disc, w->xmit.fragment_size))
		return drop(HOOK_TC, REASON_NO_HEADROOM);
	return xmit_finished(skb, w);
}

INLINE int prog_fwd_slow(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	return w->xmit.is_reply ? fwd_slow_reply(skb, w) : fwd_slow_request(skb, w, root);
}

/* --- PROG_UDP_CSUM: compute a missing UDP checksum (IPVS-SEMANTICS 7.3) ---
 *
 * Reads xmit, and leaves it for PROG_FRAGMENT. */

INLINE int prog_udp_csum(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct copy *copy = map_elem(copies, 0);
	if (!copy)
		return pass_to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	u32 length = p->length + ETH_HLEN - p->l4;
	u32 addresses = p->is_ipv6 ? 32 : 8;
	memzero(copy->bytes, 32);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + (p->is_ipv6 ? 8 : 12), copy->bytes, addresses))
		return drop(HOOK_TC, REASON_TRUNCATED);
	u32 pseudo = bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, 32, 0);
	u64 sum = csum_frame(skb, copy->bytes, p->l4, length, pseudo);
	u16 check = ~csum_fold(sum + bpf_htons(IPPROTO_UDP) + bpf_htons(length));
	check = check ?: 0xffff;
	bpf_skb_store_bytes(skb, p->l4 + 6, &check, 2, 0);
	return xmit_finished(skb, w);
}
