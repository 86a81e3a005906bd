/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * At TC, what a plain send cannot do: next hops that the kernel must resolve, errors to the sender, packets longer
 * than the MTU, checksums to be made whole. The packet has been counted; nothing of it has changed yet.
 */
#pragma once
#include "fwd/gre_gue.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "parse/options4.h"

INLINE int trouble_reply(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	w->outer_six = p->six;
	w->mtu = cut_at(w, p->length, judged_length(skb, w) > w->hop.mtu);
	if (!write_options(skb, w, w->virtual_address.word[0]) || !sum_options(skb, w) || !trimmed(skb, p, HOOK_TC) ||
	    !age(skb, p, HOOK_TC) || !(is_icmp(p) || nat(skb, p, NAT_REPLY, &w->virtual_address, w->reply_port, HOOK_TC)))
		return dropped(HOOK_TC, REASON_SHORT);
	return finish_nat(skb, w, w->reply_port != port_from(p));
}

INLINE int trouble_request(struct __sk_buff *skb, struct work *w, const struct root *root)
{
	struct packet *p = &w->packet;
	struct destination *d = LOOKUP(destinations, w->chosen);
	bool asked, icmp = is_icmp(p), masq = w->method == METHOD_MASQ && !icmp;
	bool other_port = w->port != port_to(p);
	if (!d)
		return to_stack(HOOK_TC);
	struct hop *hop = destination_hop(skb, HOOK_TC, w->chosen, d, ticks(), &asked);
	if (!hop)
		return to_stack(HOOK_TC);
	if (hop->verdict == HOP_NO_ROUTE || hop->verdict == HOP_NO_FORWARDING)
		return answer(skb, w, REASON_NO_ROUTE, p->six ? 1 : 3, p->six ? 3 : 1, 0);
	if (hop->verdict == HOP_LOCAL) {
		if (icmp && w->error_passes)
			return dropped(HOOK_TC, REASON_LOCAL_REFUSED);
		count(REASON_SERVER_LOCAL);
		if (!masq)
			return to_stack(HOOK_TC);
		if (!p->own && is_loopback_address(&d->address, d->family))
			return dropped(HOOK_TC, REASON_LOCAL_REFUSED);
		if (!p->whole || !nat(skb, p, NAT_REQUEST, &d->address, w->port, HOOK_TC))
			return dropped(HOOK_TC, REASON_SHORT);
		w->hop = *hop;
		return finish_nat(skb, w, other_port);
	}
	if (p->own && is_loopback_source(p))
		return dropped(HOOK_TC, REASON_LOCAL_REFUSED);
	if (!write_options(skb, w, p->tuple.v4.target))
		return dropped(HOOK_TC, REASON_SHORT);
	if (p->ttl <= 1)
		return answer(skb, w, REASON_TTL, p->six ? 3 : 11, 0, 0);

	bool tunnel = w->method == METHOD_TUNNEL, cut = icmp || (tunnel && !root->settings.pmtu_disc);
	u32 most = room(w->method, w->state, d->family == 6, hop);
	if (tunnel && !most)
		return dropped(HOOK_TC, REASON_NARROW);
	enum fit fits = fit(judged_length(skb, w), most, 0, p, cut);
	if (fits == FITS_NOT) {
		age(skb, p, HOOK_TC); /* the quotation shows it as it would have left */
		return answer(skb, w, REASON_TOO_BIG, p->six ? 2 : 3, p->six ? 0 : 4, most);
	}
	w->hop = *hop;
	w->outer_six = tunnel ? d->family == 6 : p->six;
	w->mtu = cut_at(w, p->length + hop->mtu - most, fits == FITS_IN_FRAGMENTS);
	w->resolve = 1;
	if ((masq && !p->whole) || !sum_options(skb, w) || !trimmed(skb, p, HOOK_TC) || !age(skb, p, HOOK_TC))
		return dropped(HOOK_TC, REASON_SHORT);
	if (masq) {
		if (!nat(skb, p, NAT_REQUEST, &d->address, w->port, HOOK_TC))
			return dropped(HOOK_TC, REASON_SHORT);
		return finish_nat(skb, w, other_port);
	}
	if (tunnel && w->state >> DESTINATION_TUNNEL)
		return go_on(skb, HOOK_TC, STAGE_WRAP);
	if (tunnel && !encapsulate(skb, p, d, hop, root->settings.pmtu_disc, w->mtu, HOOK_TC))
		return dropped(HOOK_TC, REASON_NO_HEADROOM);
	return finish(skb, w);
}

INLINE int stage_trouble(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	if (!w)
		return to_stack(HOOK_TC);
	return w->replying ? trouble_reply(skb, w) : trouble_request(skb, w, root);
}

/* --- a UDP packet without a checksum gets one (IPVS-SEMANTICS 7.3) --- */

INLINE int stage_sum(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct copy *copy = LOOKUP(copies, 0);
	if (!w || !copy)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	u32 length = p->length + ETHER - p->l4;
	u32 addresses = p->six ? 32 : 8;
	wipe(copy->bytes, 32);
	if (bpf_skb_load_bytes(skb, ETHER + (p->six ? 8 : 12), copy->bytes, addresses))
		return dropped(HOOK_TC, REASON_SHORT);
	u32 pseudo = bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, 32, 0);
	u64 sum = sum_of(skb, copy->bytes, p->l4, length, pseudo);
	u16 check = ~folded(sum + to_be16(PROTO_UDP) + to_be16(length));
	check = check ?: 0xffff;
	bpf_skb_store_bytes(skb, p->l4 + 6, &check, 2, 0);
	return finish(skb, w);
}
