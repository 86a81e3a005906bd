/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_TAGGED, at XDP: the fast path of frames with an 802.1Q tag, on a device below VLAN devices. All other frames
 * pass to the stack, which takes the tag off: TC of the VLAN device decides, and lets the packets that follow be fast.
 *
 * Such a frame leaves by the device on which it came, with the tag of the same or another VLAN.
 *
 * Reads and leaves nothing.
 */
#pragma once
#include "fwd/fast6.h"

/* Insert a tag behind the MAC addresses. */
INLINE bool push_vlan(struct xdp_md *ctx, u16 vid)
{
	if (bpf_xdp_adjust_head(ctx, -VLAN_HLEN))
		return false;
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + TAGGED_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return false;
	u64 first = WORD_AT(u64, data, VLAN_HLEN);
	u32 last = WORD_AT(u32, data, VLAN_HLEN + 8);
	WORD_AT(u64, data, 0) = first;
	WORD_AT(u32, data, 8) = last;
	WORD_AT(u16, data, 12) = bpf_htons(ETH_P_8021Q);
	WORD_AT(u16, data, ETH_HLEN) = bpf_htons(vid);
	return true;
}

INLINE int prog_tagged(struct xdp_md *ctx)
{
	const struct root *root = get_root();
	void *data = ctx_data(xdp_ctx(ctx));
	if (is_traced())
		return pass_for(HOOK_XDP, REASON_TAGGED); /* TC of the VLAN device traces it */
	if (data + TAGGED_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return XDP_PASS;
	struct vlan_tag tag = {.vid = bpf_ntohs(WORD_AT(const u16, data, ETH_HLEN)) & VID_MASK};
	int verdict = fast(ctx, root, &tag);
	if (verdict == NOT_FAST)
		verdict = fast6(ctx, root, &tag);
	if (verdict == XDP_TX && !push_vlan(ctx, tag.vid))
		return drop_fast(xdp_ctx(ctx), REASON_NO_HEADROOM);
	return verdict == NOT_FAST ? (int)XDP_PASS : verdict;
}
