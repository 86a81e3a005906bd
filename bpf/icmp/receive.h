/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_ICMP_RECEIVE: find the connection that a received ICMP error is about, and its side.
 *
 * Reads packet alone. Leaves received, error and xmit.hop; for PROG_ICMP_FORWARD also chosen and reply; for PROG_NEW
 * also own_tuple.
 */
#pragma once
#include "conntrack/event.h"
#include "fwd/account.h"
#include "fwd/client_hop.h"
#include "icmp/error.h"
#include "icmp/inner.h"
#include "icmp/send.h"
#include "policy/rp_filter.h"

INLINE int prog_icmp_receive(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	bool is_ipv6 = p->is_ipv6;
	bool served = facts_of(root)->services[is_ipv6];
	struct icmp_header icmp;
	u32 end = ETH_HLEN + p->length;
	if (p->l4 + ICMP_HLEN > end || bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
		return served ? drop(HOOK_TC, REASON_TRUNCATED) : pass_packet(tc_ctx(skb), p, REASON_NO_SERVICE);
	/* As in IPVS, which has no hook without a service of this family. But connections of deleted services continue, so
	 * they need their path MTU. */
	if (!served && !reports_mtu(icmp.type, icmp.code, is_ipv6))
		return pass_packet(tc_ctx(skb), p, REASON_NO_SERVICE);
	if (!is_error(icmp.type, is_ipv6) || !parse_inner(skb, &w->received.inner, p->l4 + ICMP_HLEN, end, is_ipv6))
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	if (unlikely(!passes_rp_filter(tc_ctx(skb), p)))
		return pass_packet(tc_ctx(skb), p, REASON_SPOOFED);
	if (unlikely(inner_is_standby(&w->received.inner, is_ipv6, root)))
		return pass_packet(tc_ctx(skb), p, REASON_STANDBY);
	w->error.type = icmp.type;
	w->error.code = icmp.code;
	w->error.rest = bpf_ntohl(icmp.rest);
	w->error.translated = false;
	w->error.reason = REASON_NONE;
	p->l4_complete = 1;
	p->no_csum = p->syn = p->rst = p->no_chunk = 0;
	p->event = EVENT_KEEP;

	struct hop *hop = router_hop(tc_ctx(skb), p);
	if (!hop)
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	bool here = hop->verdict == HOP_LOCAL;
	if (!here && !is_forwardable(skb, p, hop))
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	w->xmit.hop = *hop;
	w->received.transit = !here;
	/* Like IPVS, look up an error to this host as a reply first, and a forwarded one as a request (IPVS-SEMANTICS
	 * 2.1). */
	bool may_be_tunnel = here && !is_ipv6 && can_be_tunnel(w->received.inner.protocol);
	bool known = w->received.inner.known;
	bool found = known && (here ? find_from_server(w) : find_from_client(w) || find_from_server(w));
	if (!found && may_be_tunnel && w->received.inner.later)
		return pass_packet(tc_ctx(skb), p, REASON_ICMP); /* without the header of UDP, IPVS looks for no reply */
	found = found || (here && known && find_from_client(w));
	if (found && w->received.side == SIDE_SERVER && root->standby && is_standby(root, &w->reply.saddr, is_ipv6))
		return pass_packet(tc_ctx(skb), p, REASON_STANDBY);
	if (found && w->received.side == SIDE_PLAIN) {
		account_available(tc_ctx(skb), w->chosen.destination, SIDE_REPLY, p, root);
		return pass_packet(tc_ctx(skb), p, REASON_ICMP);
	}
	if (found)
		return tail_call(tc_ctx(skb), PROG_ICMP_FORWARD);
	if (may_be_tunnel)
		return tail_call(tc_ctx(skb), PROG_ICMP_TUNNEL);
	return schedule_inner(skb, w, root);
}
