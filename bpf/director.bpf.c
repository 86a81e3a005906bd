/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The director: the whole path of a packet. One object serves two hooks, XDP for speed and TC ingress for completeness.
 *
 *	frame at XDP ---> fast path (fwd/fast.h, fast6.h): established connection, next hop known --------> sent
 *	   | all others
 *	   v
 *	receive() ---> parse (parse/plain.h) ---- not plain: PROG_PARSE_SLOW, a fragment: PROG_DEFRAG (TC)
 *	   |  ^                                                      |
 *	   |  `------------------------------------------------------'
 *	   |----- a SYN that a client rule refuses (fwd/refused.h, denied.h), no connection ------------> dropped
 *	   |----- a SYN at XDP, the table is full or a flood comes (fwd/stateless.h), no connection --------> sent
 *	   v
 *	fwd_packet() (fwd/conn.h) ---- known connection: update_state(), count, send() -------------------> sent
 *	   |                `--------- from a real server: PROG_REPLY, translate (NAT) -------------------> sent
 *	   v
 *	PROG_NEW ---> find the service (lb/) ---> [PROG_PERSIST] ---> scheduler ---> PROG_CONNECT
 *	                                                                                |
 *	        the table fills: PROG_END_HALF_OPEN, once <-----------------------------+
 *	             table full: PROG_HASH_FALLBACK <-----------------------------------+-- create_conn(), send()
 *
 * XDP passes a packet that it cannot finish to TC, unmodified. At TC these programs do the rest with the kernel's help:
 * PROG_FWD_SLOW, PROG_ENCAP, PROG_FRAGMENT, PROG_ICMP_SEND and others. A packet of no service passes to the stack.
 * The build includes all of lb/schedulers/ first.
 */
#include "abi/constants.h"
#include "conntrack/announce.h"
#include "conntrack/log_record.h"
#include "conntrack/restore.h"
#include "conntrack/store.h"
#include "conntrack/transfer.h"
#include "ctx/program.h"
#include "frag/defrag.h"
#include "frag/fragment.h"
#include "frag/gso_segment.h"
#include "fwd/fast6.h"
#include "fwd/fast_tc.h"
#include "fwd/refused.h"
#include "fwd/stateless.h"
#include "icmp/forward.h"
#include "icmp/receive.h"
#include "icmp/send.h"
#include "icmp/tunnel.h"
#include "lb/index_list.h"
#include "prog/bypass.h"
#include "prog/connect.h"
#include "prog/egress.h"
#include "prog/egress_slow.h"
#include "prog/encap.h"
#include "prog/fwd_slow.h"
#include "prog/hash_fallback.h"
#include "prog/end_half_open.h"
#include "prog/nat_orphan.h"
#include "prog/new.h"
#include "prog/parse_slow.h"
#include "prog/reply.h"
#include "prog/sctp_csum.h"
#include "prog/sip.h"
#include "prog/sip_out.h"
#include "prog/tagged.h"
#include "timers/estimator.h"
#include "timers/expire.h"
#include "timers/lblc_cache.h"
#include "trace/entry.h"

enum { HEADERS = ETH_HLEN + IPV6_HLEN + TCP_HLEN, PACKET_HOST = 0 };

/* Return the daddr of a frame, in the lower 48 bits. */
INLINE u64 mac_of(const void *data, const void *end)
{
	return data + ETH_HLEN > end ? 0 : WORD_AT(const u64, data, 0) << 16 >> 16;
}

