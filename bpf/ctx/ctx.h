/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The context layer: a frame's data, device and verdicts at either hook.
 */
#pragma once
#include "abi/base.h"

enum hook { HOOK_XDP, HOOK_TC };
enum { TC_PASS = -1, TC_SHOT = 2 }; /* TC_ACT_UNSPEC: the next filter decides; TC_ACT_SHOT */

/* A packet's context and its hook. Every function that takes one is inlined, so the hook is a constant there and costs
 * nothing. A global function exists once for each hook instead (GLOBAL_OF_HOOKS). */
struct ctx {
	union {
		struct xdp_md *xdp;
		struct __sk_buff *skb;
	};
	enum hook hook;
};

INLINE struct ctx xdp_ctx(struct xdp_md *xdp)
{
	return (struct ctx){.xdp = xdp, .hook = HOOK_XDP};
}

INLINE struct ctx tc_ctx(struct __sk_buff *skb)
{
	return (struct ctx){.skb = skb, .hook = HOOK_TC};
}

#define LIST(...) __VA_ARGS__

/* Define global functions for both hooks, because the verifier checks a context by its declared type, and `name`, which
 * calls that of a packet's hook. All call `inlined`. Parameters and arguments are in parentheses, without the
 * context. */
#define GLOBAL_OF_HOOKS(type, name, inlined, parameters, arguments) \
	VERIFIED_ONCE type name##_xdp(struct xdp_md *xdp, LIST parameters) \
	{ \
		return inlined(xdp_ctx(xdp), LIST arguments); \
	} \
	VERIFIED_ONCE type name##_tc(struct __sk_buff *skb, LIST parameters) \
	{ \
		return inlined(tc_ctx(skb), LIST arguments); \
	} \
	INLINE type name(struct ctx ctx, LIST parameters) \
	{ \
		return ctx.hook == HOOK_XDP ? name##_xdp(ctx.xdp, LIST arguments) : name##_tc(ctx.skb, LIST arguments); \
	}

INLINE void *ctx_data(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP)
		return (void *)(long)ctx.xdp->data;
	return (void *)(long)ctx.skb->data;
}

INLINE void *ctx_data_end(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP)
		return (void *)(long)ctx.xdp->data_end;
	return (void *)(long)ctx.skb->data_end;
}

INLINE u32 ctx_len(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP)
		return bpf_xdp_get_buff_len(ctx.xdp);
	return ctx.skb->len;
}

/* Note the frame as it leaves by a device; its verdict follows. */
int trace_sent_xdp(struct xdp_md *xdp, u32 ifindex);
int trace_sent_tc(struct __sk_buff *skb, u32 ifindex);

INLINE void trace_sent(struct ctx ctx, u32 ifindex)
{
	if (!is_traced())
		return;
	if (ctx.hook == HOOK_XDP)
		trace_sent_xdp(ctx.xdp, ifindex);
	else
		trace_sent_tc(ctx.skb, ifindex);
}

/* --- ends: what programs return, and `finish` counts (ctx/ended.h) --- */

/* Bits of an end. The lowest eight are the kernel's verdict. */
enum {
	ENDED = 1 << 8, /* no plain verdict */
	END_COUNTED = 1 << 9, /* the packet was counted as forwarded */
	END_KIND = 10, /* enum end, 2 bits */
	END_OF_SERVICE = 1 << 12, /* it was counted for the packet's service */
	END_REASON = 16, /* enum reason, 8 bits */
};

INLINE int end_as(u32 verdict, enum end kind, u32 reason)
{
	return ENDED | (u8)verdict | kind << END_KIND | reason << END_REASON;
}

/* Pass the packet to the stack. */
INLINE int pass_for(enum hook hook, u32 reason)
{
	return end_as(hook == HOOK_XDP ? (int)XDP_PASS : TC_PASS, END_PASSED, reason);
}

/* Likewise where the packet path lacks something that it always has. */
INLINE int pass_to_stack(enum hook hook)
{
	return pass_for(hook, REASON_LOOKUP_FAILED);
}

/* Likewise a packet that was counted before. */
INLINE int pass_counted(enum hook hook)
{
	return end_as(hook == HOOK_XDP ? (int)XDP_PASS : TC_PASS, END_FORWARDED, REASON_NONE);
}

INLINE int drop(enum hook hook, u32 reason)
{
	return end_as(hook == HOOK_XDP ? (int)XDP_DROP : TC_SHOT, END_DROPPED, reason);
}

/* Hold a fragment, at TC: its bytes are in a queue. */
INLINE int hold(u32 reason)
{
	return end_as(TC_SHOT, END_HELD, reason);
}

/* Pass the packet to the TC program, unmodified and uncounted. */
INLINE int pass_to_tc(void)
{
	count(REASON_TO_TC);
	if (is_traced())
		trace_end(TRACE_TO_TC);
	return XDP_PASS;
}

/* Change the frame's length, at TC. The kernel cannot trim the tail below the transport header that it has recorded. In
 * this case remove bytes behind the IP header: the caller overwrites all of them. */
INLINE bool resize_frame(struct __sk_buff *skb, u32 length)
{
	if (!bpf_skb_change_tail(skb, length, 0))
		return true;
	s32 surplus = skb->len - length;
	return surplus > 0 && surplus <= 4095 && !bpf_skb_adjust_room(skb, -surplus, BPF_ADJ_ROOM_NET, 0);
}
