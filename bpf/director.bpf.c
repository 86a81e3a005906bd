/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The director's packet path. One object, two hooks: XDP for speed, TC ingress for completeness.
 *
 *	a frame for this host -> parse -> known connection? -> refresh, count, forward        (the fast path: this file)
 *	                           |          no -> PROG_NEW -> scheduler -> PROG_CONNECT   (new.h, schedulers/)
 *	                           |                                     table full -> PROG_HASH_FALLBACK
 *	                           |-> from a NAT real server -> PROG_REPLY
 *	                           `-> options, extension headers, cut short -> PROG_PARSE_SLOW     (TC)
 *
 * XDP hands what it cannot finish, untouched, to TC behind it; there PROG_FWD_SLOW, PROG_UDP_CSUM, PROG_FRAGMENT and
 * PROG_ICMP_SEND do the rest with the kernel's help. PROG_ENCAP tunnels otherwise than by IP in IP. Packets of no service
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
INLINE bool slow_is_standby(struct ctx ctx, const struct packet *p, const struct root *root)
{
	void *header = ctx_data(ctx) + ETH_HLEN, *end = ctx_data_end(ctx);
	struct address daddr = {};
	if (p->is_ipv6) {
		struct ipv6_header *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		daddr = ip->daddr;
	} else {
		struct ipv4_header *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		daddr.word[0] = ip->daddr;
	}
	return is_standby(root, &daddr, p->is_ipv6);
}

/* Whether `to_own_client` sent it here. */
INLINE bool for_stack(struct __sk_buff *skb)
{
	if (likely(skb->tc_index != FOR_STACK))
		return false;
	skb->tc_index = 0;
	return true;
}

INLINE int receive(struct ctx ctx, const struct root *root)
{
	void *data = ctx_data(ctx), *end = ctx_data_end(ctx);
	const struct eth_header *ether = data;
	if ((void *)(ether + 1) > end)
		return pass_to_stack(ctx.hook);
	bool is_ipv6 = ether->h_proto == bpf_htons(ETH_P_IPV6);
	if (!is_ipv6 && ether->h_proto != bpf_htons(ETH_P_IP))
		return pass_to_stack(ctx.hook);
	if (ctx.hook == HOOK_XDP && !is_for_this_host(ether, ctx_ifindex(ctx)))
		return pass_to_stack(ctx.hook);
	struct packet p = {.from_host = ctx.hook == HOOK_TC && ctx_ifindex(ctx) == loopback};
	if (p.from_host && for_stack(ctx.raw))
		return pass_to_stack(ctx.hook);
	enum parsed parsed = is_ipv6 ? parse6(ctx, data, end, &p, root) : parse4(ctx, data, end, &p, root);
	if (likely(parsed == PARSED_PLAIN))
		return fwd_packet(ctx, &p, root);
	if (parsed == PARSED_FOREIGN || (root->standby && slow_is_standby(ctx, &p, root)))
		return pass_to_stack(ctx.hook);
	return ctx.hook == HOOK_XDP ? pass_to_tc() : tail_call_with(ctx, &p, PROG_PARSE_SLOW);
}

SEC("xdp.frags")
int pylvs_xdp(struct xdp_md *ctx)
{
	const struct root *root = get_root();
	int verdict = fast(ctx, root);
	return likely(verdict != NOT_FAST) ? verdict : receive(xdp_ctx(ctx), root);
}

/* Since Linux 6.9 a packet that generic XDP had to copy comes to TC with a link header of length 0: programs see it
 * from its IP header on, and what they redirect leaves without a link header. */
INLINE bool starts_at_link(struct __sk_buff *skb)
{
	const struct eth_header *ether = ctx_data(tc_ctx(skb));
	return (void *)(ether + 1) <= ctx_data_end(tc_ctx(skb)) && ether->h_proto == skb->protocol;
}

/* Adding a link header makes the kernel measure it anew; what stood there is put back. */
INLINE bool restored_link(struct __sk_buff *skb)
{
	struct eth_header ether;
	return !bpf_skb_load_bytes_relative(skb, 0, &ether, sizeof(ether), BPF_HDR_START_MAC) &&
	       ether.h_proto == skb->protocol && !bpf_skb_change_head(skb, ETH_HLEN, 0) &&
	       !bpf_skb_store_bytes(skb, 0, &ether, sizeof(ether), 0);
}

enum { HEADERS = ETH_HLEN + IPV6_HLEN + TCP_HLEN, PACKET_HOST = 0 };

INLINE int receive_tc(struct __sk_buff *ctx)
{
	if (unlikely(ctx_data(tc_ctx(ctx)) + HEADERS > ctx_data_end(tc_ctx(ctx))) && ctx->len > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	return receive(tc_ctx(ctx), get_root());
}

SEC("tc")
int pylvs_tc(struct __sk_buff *ctx)
{
	if (ctx->pkt_type != PACKET_HOST || ctx->vlan_present)
		return pass_to_stack(HOOK_TC);
	if (unlikely(!starts_at_link(ctx)) && !restored_link(ctx))
		return pass_to_stack(HOOK_TC);
	return receive_tc(ctx);
}

/* Of devices without link addresses: tunnels, VPNs, PPP. Their packets get an empty link header, which the kernel
 * takes off again from what passes. */
SEC("tc")
int pylvs_tc_bare(struct __sk_buff *ctx)
{
	struct eth_header ether = {.h_proto = ctx->protocol};
	if (ctx->pkt_type != PACKET_HOST || (ether.h_proto != bpf_htons(ETH_P_IP) && ether.h_proto != bpf_htons(ETH_P_IPV6)))
		return pass_to_stack(HOOK_TC);
	if (bpf_skb_change_head(ctx, ETH_HLEN, 0) || bpf_skb_store_bytes(ctx, 0, &ether, sizeof(ether), 0))
		return pass_to_stack(HOOK_TC);
	return receive_tc(ctx);
}

/* Of the devices by which answers of a real server on this host leave: bpf/local.h. */
SEC("tc")
int pylvs_tc_egress(struct __sk_buff *ctx)
{
	if (ctx->ingress_ifindex || ctx->vlan_present)
		return pass_to_stack(HOOK_TC); /* came in somewhere */
	if (unlikely(ctx_data(tc_ctx(ctx)) + HEADERS > ctx_data_end(tc_ctx(ctx))) && ctx->len > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, ctx->len < HEADERS ? ctx->len : HEADERS);
	return process_egress(ctx);
}

#define PROG_XDP_AND_TC(name) \
	SEC("xdp.frags") \
	int xdp_##name(struct xdp_md *ctx) \
	{ \
		return prog_##name(xdp_ctx(ctx)); \
	} \
	SEC("tc") \
	int tc_##name(struct __sk_buff *ctx) \
	{ \
		return prog_##name(tc_ctx(ctx)); \
	}
#define PROG_TC(name) \
	SEC("tc") \
	int tc_##name(struct __sk_buff *ctx) \
	{ \
		return prog_##name(ctx); \
	}

PROG_XDP_AND_TC(new)
PROG_XDP_AND_TC(persist)
PROG_XDP_AND_TC(connect)
PROG_XDP_AND_TC(hash_fallback)
PROG_XDP_AND_TC(reply)
PROG_XDP_AND_TC(encap)
PROG_TC(parse_slow)
PROG_TC(defrag)
PROG_TC(icmp_receive)
PROG_TC(icmp_forward)
PROG_TC(icmp_tunnel)
PROG_TC(icmp_send)
PROG_TC(nat_orphan)
PROG_TC(bypass)
PROG_TC(fwd_slow)
PROG_TC(udp_csum)
PROG_TC(sctp_csum)
PROG_TC(fragment)
PROG_TC(gso_segment)

/* what Python reads from BTF and no program uses */
const volatile struct constants constants __attribute__((used)) = {};
const volatile enum prog progs __attribute__((used)) = PROG_NEW;

char _license[] SEC("license") = "Dual MIT/GPL";
