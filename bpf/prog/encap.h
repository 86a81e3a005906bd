/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_ENCAP: prepend the headers of a GRE or GUE tunnel. The packet was counted, and its TTL decremented, before.
 *
 * Reads chosen and xmit, and leaves them for PROG_FRAGMENT and PROG_GSO_SEGMENT.
 */
#pragma once
#include "fwd/gre_gue.h"
#include "fwd/send.h"

INLINE int encap_xdp(struct xdp_md *ctx, struct scratch *w, const struct destination *d, const struct root *root)
{
	struct packet *p = &w->packet;
	bool gue = tunnel_kind(w->chosen.state) == TUNNEL_GUE, is_ipv6 = d->family == 6;
	u32 more = gue ? UDP_HLEN + GUE_HLEN : GRE_HLEN, outer = outer_hlen(d);
	if (bpf_xdp_adjust_head(ctx, -(int)(outer + more)))
		return drop(HOOK_XDP, REASON_NO_HEADROOM);
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV6_HLEN + UDP_HLEN + GUE_HLEN > end)
		return drop(HOOK_XDP, REASON_TRUNCATED);
	union tunnel_header header;
	u8 protocol = fill_tunnel(&header, p, root, w->chosen.state, more);
	if (is_ipv6)
		fill_outer6(data, p, d, &w->xmit.hop, protocol, more);
	else
		fill_outer4(data, p, d, &w->xmit.hop, protocol, more, root->settings.pmtu_disc);
	void *at = is_ipv6 ? data + sizeof(struct outer6) : data + sizeof(struct outer4);
	__builtin_memcpy(at, header.bytes, GRE_HLEN);
	if (gue)
		__builtin_memcpy(at + GRE_HLEN, header.bytes + GRE_HLEN, UDP_HLEN + GUE_HLEN - GRE_HLEN);
	return xmit(xdp_ctx(ctx), p, &w->xmit.hop);
}

/* Whether a GSO packet must be segmented here: the kernel computes no tunnel checksum of a segment. So is UDP for GUE:
 * to the kernel that is GSO of UDP in UDP. A program that removes the headers on the real server cannot change that,
 * and the packet is lost there. */
INLINE bool must_segment(struct __sk_buff *skb, const struct scratch *w)
{
	const struct packet *p = &w->packet;
	if (likely(!skb->gso_size))
		return false;
	return tunnel_flags(w->chosen.state) ||
	       (tunnel_kind(w->chosen.state) == TUNNEL_GUE && p->protocol == IPPROTO_UDP && can_segment(skb, w));
}

INLINE int encap_tc(struct __sk_buff *skb, struct scratch *w, const struct destination *d, const struct root *root)
{
	struct packet *p = &w->packet;
	u32 more = tunnel_hlen(w->chosen.state);
	struct copy *copy = map_elem(copies, 0);
	union tunnel_header header = {};
	if (!copy)
		return pass_to_stack(HOOK_TC);
	if (must_segment(skb, w))
		return tail_call(tc_ctx(skb), PROG_GSO_SEGMENT);
	fill_tunnel(&header, p, root, w->chosen.state, more);
	if (tunnel_flags(w->chosen.state))
		write_tunnel_csum(&header, p, d, &w->xmit.hop, w->chosen.state, more, packet_sum(skb, copy, p));
	if (!push_headroom(skb, w, d, more))
		return drop(HOOK_TC, skb->gso_size ? REASON_GSO_UNSUPPORTED : REASON_NO_HEADROOM);
	if (!push_headers(skb, w, d, &header, more))
		return drop(HOOK_TC, REASON_TRUNCATED);
	return w->xmit.resolve ? xmit_finished(skb, w) : xmit(tc_ctx(skb), p, &w->xmit.hop);
}

INLINE int prog_encap(struct ctx ctx, struct scratch *w, struct root *root)
{
	struct destination *d = map_elem(destinations, w->chosen.destination);
	if (!d)
		return pass_to_stack(ctx.hook);
	return ctx.hook == HOOK_XDP ? encap_xdp(ctx.xdp, w, d, root) : encap_tc(ctx.skb, w, d, root);
}
