/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Define the programs that are reached by tail call, from functions `prog_NAME`.
 */
#pragma once
#include "ctx/ended.h"
#include "ctx/scratch.h"

/* The scratch area is never missing, but the verifier does not know that. */
#define PROG_XDP_AND_TC(name) \
	SEC("xdp.frags") \
	int xdp_##name(struct xdp_md *xdp) \
	{ \
		struct scratch *w = scratch_of(HOOK_XDP); \
		return w ? finish(xdp_ctx(xdp), &w->packet, prog_##name(xdp_ctx(xdp), w, get_root())) : (int)XDP_PASS; \
	} \
	SEC("tc") \
	int tc_##name(struct __sk_buff *skb) \
	{ \
		struct scratch *w = scratch_of(HOOK_TC); \
		return w ? finish(tc_ctx(skb), &w->packet, prog_##name(tc_ctx(skb), w, get_root())) : TC_PASS; \
	}

#define PROG_TC(name) \
	SEC("tc") \
	int tc_##name(struct __sk_buff *skb) \
	{ \
		struct scratch *w = scratch_of(HOOK_TC); \
		return w ? finish(tc_ctx(skb), &w->packet, prog_##name(skb, w, get_root())) : TC_PASS; \
	}
