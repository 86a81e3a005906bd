/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The tail-called program for what the plain parser leaves: parse it, then take the way of any packet.
 */
#pragma once
#include "fwd/conn.h"
#include "parse/slow.h"

INLINE int stage_odd(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	if (!w)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	enum odd fine = p->six ? parse_odd6(skb, w) : parse_odd4(skb, w);
	if (fine == ODD_FRAGMENT)
		return go_on(skb, HOOK_TC, STAGE_FRAGMENT);
	if (fine == ODD_FINE && p->protocol == (p->six ? PROTO_ICMP6 : PROTO_ICMP))
		return go_on(skb, HOOK_TC, STAGE_ERROR);
	if (fine == ODD_FINE && !has_ports(p->protocol) && !is_ipsec(p->protocol))
		fine = ODD_TO_STACK;
	if (fine == ODD_FINE)
		fine = parse_odd_transport(skb, p);
	if (fine == ODD_TO_STACK)
		return pass(skb, p, HOOK_TC);
	if (p->odd & ODDITY_GATHERED && w->pieces.passing)
		p->request = 0;
	if (fine == ODD_DROP)
		return dropped(HOOK_TC, REASON_SOURCE_ROUTED);
	if (fine == ODD_SHORT)
		return facts_of(root)->services[p->six] ? dropped(HOOK_TC, REASON_SHORT) : to_stack(HOOK_TC);
	return dispatch(skb, p, root, HOOK_TC);
}