/* The general path, at both hooks. */
INLINE int receive(struct ctx ctx, const struct root *root)
{
	void *data = ctx_data(ctx), *end = ctx_data_end(ctx);
	const struct eth_header *ether = data;
	if ((void *)(ether + 1) > end)
		return finish_plain(ctx, PLAIN_NOT_IP);
	bool is_ipv6 = ether->h_proto == bpf_htons(ETH_P_IPV6);
	if (ctx.hook == HOOK_XDP && unlikely(ether->h_proto == bpf_htons(ETH_P_8021Q)))
		return finish(ctx, tail_call(ctx, PROG_TAGGED));
	if (!is_ipv6 && ether->h_proto != bpf_htons(ETH_P_IP))
		return finish_plain(ctx, PLAIN_NOT_IP);
	struct packet p = {.input = ctx_ifindex(ctx), .from_host = ctx.hook == HOOK_TC && ctx.skb->ifindex == loopback};
	if (ctx.hook == HOOK_XDP && !is_for_this_host(ether, p.input))
		return finish_plain(ctx, PLAIN_OTHER_HOST);
	if (p.from_host && for_stack(ctx.skb))
		return finish_by(ctx.hook, p.input, pass_counted(ctx.hook));
	enum parsed parsed = is_ipv6 ? parse6(ctx, data, end, &p, root) : parse4(ctx, data, end, &p, root);
	if (likely(parsed == PARSED_PLAIN)) {
		int verdict = NOT_STATELESS;
		bool has_rules = unlikely(p.syn) && unlikely(facts_of(root)->client_rules);
		u32 row = has_rules && ctx.hook == HOOK_TC && !is_traced() ? denied_at_tc(&p) : 0;
		u64 judged = has_rules && !row ? judge_syn(&p) : 0;
		u64 chosen = ctx.hook == HOOK_XDP && unlikely(p.syn) && !judged && !row && unlikely(may_be_stateless(ticks()))
				     ? choose_stateless(&p)
				     : 0;
		bool refused = row || (unlikely(judged) && judged != NOT_JUDGED);
		if (unlikely(p.syn) && (chosen || refused) && !find_connection(&p).connection)
			verdict = row	    ? drop_denied_at_tc(row)
				  : refused ? refuse_syn(&p, judged, mac_of(data, end), ctx.hook)
					    : fwd_stateless(ctx.xdp, &p, chosen);
		return finish_by(ctx.hook, p.input, likely(verdict == NOT_STATELESS) ? fwd_packet(ctx, &p, root) : verdict);
	}
	if (parsed == PARSED_FOREIGN)
		return finish_plain(ctx, PLAIN_NO_SERVICE);
	if (root->standby && slow_is_standby(ctx, &p, root))
		return finish_by(ctx.hook, p.input, pass_for(ctx.hook, REASON_STANDBY));
	return ctx.hook == HOOK_XDP ? pass_to_tc() : finish_by(ctx.hook, p.input, tail_call_with(ctx, &p, PROG_PARSE_SLOW));
}

/* Make the headers readable where the kernel has them in pages. */
INLINE void pull_headers(struct __sk_buff *skb)
{
	if (unlikely(ctx_data(tc_ctx(skb)) + HEADERS > ctx_data_end(tc_ctx(skb))) &&
	    skb->len > skb->data_end - skb->data)
		bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
}

INLINE int receive_xdp(struct xdp_md *xdp, const struct root *root)
{
	int verdict = fast(xdp, root, NULL);
	if (verdict == NOT_FAST)
		verdict = fast6(xdp, root, NULL);
	return likely(verdict != NOT_FAST) ? verdict : receive(xdp_ctx(xdp), root);
}

INLINE int receive_tc_untraced(struct __sk_buff *skb, const struct root *root)
{
	int verdict = fast_tc(skb, root);
	return likely(verdict != NOT_FAST) ? verdict : receive(tc_ctx(skb), root);
}

INLINE int receive_tc(struct __sk_buff *skb)
{
	const struct root *root = get_root();
	pull_headers(skb);
	call_tracer(tc_ctx(skb), root, TRACER_INGRESS);
	return receive_tc_untraced(skb, root);
}

/* Pass a packet of TC whose headers were not parsed. */
INLINE int pass_tc(struct __sk_buff *skb, u32 reason)
{
	return finish(tc_ctx(skb), pass_for(HOOK_TC, reason));
}

/* --- programs attached to devices --- */

SEC("xdp.frags")
int pylvs_xdp(struct xdp_md *xdp)
{
	const struct root *root = get_root();
	call_tracer(xdp_ctx(xdp), root, TRACER_INGRESS);
	return receive_xdp(xdp, root);
}

enum { VLAN_ID = 0xfff };

SEC("tc")
int pylvs_tc(struct __sk_buff *skb)
{
	if (skb->pkt_type != PACKET_HOST)
		return finish_plain(tc_ctx(skb), PLAIN_OTHER_HOST);
	const struct decided *decided = decided_by_xdp(skb);
	if (decided)
		return finish_decided(skb, decided);
	/* VLAN 0 is a priority alone (IEEE 802.1Q 9.6): the stack removes such a tag, too. */
	if (unlikely(skb->vlan_present) && (skb->vlan_tci & VLAN_ID || bpf_skb_vlan_pop(skb)))
		return pass_tc(skb, REASON_TAGGED);
	if (unlikely(!starts_at_link(skb)) && !restore_link(skb))
		return pass_tc(skb, REASON_UNSUPPORTED);
	return receive_tc(skb);
}

