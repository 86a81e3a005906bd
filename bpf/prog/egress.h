/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * TC egress: replies of a real server on this host (IPVS-SEMANTICS 7.2). Requests to that server pass to the stack.
 * Replies of its sockets to remote clients leave by a device, where this program sees them. Packets between sockets of
 * this host appear at TC ingress of lo.
 *
 * An attached program: it reads nothing, and leaves packet for PROG_EGRESS_SLOW.
 */
#pragma once
#include "conntrack/reply.h"
#include "conntrack/reply_owner.h"
#include "fwd/client_hop.h"
#include "fwd/mss.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "lb/nat_server.h"
#include "parse/plain.h"

/* Send a translated reply by the route of its new saddr, if that is another one (snat_reroute). */
INLINE int reroute(struct __sk_buff *skb, const struct packet *p, const struct reply_conn *a, u32 now)
{
	struct route_query query = {.new_saddr = a->saddr, .is_ipv6 = p->is_ipv6, .reroute = true};
	packet_daddr(&query.client, p);
	struct hop *hop = client_hop(tc_ctx(skb), &query, now, NULL);
	if (!hop || !has_neighbour(hop))
		return pass_counted(HOOK_TC);
	if (hop->ifindex == skb->ifindex) {
		if (hop->verdict == HOP_READY)
			set_macs(tc_ctx(skb), hop);
		return pass_counted(HOOK_TC);
	}
	return xmit_neigh(skb, hop);
}

/* Process packets that this host itself sends. */
INLINE int process_egress(struct __sk_buff *skb)
{
	void *data = ctx_data(tc_ctx(skb)), *end = ctx_data_end(tc_ctx(skb));
	const struct eth_header *ether = data;
	struct root *root = get_root();
	struct packet p = {};
	enum parsed parsed = PARSED_FOREIGN;
	if ((void *)(ether + 1) > end)
		return pass_sent(REASON_NOT_IP);
	if (ether->h_proto == bpf_htons(ETH_P_IP))
		parsed = parse4(tc_ctx(skb), data, end, &p, root);
	else if (ether->h_proto == bpf_htons(ETH_P_IPV6))
		parsed = parse6(tc_ctx(skb), data, end, &p, root);
	if (parsed == PARSED_FOREIGN || !p.maybe_rs)
		return pass_sent(REASON_NO_SERVICE);
	if (parsed == PARSED_SLOW)
		return tail_call_with(tc_ctx(skb), &p, PROG_EGRESS_SLOW);
	struct reply_conn a;
	u32 now = ticks();
	bool found = find_reply(&a, &p);
	if (!found && regain_replies(&p.tuple, p.is_ipv6))
		found = find_reply(&a, &p);
	if (!found && unlikely(may_be_copied(now)) && is_of_nat_server(&p))
		return drop(HOOK_TC, REASON_REFUSED_TABLE_COPY);
	if (!found || reply_is_standby(&a, &p, root) || !update_reply(&a, &p, root, now, tc_ctx(skb)))
		return pass_sent(REASON_NO_REPLY_FLOW);
	clamp_mss(tc_ctx(skb), &p, a.destination, root);
	if (!a.masq || !nat(tc_ctx(skb), &p, NAT_REPLY, &a.saddr, a.port))
		return pass_sent(REASON_REPLY_ROUTED);
	trace_sent(tc_ctx(skb), skb->ifindex);
	if (!root->settings.snat_reroute)
		return pass_counted(HOOK_TC);
	return reroute(skb, &p, &a, now);
}
