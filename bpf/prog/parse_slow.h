/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_PARSE_SLOW: parse a packet that the plain parser cannot, then forward it like any other.
 *
 * Reads packet, and frags of a reassembled one. Leaves packet and options for all programs, fragment for PROG_DEFRAG.
 */
#pragma once
#include "fwd/conn.h"
#include "parse/slow.h"

INLINE int prog_parse_slow(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	enum slow_result result = p->is_ipv6 ? parse_slow6(skb, w) : parse_slow4(skb, w);
	if (result == PARSE_FRAGMENT)
		return tail_call(tc_ctx(skb), PROG_DEFRAG);
	if (result == PARSE_DONE && p->protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return tail_call(tc_ctx(skb), PROG_ICMP_RECEIVE);
	if (result == PARSE_DONE && !has_ports(p->protocol) && !is_ipsec(p->protocol))
		result = PARSE_TO_STACK;
	if (result == PARSE_DONE)
		result = parse_slow_transport(skb, p);
	if (result == PARSE_TO_STACK)
		return pass_packet(tc_ctx(skb), p, REASON_UNSUPPORTED);
	if (p->slow_flags & SLOW_REASSEMBLED && w->frags.passing)
		p->maybe_vip = 0;
	if (result == PARSE_DROP)
		return drop(HOOK_TC, REASON_SOURCE_ROUTED);
	if (result == PARSE_SHORT) { /* without ports, so of no connection */
		p->l4_complete = 0;
		p->no_conn = 1;
		return tail_call(tc_ctx(skb), PROG_NEW);
	}
	return fwd_packet(tc_ctx(skb), p, root);
}
