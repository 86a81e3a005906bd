/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * From a service to its scheduler, or to an error if it has no destination.
 */
#pragma once
#include "conntrack/update.h"
#include "ctx/scratch.h"
#include "lib/headers.h"

/* The connection that this packet ended counts no longer. */
INLINE void leave(struct work *w)
{
	struct destination *d = w->leaving != NOBODY ? LOOKUP(destinations, w->leaving) : NULL;
	if (unlikely(d))
		release_count(d, w->leaving_state);
	w->leaving = NOBODY;
}

/* Where a mark's packet may go on without a real server: to what is unicast and, in IPv4, not this host's (2.6). */
INLINE bool may_bypass(const struct packet *p)
{
	if (p->six)
		return (u8)p->tuple.v6.target.word[0] != 0xff;
	struct address target = {.word = {p->tuple.v4.target}};
	u32 first = (u8)p->tuple.v4.target;
	return first && first < 224 && !bpf_map_lookup_elem(&locals, &target);
}

/* No destination: an error to the client. But of FTP's service only the control connection is answered (2.6). */
INLINE int refuse(void *ctx, struct work *w, enum hook hook)
{
	leave(w);
	if (hook == HOOK_XDP)
		return to_tc();
	struct packet *p = &w->packet;
	be16 port = port_to(p);
	if (w->service_port == to_be16(PORT_FTP) && port != to_be16(PORT_FTP))
		return to_stack(hook);
	if (p->quoting)
		return dropped(hook, REASON_NO_DESTINATION);
	struct root *root = the_root();
	if (w->mark && root->settings.cache_bypass && may_bypass(p))
		return go_on(ctx, hook, STAGE_BYPASS);
	count(REASON_NO_DESTINATION);
	w->error_type = p->six ? 1 : 3;
	w->error_code = p->six ? 4 : 3;
	w->error_rest = 0;
	return go_on(ctx, hook, STAGE_ICMP);
}

INLINE int to_scheduler(void *ctx, struct work *w, enum hook hook)
{
	switch (w->scheduler) { /* a tail call to a place known beforehand is a jump */
#define TO(number) \
	case number: \
		return go_on(ctx, hook, STAGE_SCHEDULE + number);
		TO(SCHED_RR) TO(SCHED_WRR) TO(SCHED_LC) TO(SCHED_WLC) TO(SCHED_SED) TO(SCHED_NQ) TO(SCHED_FO)
		TO(SCHED_OVF) TO(SCHED_DH) TO(SCHED_SH) TO(SCHED_MH) TO(SCHED_LBLC) TO(SCHED_LBLCR)
#undef TO
	default:
		return refuse(ctx, w, hook);
	}
}
