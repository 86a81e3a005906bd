/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A packet's context at either hook, XDP or TC: the frame, the device, the verdicts.
 */
#pragma once
#include "abi/base.h"

enum hook { HOOK_XDP, HOOK_TC };

/* A packet's context and its hook. All functions that take one are inlined, so the hook is a constant in them and costs
 * nothing. A global function has one for each hook instead: the verifier knows a context by its declared type. */
struct ctx {
	union {
		void *raw;
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
		return bpf_xdp_get_buff_len(ctx.raw);
	return ctx.skb->len;
}

INLINE u32 ctx_ifindex(struct ctx ctx)
{
	if (ctx.hook == HOOK_XDP)
		return ctx.xdp->ingress_ifindex;
	return ctx.skb->ifindex;
}

INLINE int pass_to_stack(enum hook hook)
{
	return hook == HOOK_XDP ? (int)XDP_PASS : -1 /* TC_ACT_UNSPEC: other filters may follow */;
}

INLINE int drop(enum hook hook, u32 reason)
{
	count(reason);
	return hook == HOOK_XDP ? (int)XDP_DROP : 2 /* TC_ACT_SHOT */;
}

/* XDP leaves the packet, untouched and uncounted, to the TC program behind it. */
INLINE int pass_to_tc(void)
{
	count(REASON_TO_TC);
	return XDP_PASS;
}

/* At TC, give the frame another length. Its tail cannot be cut below where the kernel once saw a transport header: then bytes behind the
 * IP header go instead, which serves as well, for all of them are about to be written. */
INLINE bool resize_frame(struct __sk_buff *skb, u32 length)
{
	if (!bpf_skb_change_tail(skb, length, 0))
		return true;
	s32 surplus = skb->len - length;
	return surplus > 0 && surplus <= 4095 && !bpf_skb_adjust_room(skb, -surplus, BPF_ADJ_ROOM_NET, 0);
}
