/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The tail-called program that puts the headers of a GRE or GUE tunnel in front. The packet has been aged, and counted.
 */
#pragma once
#include "fwd/gre_gue.h"
#include "fwd/send.h"

INLINE int wrap_xdp(struct xdp_md *ctx, struct work *w, const struct destination *d, const struct root *root)
{
	struct packet *p = &w->packet;
	bool gue = tunnel_kind(w->state) == TUNNEL_GUE, six = d->family == 6;
	u32 more = gue ? UDP_BYTES + GUE_BYTES : GRE_BYTES, outer = outer_bytes(d);
	if (bpf_xdp_adjust_head(ctx, -(int)(outer + more)))
		return dropped(HOOK_XDP, REASON_NO_HEADROOM);
	void *data = frame_start(ctx, HOOK_XDP), *end = frame_end(ctx, HOOK_XDP);
	if (data + ETHER + IPV6_BYTES + UDP_BYTES + GUE_BYTES > end)
		return dropped(HOOK_XDP, REASON_SHORT);
	union tunnel_header header;
	u8 protocol = fill_tunnel(&header, p, root, w->state, more);
	if (six)
		fill_outer6(data, p, d, &w->hop, protocol, more);
	else
		fill_outer4(data, p, d, &w->hop, protocol, more, root->settings.pmtu_disc);
	void *at = six ? data + sizeof(struct outer6) : data + sizeof(struct outer4);
	__builtin_memcpy(at, header.bytes, GRE_BYTES);
	if (gue)
		__builtin_memcpy(at + GRE_BYTES, header.bytes + GRE_BYTES, UDP_BYTES + GUE_BYTES - GRE_BYTES);
	return transmit(ctx, &w->hop, six, HOOK_XDP);
}

INLINE int wrap_tc(struct __sk_buff *skb, struct work *w, const struct destination *d, const struct root *root)
{
	struct packet *p = &w->packet;
	u32 more = between(w->state);
	struct copy *copy = LOOKUP(copies, 0);
	union tunnel_header header = {};
	if (!copy)
		return to_stack(HOOK_TC);
	if (tunnel_flags(w->state) && skb->gso_size)
		return go_on(skb, HOOK_TC, STAGE_SPLIT);
	fill_tunnel(&header, p, root, w->state, more);
	if (tunnel_flags(w->state))
		seal(&header, p, d, &w->hop, w->state, more, sum_of_packet(skb, copy, p));
	if (!make_room(skb, w, d, more))
		return dropped(HOOK_TC, skb->gso_size ? REASON_SUPER : REASON_NO_HEADROOM);
	if (!put_in_front(skb, w, d, &header, more))
		return dropped(HOOK_TC, REASON_SHORT);
	return w->resolve ? finish(skb, w) : transmit(skb, &w->hop, d->family == 6, HOOK_TC);
}

INLINE int stage_wrap(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	struct destination *d = w ? LOOKUP(destinations, w->chosen) : NULL;
	if (!w || !d)
		return to_stack(hook);
	return hook == HOOK_XDP ? wrap_xdp(ctx, w, d, root) : wrap_tc(ctx, w, d, root);
}
