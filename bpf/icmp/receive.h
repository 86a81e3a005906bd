/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The tail-called program for an ICMP error that comes in: which connection is it about, and from which side?
 */
#pragma once
#include "conntrack/event.h"
#include "fwd/account.h"
#include "icmp/error.h"
#include "icmp/inner.h"
#include "icmp/send.h"

INLINE int stage_error(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	if (!w)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	bool six = p->six, asked;
	if (!facts_of(root)->services[six])
		return pass(skb, p, HOOK_TC);
	struct icmp_header icmp;
	u32 end = ETHER + p->length;
	if (p->l4 + ICMP_BYTES > end || bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
		return dropped(HOOK_TC, REASON_SHORT);
	if (!is_error(icmp.type, six) || !read_quote(skb, &w->quote, p->l4 + ICMP_BYTES, end, six))
		return pass(skb, p, HOOK_TC);
	if (unlikely(quote_stands_by(&w->quote, six, root)))
		return pass(skb, p, HOOK_TC);
	w->error_type = icmp.type;
	w->error_code = icmp.code;
	w->error_rest = from_be32(icmp.rest);
	p->whole = 1;
	p->no_sum = p->syn = p->rst = p->cut = 0;
	p->event = EVENT_KEEP;

	struct hop *hop = onward_hop(skb, p, HOOK_TC, ticks(), &asked);
	if (!hop)
		return pass(skb, p, HOOK_TC);
	bool here = hop->verdict == HOP_LOCAL;
	if (!here && !would_pass_on(skb, p, hop))
		return pass(skb, p, HOOK_TC);
	w->hop = *hop;
	w->error_passes = !here;
	/* An error to this host is asked for a reply first; one that passes, for a request (IPVS-SEMANTICS 2.1). */
	bool found = w->quote.known && (here ? from_server_side(w) || from_client_side(w) :
					       from_client_side(w) || from_server_side(w));
	if (found && w->error_side == SIDE_SERVER && root->standby && stands_by(root, &w->virtual_address, six))
		return pass(skb, p, HOOK_TC);
	if (found && w->error_side == SIDE_PLAIN) {
		account_out(w->chosen, p->length, root);
		return pass(skb, p, HOOK_TC);
	}
	if (found)
		return go_on(skb, HOOK_TC, STAGE_ERROR_CARRY);
	if (here && !six && !w->quote.later && may_be_tunnel(w->quote.protocol))
		return go_on(skb, HOOK_TC, STAGE_ERROR_TUNNEL);
	return schedule_quote(skb, w, root);
}
