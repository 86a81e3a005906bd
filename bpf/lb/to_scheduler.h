/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Tail-call the scheduler of a service; reject the packet if the service has no destination.
 */
#pragma once
#include "conntrack/update.h"
#include "ctx/scratch.h"
#include "policy/own_address.h"

/* Uncount the connection that this packet has replaced. */
INLINE void drop_old_ref(struct scratch *w)
{
	if (unlikely(w->flow.old_destination != NO_INDEX))
		uncount_conn(w->flow.old_destination, w->flow.old_state);
	w->flow.old_destination = NO_INDEX;
}

/* Whether a firewall mark's packet may bypass the service: its daddr is unicast and, for IPv4, not local (2.6). */
INLINE bool may_bypass(const struct packet *p)
{
	if (p->is_ipv6)
		return (u8)p->tuple.v6.daddr.word[0] != 0xff;
	struct address daddr = {.word = {p->tuple.v4.daddr}};
	u32 first = (u8)p->tuple.v4.daddr;
	return first && first < 224 && !has_local_route(&daddr, false);
}

/* Send an ICMP error. For FTP only packets of the control connection get one (2.6). */
INLINE int reject_no_destination(struct ctx ctx, struct scratch *w)
{
	drop_old_ref(w);
	if (ctx.hook == HOOK_XDP)
		return pass_to_tc();
	struct packet *p = &w->packet;
	be16 port = packet_dport(p);
	if (w->service.port == bpf_htons(PORT_FTP) && port != bpf_htons(PORT_FTP))
		return pass_for(ctx.hook, REASON_FTP_DATA);
	if (p->by_inner)
		return drop(ctx.hook, REASON_NO_DESTINATION);
	struct root *root = get_root();
	if (w->service.mark && root->settings.cache_bypass && may_bypass(p))
		return tail_call(ctx, PROG_BYPASS);
	set_icmp_error(w, REASON_NO_DESTINATION, ICMP_NO_PORT, 0);
	return tail_call(ctx, PROG_ICMP_SEND);
}

INLINE int to_scheduler(struct ctx ctx, struct scratch *w)
{
	if (unlikely(w->flow.by_hash))
		return tail_call(ctx, PROG_HASH_FALLBACK);
	switch (w->service.scheduler) { /* with a constant index the kernel turns a tail call into a jump */
#define TO_SCHEDULER(name, number, flags) \
	case number: \
		return tail_call(ctx, PROG_SCHEDULE + number);
		SCHEDULER_LIST(TO_SCHEDULER)
	default:
		return reject_no_destination(ctx, w);
	}
}
