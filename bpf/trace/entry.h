/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * From the entry programs to a session of `pylvs trace`, and back:
 *
 *	entry program ---- root->trace is 0, or no session -----------------------------> the packet path
 *	   |
 *	   v
 *	the filter ---- no match: PROG_PLAIN, the entry program without this test -------> the packet path
 *	   |                          ^
 *	   v                          |
 *	PROG_TRACE ---- not sampled, or the rate limit is reached
 *	   |
 *	   `----------------------------------------------------------------> a copy of the packet path, with records
 *
 * The filter, PROG_TRACE and the copy are programs of the session. `tracers_xdp` and `tracers_tc` are the only way to
 * them. Each load of entry programs has its own, and no pin. So the kernel empties them when the session's process ends,
 * however it ends, and the entry programs of another load never call a copy that writes other tables.
 */
#pragma once
#include "abi/config.h"
#include "trace/frame.h"

#define TRACER_ARRAY(name) \
	struct { \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, TRACERS); \
		__uint(key_size, sizeof(u32)); \
		__uint(value_size, sizeof(u32)); \
	} name SEC(".maps")
TRACER_ARRAY(tracers_xdp);
TRACER_ARRAY(tracers_tc);

/* Tail-call the filter, if there is a session. */
INLINE void call_tracer(struct ctx ctx, const struct root *root, enum tracer tracer)
{
	if (likely(!READ_ONCE(root->trace)))
		return;
	if (ctx.hook == HOOK_XDP)
		bpf_tail_call(ctx.xdp, &tracers_xdp, tracer);
	else
		bpf_tail_call(ctx.skb, &tracers_tc, tracer);
}
