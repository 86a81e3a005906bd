/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_NAT_ORPHAN: with sysctl nat_icmp_send, answer a NAT server's packet without a connection by "port unreachable"
 * (IPVS-SEMANTICS 2.7 step 6).
 *
 * Reads packet alone. Leaves error for PROG_ICMP_SEND.
 */
#pragma once
#include "ctx/ended.h"
#include "fwd/client_hop.h"
#include "icmp/error.h"
#include "lb/nat_server.h"
#include "policy/rp_filter.h"

INLINE int prog_nat_orphan(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	u32 server = !p->rst && has_ports(p->protocol) ? nat_server_of(p, root, READ_ONCE(root->live)) : NO_INDEX;
	struct destination *d = map_elem(destinations, server);
	if (server == NO_INDEX || !d || !passes_rp_filter(tc_ctx(skb), p))
		return p->maybe_vip ? tail_call(tc_ctx(skb), PROG_NEW)
				    : pass_packet(tc_ctx(skb), p, REASON_NO_REPLY_FLOW);
	note_owner(w, d->service, d->service_added);
	struct hop *hop = router_hop(tc_ctx(skb), p);
	if (!hop)
		return pass_packet(tc_ctx(skb), p, REASON_NO_REPLY_FLOW);
	if (hop->verdict == HOP_LOCAL) /* the error comes from the packet's daddr */
		return send_icmp_error(skb, w, REASON_NO_CONNECTION, ICMP_NO_PORT, 0);
	if (!is_forwardable(skb, p, hop) || !dec_ttl(tc_ctx(skb), p))
		return pass_packet(tc_ctx(skb), p, REASON_NO_REPLY_FLOW);
	hop = destination_hop(tc_ctx(skb), server, d, ticks(), NULL);
	if (!hop)
		return pass_packet(tc_ctx(skb), p, REASON_NO_REPLY_FLOW);
	struct address own = fib_gives_saddr ? hop->saddr : d->saddr;
	if (p->is_ipv6)
		p->tuple.v6.daddr = own;
	else
		p->tuple.v4.daddr = own.word[0];
	return send_icmp_error(skb, w, REASON_NO_CONNECTION, ICMP_NO_PORT, 0);
}
