/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Define the programs that are reached by tail call, from functions `prog_NAME`.
 */
#pragma once
#include "ctx/ended.h"
#include "ctx/scratch.h"

/* Count the end of the packet in the scratch area, and return the kernel's verdict. */
INLINE int finish_with(struct ctx ctx, const struct scratch *w, int result)
{
	if (likely(!(result & ENDED)))
		return result;
	if (ctx.hook == HOOK_XDP && (s8)result == XDP_PASS) {
		trace_ended(result);
		return XDP_PASS;
	}
	if (w->owner.service && !(result & END_OF_SERVICE) && (result >> END_KIND & 3) != END_FORWARDED)
		end_of(ctx, &w->owner, result);
	return finish_by(ctx.hook, w->packet.input, w->packet.counted ? result | END_COUNTED : result);
}

/* The scratch area is never missing, but the verifier does not know that. */
#define PROG_XDP_AND_TC(name) \
	SEC("xdp.frags") \
	int xdp_##name(struct xdp_md *xdp) \
	{ \
		struct scratch *w = scratch_of(HOOK_XDP); \
		return w ? finish_with(xdp_ctx(xdp), w, prog_##name(xdp_ctx(xdp), w, get_root())) : (int)XDP_PASS; \
	} \
	SEC("tc") \
	int tc_##name(struct __sk_buff *skb) \
	{ \
		struct scratch *w = scratch_of(HOOK_TC); \
		return w ? finish_with(tc_ctx(skb), w, prog_##name(tc_ctx(skb), w, get_root())) : TC_PASS; \
	}

#define PROG_TC(name) \
	SEC("tc") \
	int tc_##name(struct __sk_buff *skb) \
	{ \
		struct scratch *w = scratch_of(HOOK_TC); \
		return w ? finish_with(tc_ctx(skb), w, prog_##name(skb, w, get_root())) : TC_PASS; \
	}
