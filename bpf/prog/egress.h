/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * This host as real server and as client (IPVS-SEMANTICS 7.2). Requests to a real server on this host go up to its
 * stack; the answers that its sockets give to clients elsewhere leave by no device that packets come in by, and are
 * met at TC egress. What stays on this host is met at TC ingress of lo, either way.
 */
#pragma once
#include "conntrack/reply.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "parse/plain.h"

/* The answer has its new source: out the way that this host sends from there, if that is another (snat_reroute). */
INLINE int reroute(struct __sk_buff *skb, const struct packet *p, const struct answer *a, u32 now)
{
	struct way_back way = {.anew = a->source, .six = p->six, .reroute = true};
	address_to(&way.client, p);
	bool asked;
	struct hop *hop = client_hop(skb, HOOK_TC, &way, now, &asked);
	if (!hop || (hop->verdict != HOP_READY && hop->verdict != HOP_UNRESOLVED))
		return to_stack(HOOK_TC);
	if (hop->ifindex == skb->ifindex) {
		if (hop->verdict == HOP_READY)
			address_link(skb, hop, HOOK_TC);
		return to_stack(HOOK_TC);
	}
	return transmit_neighbour(skb, hop, p->six);
}

/* At TC egress: what this host itself sends, and only that; nothing is ever dropped here. */
INLINE int send_off(struct __sk_buff *skb)
{
	void *data = frame_start(skb, HOOK_TC), *end = frame_end(skb, HOOK_TC);
	const struct ether *ether = data;
	struct root *root = the_root();
	struct packet p = {};
	enum parsed parsed = PARSED_FOREIGN;
	if ((void *)(ether + 1) > end)
		return to_stack(HOOK_TC);
	if (ether->kind == to_be16(ETHER_IPV4))
		parsed = parse4(skb, data, end, &p, root, HOOK_TC);
	else if (ether->kind == to_be16(ETHER_IPV6))
		parsed = parse6(skb, data, end, &p, root, HOOK_TC);
	if (parsed != PARSED_PLAIN || !p.reply || !facts_of(root)->services[p.six])
		return to_stack(HOOK_TC);
	struct answer a;
	u32 now = ticks();
	if (!find_answer(&a, &p) || answer_stands_by(&a, &p, root) || !note_answer(&a, &p, root, now, HOOK_TC))
		return to_stack(HOOK_TC);
	if (!a.masq || !nat(skb, &p, NAT_REPLY, &a.source, a.port, HOOK_TC) || !root->settings.snat_reroute)
		return to_stack(HOOK_TC);
	return reroute(skb, &p, &a, now);
}
