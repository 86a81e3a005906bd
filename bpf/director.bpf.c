/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The director's packet path. One object, two hooks: XDP for speed, TC ingress for completeness.
 *
 *	a frame for this host -> parse -> known connection? -> refresh, count, forward        (the fast path: this file)
 *	                           |          no -> STAGE_NEW -> scheduler -> STAGE_CONNECT   (new.h, schedulers/)
 *	                           |                                     table full -> STAGE_STATELESS
 *	                           |-> from a NAT real server -> STAGE_REPLY
 *	                           `-> options, extension headers, cut short -> STAGE_ODD     (TC)
 *
 * XDP hands what it cannot finish, untouched, to TC behind it; there STAGE_TROUBLE, STAGE_SUM, STAGE_CUT and
 * STAGE_ICMP do the rest with the kernel's help. STAGE_WRAP tunnels otherwise than by IP in IP. Packets of no service
 * pass.
 */
#include "abi/constants.h"
#include "frag/defrag.h"
#include "frag/fragment.h"
#include "frag/gso_segment.h"
#include "fwd/fast.h"
#include "icmp/forward.h"
#include "icmp/receive.h"
#include "icmp/send.h"
#include "icmp/tunnel.h"
#include "lb/schedulers/dh.h"
#include "lb/schedulers/fo.h"
#include "lb/schedulers/lblc.h"
#include "lb/schedulers/lblcr.h"
#include "lb/schedulers/lc.h"
#include "lb/schedulers/mh.h"
#include "lb/schedulers/nq.h"
#include "lb/schedulers/ovf.h"
#include "lb/schedulers/rr.h"
#include "lb/schedulers/sed.h"
#include "lb/schedulers/sh.h"
#include "lb/schedulers/wlc.h"
#include "lb/schedulers/wrr.h"
#include "prog/bypass.h"
#include "prog/connect.h"
#include "prog/egress.h"
#include "prog/encap.h"
#include "prog/fwd_slow.h"
#include "prog/hash_fallback.h"
#include "prog/nat_orphan.h"
#include "prog/new.h"
#include "prog/parse_slow.h"
#include "prog/reply.h"
#include "prog/sctp_csum.h"
#include "timers/estimator.h"
#include "timers/expire.h"
#include "timers/lblc_cache.h"

/* Of what is no plain packet: its target from the frame, for no more of it has been read. */
INLINE bool odd_stands_by(void *ctx, const struct packet *p, const struct root *root, enum hook hook)
{
	void *header = frame_start(ctx, hook) + ETHER, *end = frame_end(ctx, hook);
	struct address target = {};
	if (p->six) {
		struct ipv6 *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		target = ip->target;
	} else {
		struct ipv4 *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		target.word[0] = ip->target;
	}
	return stands_by(root, &target, p->six);
}

/* Whether `to_own_client` sent it here. */
INLINE bool for_stack(struct __sk_buff *skb)
{
	if (likely(skb->tc_index != FOR_STACK))
		return false;
	skb->tc_index = 0;
	return true;
}

INLINE int receive(void *ctx, const struct root *root, enum hook hook)
{
	void *data = frame_start(ctx, hook), *end = frame_end(ctx, hook);
	const struct ether *ether = data;
	if ((void *)(ether + 1) > end)
		return to_stack(hook);
	bool six = ether->kind == to_be16(ETHER_IPV6);
	if (!six && ether->kind != to_be16(ETHER_IPV4))
		return to_stack(hook);
	if (hook == HOOK_XDP && !is_for_this_host(ether, input_device(ctx, hook)))
		return to_stack(hook);
	struct packet p = {.own = hook == HOOK_TC && input_device(ctx, hook) == loopback};
	if (p.own && for_stack(ctx))
		return to_stack(hook);
	enum parsed parsed = six ? parse6(ctx, data, end, &p, root, hook) : parse4(ctx, data, end, &p, root, hook);
	if (likely(parsed == PARSED_PLAIN))
		return dispatch(ctx, &p, root, hook);
	if (parsed == PARSED_FOREIGN || (root->standby && odd_stands_by(ctx, &p, root, hook)))
		return to_stack(hook);
	return hook == HOOK_XDP ? to_tc() : go_on_with(ctx, &p, hook, STAGE_ODD);
}

SEC("xdp.frags")
int pylvs_xdp(struct xdp_md *ctx)
{
	const struct root *root = the_root();
	int verdict = fast(ctx, root);
	return likely(verdict != NOT_FAST) ? verdict : receive(ctx, root, HOOK_XDP);
}

/* Since Linux 6.9 a packet that generic XDP had to copy comes to TC with a link header of length 0: programs see it
 * from its IP header on, and what they redirect leaves without a link header. */
INLINE bool starts_at_link(struct __sk_buff *skb)
{
	const struct ether *ether = frame_start(skb, HOOK_TC);
	return (void *)(ether + 1) <= frame_end(skb, HOOK_TC) && ether->kind == skb->protocol;
}

/* Adding a link header makes the kernel measure it anew; what stood there is put back. */
INLINE bool restored_link(struct __sk_buff *skb)
{
	struct ether ether;
	return !bpf_skb_load_bytes_relative(skb, 0, &ether, sizeof(ether), BPF_HDR_START_MAC) &&
	       ether.kind == skb->protocol && !bpf_skb_change_head(skb, ETHER, 0) &&
	       !bpf_skb_store_bytes(skb, 0, &ether, sizeof(ether), 0);
}

enum { HEADERS = ETHER + IPV6_BYTES + TCP_BYTES, PACKET_HOST = 0 };

INLINE int receive_tc(struct __sk_buff *ctx)
{
	if (unlikely(frame_start(ctx, HOOK_TC) + HEADERS > frame_end(ctx, HOOK_TC)) && ctx->len > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	return receive(ctx, the_root(), HOOK_TC);
}

SEC("tc")
int pylvs_tc(struct __sk_buff *ctx)
{
	if (ctx->pkt_type != PACKET_HOST || ctx->vlan_present)
		return to_stack(HOOK_TC);
	if (unlikely(!starts_at_link(ctx)) && !restored_link(ctx))
		return to_stack(HOOK_TC);
	return receive_tc(ctx);
}

/* Of devices without link addresses: tunnels, VPNs, PPP. Their packets get an empty link header, which the kernel
 * takes off again from what passes. */
SEC("tc")
int pylvs_tc_bare(struct __sk_buff *ctx)
{
	struct ether ether = {.kind = ctx->protocol};
	if (ctx->pkt_type != PACKET_HOST || (ether.kind != to_be16(ETHER_IPV4) && ether.kind != to_be16(ETHER_IPV6)))
		return to_stack(HOOK_TC);
	if (bpf_skb_change_head(ctx, ETHER, 0) || bpf_skb_store_bytes(ctx, 0, &ether, sizeof(ether), 0))
		return to_stack(HOOK_TC);
	return receive_tc(ctx);
}

/* Of the devices by which answers of a real server on this host leave: bpf/local.h. */
SEC("tc")
int pylvs_tc_egress(struct __sk_buff *ctx)
{
	if (ctx->ingress_ifindex || ctx->vlan_present)
		return to_stack(HOOK_TC); /* came in somewhere */
	if (unlikely(frame_start(ctx, HOOK_TC) + HEADERS > frame_end(ctx, HOOK_TC)) && ctx->len > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	return send_off(ctx);
}

#define STAGE_BOTH(name) \
	SEC("xdp.frags") \
	int xdp_##name(struct xdp_md *ctx) \
	{ \
		return stage_##name(ctx, HOOK_XDP); \
	} \
	SEC("tc") \
	int tc_##name(struct __sk_buff *ctx) \
	{ \
		return stage_##name(ctx, HOOK_TC); \
	}
#define STAGE_OF_TC(name) \
	SEC("tc") \
	int tc_##name(struct __sk_buff *ctx) \
	{ \
		return stage_##name(ctx); \
	}

STAGE_BOTH(new)
STAGE_BOTH(persist)
STAGE_BOTH(connect)
STAGE_BOTH(stateless)
STAGE_BOTH(reply)
STAGE_BOTH(wrap)
STAGE_OF_TC(odd)
STAGE_OF_TC(fragment)
STAGE_OF_TC(error)
STAGE_OF_TC(bypass)
STAGE_OF_TC(error_carry)
STAGE_OF_TC(error_tunnel)
STAGE_OF_TC(unserved)
STAGE_OF_TC(trouble)
STAGE_OF_TC(icmp)
STAGE_OF_TC(sum)
STAGE_OF_TC(crc)
STAGE_OF_TC(cut)
STAGE_OF_TC(split)

/* what Python reads from BTF and no program uses */
const volatile struct constants constants __attribute__((used)) = {};
const volatile enum stage stages __attribute__((used)) = STAGE_NEW;

char _license[] SEC("license") = "Dual MIT/GPL";