/* For devices without link headers: tunnels, VPNs, PPP. Prepend an empty one; the kernel removes it from packets that
 * pass to the stack. */
SEC("tc")
int pylvs_tc_bare(struct __sk_buff *skb)
{
	struct eth_header ether = {.h_proto = skb->protocol};
	if (skb->pkt_type != PACKET_HOST)
		return finish_plain(tc_ctx(skb), PLAIN_OTHER_HOST);
	if (ether.h_proto != bpf_htons(ETH_P_IP) && ether.h_proto != bpf_htons(ETH_P_IPV6))
		return finish_plain(tc_ctx(skb), PLAIN_NOT_IP);
	if (bpf_skb_change_head(skb, ETH_HLEN, 0) || bpf_skb_store_bytes(skb, 0, &ether, sizeof(ether), 0))
		return pass_tc(skb, REASON_UNSUPPORTED);
	return receive_tc(skb);
}

/* For devices by which replies of a real server on this host leave (prog/egress.h). */
SEC("tc")
int pylvs_tc_egress(struct __sk_buff *skb)
{
	if (skb->ingress_ifindex || skb->vlan_present)
		return finish_sent(pass_to_stack(HOOK_TC)); /* forwarded, not sent by this host */
	pull_headers(skb);
	call_tracer(tc_ctx(skb), get_root(), TRACER_EGRESS);
	return finish_sent(process_egress(skb));
}

/* --- programs of a session of `pylvs trace` (trace/entry.h) --- */

SEC("xdp.frags")
int xdp_trace(struct xdp_md *xdp)
{
	bool is_recorded = trace_begin(xdp_ctx(xdp), TRACE_XDP);
	return is_recorded ? receive(xdp_ctx(xdp), get_root())
			   : finish(xdp_ctx(xdp), tail_call(xdp_ctx(xdp), PROG_PLAIN));
}

SEC("tc")
int tc_trace(struct __sk_buff *skb)
{
	bool is_recorded = trace_begin(tc_ctx(skb), TRACE_TC);
	return is_recorded ? receive(tc_ctx(skb), get_root())
			   : finish(tc_ctx(skb), tail_call(tc_ctx(skb), PROG_PLAIN));
}

SEC("tc")
int tc_trace_egress(struct __sk_buff *skb)
{
	bool is_recorded = trace_begin(tc_ctx(skb), TRACE_TC_EGRESS);
	return finish_sent(is_recorded ? process_egress(skb) : tail_call(tc_ctx(skb), PROG_PLAIN_EGRESS));
}

SEC("xdp.frags")
int xdp_plain(struct xdp_md *xdp)
{
	return receive_xdp(xdp, get_root());
}

SEC("tc")
int tc_plain(struct __sk_buff *skb)
{
	return receive_tc_untraced(skb, get_root());
}

SEC("tc")
int tc_plain_egress(struct __sk_buff *skb)
{
	return finish_sent(process_egress(skb));
}

/* --- programs reached by tail call (ctx/tailcall.h); schedulers define their own by SCHEDULER --- */

PROG_XDP_AND_TC(new)
PROG_XDP_AND_TC(persist)
PROG_XDP_AND_TC(connect)
PROG_XDP_AND_TC(end_half_open)
PROG_XDP_AND_TC(hash_fallback)
PROG_XDP_AND_TC(reply)
PROG_XDP_AND_TC(encap)

SEC("xdp.frags")
int xdp_tagged(struct xdp_md *xdp)
{
	return finish(xdp_ctx(xdp), prog_tagged(xdp));
}

PROG_TC(parse_slow)

SEC("tc")
int tc_egress_slow(struct __sk_buff *skb)
{
	struct scratch *w = scratch_of(HOOK_TC);
	return finish_sent(w ? prog_egress_slow(skb, w, get_root()) : pass_to_stack(HOOK_TC));
}

PROG_TC(sip)
PROG_TC(sip_out)
PROG_TC(sip_open)
PROG_TC(sip_reply)
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

/* Python reads their types from BTF; no program uses them. */
const volatile struct constants constants __attribute__((used)) = {};
const volatile enum prog progs __attribute__((used)) = PROG_NEW;
const volatile enum rest_bits rests __attribute__((used)) = REST_PROTOCOL;

char _license[] SEC("license") = "Dual MIT/GPL";
