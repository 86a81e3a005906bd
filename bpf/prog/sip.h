/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_SIP: persistence by the Call-ID of SIP messages (persistence engine `sip`, IPVS-SEMANTICS 5.6). TC alone runs
 * it, because the text may be longer than XDP's part of the frame.
 *
 * Reads service and flow. Leaves template, perhaps with chosen, for PROG_CONNECT or the scheduler.
 */
#pragma once
#include "lb/call_template.h"
#include "lb/template.h"

INLINE int prog_sip(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	if (set_call(skb, w))
		return by_template(tc_ctx(skb), w, root);
	drop_old_ref(w);
	return drop(HOOK_TC, REASON_NO_CALL_ID);
}
