/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Bypass (IPVS-SEMANTICS 2.6, 7.6): with cache_bypass, a packet of a firewall mark's service that has no usable real
 * server goes on to where it was sent, by way of a connection without a destination that counts nowhere. At TC alone.
 */
#pragma once
#include "conntrack/create.h"
#include "fwd/send.h"
#include "parse/options4.h"

/* Out, as a router would send it, but whatever ip_forward says. */
INLINE int send_past(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct way_back way = {.six = p->six, .reroute = true};
	bool asked;
	address_to(&way.client, p);
	struct hop *hop = client_hop(skb, HOOK_TC, &way, ticks(), &asked);
	if (!hop)
		return to_stack(HOOK_TC);
	if (hop->verdict == HOP_LOCAL)
		return dropped(HOOK_TC, REASON_LOCAL_REFUSED);
	if (hop->verdict == HOP_NO_ROUTE || hop->verdict == HOP_NO_FORWARDING)
		return answer(skb, w, REASON_NO_ROUTE, p->six ? 1 : 3, p->six ? 3 : 1, 0);
	if (!write_options(skb, w, p->tuple.v4.target))
		return dropped(HOOK_TC, REASON_SHORT);
	if (p->ttl <= 1)
		return answer(skb, w, REASON_TTL, p->six ? 3 : 11, 0, 0);
	enum fit fits = fit(judged_length(skb, w), hop->mtu, 0, p, false);
	if (fits == FITS_NOT) {
		age(skb, p, HOOK_TC); /* the quotation shows it as it would have left */
		return answer(skb, w, REASON_TOO_BIG, p->six ? 2 : 3, p->six ? 0 : 4, hop->mtu);
	}
	w->hop = *hop;
	w->outer_six = p->six;
	w->mtu = cut_at(w, p->length, fits == FITS_IN_FRAGMENTS);
	if (!sum_options(skb, w) || !trimmed(skb, p, HOOK_TC) || !age(skb, p, HOOK_TC))
		return dropped(HOOK_TC, REASON_SHORT);
	return finish(skb, w);
}

INLINE int stage_bypass(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	if (!w)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	u32 now = ticks();
	struct found found = find_connection(p);
	struct connection *c = found.connection;
	w->chosen = NOBODY;
	w->method = METHOD_BYPASS;
	w->port = 0;
	if (c) {
		u32 direction = direction_in(&root->settings, DIRECTION_INPUT);
		if (c->method != METHOD_BYPASS ||
		    !advance(&c->word, found.slot, false, direction, p->event, NULL, facts_of(root), now, HOOK_TC))
			return dropped(HOOK_TC, REASON_DYING);
		return send_past(skb, w);
	}
	if (w->service_flags & SERVICE_ONE_PACKET && p->protocol == PROTO_UDP)
		return send_past(skb, w);
	w->template = NO_TEMPLATE;
	return make_connection(w, NULL, root, now) == MADE_FULL ? dropped(HOOK_TC, REASON_TABLE_FULL_DROPPED)
								 : send_past(skb, w);
}
