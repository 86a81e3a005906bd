/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The frame of a traced packet: its first bytes as it came, and as it leaves.
 */
#pragma once
#include "ctx/device.h"
#include "fwd/send.h"
#include "trace/record.h"

/* Copy the first bytes of the frame. Return how many. */
INLINE u32 copy_frame(struct ctx ctx, u8 *to)
{
	u32 length = ctx_len(ctx);
	u32 size = barrier_var(length < trace_snap ? length : trace_snap);
	if (!IS_LENGTH(size, TRACE_SNAP))
		return 0;
	long error = ctx.hook == HOOK_XDP ? bpf_xdp_load_bytes(ctx.xdp, 0, to, size)
					  : bpf_skb_load_bytes(ctx.skb, 0, to, size);
	return error ? 0 : size;
}

/* Note the frame as it leaves by a device; 0: to the stack. */
INLINE int note_sent(struct ctx ctx, u32 ifindex)
{
	struct trace_record *r = trace_record();
	if (!r)
		return 0;
	r->output = ifindex;
	r->sent_length = ctx_len(ctx);
	r->after_bytes = copy_frame(ctx, r->after);
	return 0;
}

VERIFIED_ONCE int trace_sent_xdp(struct xdp_md *xdp, u32 ifindex)
{
	return note_sent(xdp_ctx(xdp), ifindex);
}

VERIFIED_ONCE int trace_sent_tc(struct __sk_buff *skb, u32 ifindex)
{
	return note_sent(tc_ctx(skb), ifindex);
}

/* The packet leaves by a next hop. At TC the kernel's neighbour code has yet to write the MAC addresses. */
VERIFIED_ONCE int trace_forwarded(const struct hop *hop)
{
	struct trace_record *r = trace_record();
	if (r && hop && hop->verdict == HOP_READY)
		write_macs(r->after, hop);
	return trace_end(TRACE_FORWARDED);
}

/* Whether the session may trace one more packet in this tick. A CPU that finds the budget used writes nothing. */
INLINE bool take_budget(void)
{
	struct trace_budget *budget = map_elem(trace_budgets, 0);
	u32 now = ticks();
	if (!budget)
		return false;
	if (READ_ONCE(budget->tick) != now) {
		WRITE_ONCE(budget->used, 0);
		WRITE_ONCE(budget->tick, now);
	}
	return READ_ONCE(budget->used) < trace_per_tick && __sync_fetch_and_add(&budget->used, 1) < trace_per_tick;
}

/* Begin the record of a packet that the filter selected. Return false if it gets none: by sampling, or by the rate
 * limit. */
INLINE int begin_record(struct ctx ctx, u32 hook)
{
	struct trace_counts *n = map_elem(trace_counts, 0);
	struct trace_record *r = map_elem(trace_areas, 0);
	if (!is_traced() || !n || !r)
		return false;
	n->matched += 1;
	if (trace_sample > 1 && bpf_get_prandom_u32() % trace_sample)
		return false;
	if (!take_budget()) {
		n->limited += 1;
		return false;
	}
	memzero(r, __builtin_offsetof(struct trace_record, before));
	r->active = 1;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->cpu = bpf_get_smp_processor_id();
	r->hook = hook;
	r->device = ctx_ifindex(ctx);
	r->length = ctx_len(ctx);
	r->before_bytes = copy_frame(ctx, r->before);
	return true;
}

GLOBAL_OF_HOOKS(int, trace_begin, begin_record, (u32 hook), (hook))
