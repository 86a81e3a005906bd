/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The context layer: a frame's data, device and verdicts at either hook.
 */
#pragma once
#include "abi/base.h"

enum hook { HOOK_XDP, HOOK_TC };

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
	if (is_traced() && ctx.hook == HOOK_XDP)
		trace_sent_xdp(ctx.xdp, ifindex);
	else if (is_traced())
		trace_sent_tc(ctx.skb, ifindex);
}

INLINE int pass_to_stack(enum hook hook)
{
	if (is_traced())
		trace_end(TRACE_PASSED);
	return hook == HOOK_XDP ? (int)XDP_PASS : -1 /* TC_ACT_UNSPEC: the next filter decides */;
}

/* Pass a packet that was changed, at TC. */
INLINE int pass_changed(struct __sk_buff *skb)
{
	trace_sent(tc_ctx(skb), 0);
	return pass_to_stack(HOOK_TC);
}

/* Pass a packet that does not belong to a service, after an expensive decision. TC would decide the same again: a word
 * of metadata tells it. Where TC does not see it, TC decides: drivers without metadata, and frames that generic XDP had
 * to copy. */
INLINE int pass_decided(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP && !bpf_xdp_adjust_meta(ctx.xdp, -(int)sizeof(u32))) {
		u32 *word = (void *)(long)ctx.xdp->data_meta;
		if ((void *)(word + 1) <= (void *)(long)ctx.xdp->data)
			*word = decided_word;
	}
	return pass_to_stack(ctx.hook);
}

/* Whether XDP has decided that the packet passes. In assembly: the compiler would share the load of the pointer with
 * others. Then it copies 32 bits, which the verifier takes for a number. */
INLINE bool is_decided(const struct __sk_buff *skb)
{
	const void *data;
	__asm__("%0 = *(u32 *)(%1 + %2)" : "=r"(data) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	const u32 *word = (void *)(long)skb->data_meta;
	return (void *)(word + 1) <= data && *word == decided_word;
}

INLINE int drop(enum hook hook, u32 reason)
{
	count(reason);
	if (is_traced())
		trace_end(TRACE_DROPPED);
	return hook == HOOK_XDP ? (int)XDP_DROP : 2 /* TC_ACT_SHOT */;
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
