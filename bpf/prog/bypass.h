/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_BYPASS: with cache_bypass, forward a packet of a firewall mark's service without usable real server to its
 * original daddr (IPVS-SEMANTICS 2.6, 7.6). Its connection has no destination, and no counts.
 *
 * Reads service and flow. Leaves xmit for PROG_FRAGMENT, error for PROG_ICMP_SEND, and chosen, without a destination,
 * and template for PROG_END_HALF_OPEN.
 */
#pragma once
#include "conntrack/create.h"
#include "conntrack/sync.h"
#include "ctx/ended.h"
#include "fwd/client_hop.h"
#include "fwd/send.h"
#include "parse/options4.h"

/* Send it as a router would, regardless of ip_forward. */
INLINE int fwd_bypass(struct __sk_buff *skb, struct scratch *w)
{
	struct packet *p = &w->packet;
	if (is_traced())
		trace_server(NO_INDEX, METHOD_BYPASS, 0, TRACE_BYPASS);
	struct route_query query = {.is_ipv6 = p->is_ipv6, .reroute = true};
	packet_daddr(&query.client, p);
	count_forwarded(tc_ctx(skb), p);
	struct hop *hop = client_hop(tc_ctx(skb), &query, ticks(), NULL);
	if (!hop)
		return pass_to_stack(HOOK_TC);
	if (hop->verdict == HOP_LOCAL)
		return drop(HOOK_TC, REASON_LOCAL_REFUSED);
	if (hop->verdict == HOP_NO_ROUTE || hop->verdict == HOP_NO_FORWARDING)
		return send_icmp_error(skb, w, REASON_NO_ROUTE, ICMP_NO_ROUTE, 0);
	if (!write_options(skb, w, packet_daddr4(p)))
		return drop(HOOK_TC, REASON_TRUNCATED);
	if (p->ttl <= 1)
		return send_icmp_error(skb, w, REASON_TTL, ICMP_TTL_EXCEEDED, 0);
	u32 length = mtu_length(skb, w);
	enum fit fits = fit(length, hop->mtu, 0, p, false);
	if (fits == FITS_NOT) {
		dec_ttl(tc_ctx(skb), p); /* the kernel quotes the packet after decrementing */
		return send_icmp_error(skb, w, REASON_TOO_BIG, ICMP_TOO_BIG, hop->mtu);
	}
	w->xmit.hop = *hop;
	w->xmit.is_ipv6 = p->is_ipv6;
	set_fragment_size(skb, w, p->length, fits == FITS_IN_FRAGMENTS ? length - hop->mtu : 0);
	if (!sum_options(skb, w) || !trim_padding(tc_ctx(skb), p) || !dec_ttl(tc_ctx(skb), p))
		return drop(HOOK_TC, REASON_TRUNCATED);
	return xmit_finished(skb, w);
}

INLINE int prog_bypass(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	u32 now = ticks();
	struct found found = find_connection(p);
	struct connection *c = found.connection;
	w->chosen.destination = NO_INDEX;
	w->chosen.method = METHOD_BYPASS;
	w->chosen.port = 0;
	if (c) {
		u32 direction = direction_in(&root->settings, DIRECTION_INPUT);
		if (c->method != METHOD_BYPASS ||
		    !update_state(&c->word, found.slot, false, direction, BY_TUPLE, p, NO_INDEX, facts_of(root), now,
				  HOOK_TC))
			return drop(HOOK_TC, REASON_EXPIRING);
		sync_conn(root, found.slot, SYNC_REQUEST, now);
		return fwd_bypass(skb, w);
	}
	if (w->service.flags & SERVICE_ONE_PACKET && p->protocol == IPPROTO_UDP)
		return fwd_bypass(skb, w);
	w->template.slot = NO_TEMPLATE;
	if (unlikely(must_end_half_open()) && !w->flow.half_open_ended)
		return tail_call(tc_ctx(skb), PROG_END_HALF_OPEN); /* PROG_CONNECT, without a destination, returns here */
	enum create_result result = create_conn(w, NULL, root, now);
	if (result == CREATED)
		sync_conn(root, w->flow.slot, SYNC_REQUEST, now);
	return result == CREATED || result == CREATE_EXISTS ? fwd_bypass(skb, w)
							    : drop(HOOK_TC, REASON_TABLE_FULL_DROPPED);
}
