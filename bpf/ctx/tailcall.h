/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Programs reached by tail call: everything rarer than an established connection. The order of their numbers does not
 * matter to a running director, because each load fills the arrays anew.
 */
#pragma once
#include "ctx/ctx.h"

enum prog {
	PROG_NEW, /* no connection, a SYN, or a connection without destination */
	PROG_PERSIST, /* persistent service: look up the client's template before scheduling */
	PROG_SIP, /* TC: likewise, by the Call-ID of a SIP message */
	PROG_SIP_OUT, /* TC: a SIP message of a NAT server without a connection */
	PROG_SIP_OPEN, /* TC: create its connection */
	PROG_SIP_REPLY, /* TC: translate and forward it */
	PROG_CONNECT, /* the scheduler has chosen: create the connection and forward */
	PROG_END_HALF_OPEN, /* the table fills: end a half-open connection first */
	PROG_HASH_FALLBACK, /* schedule by a hash of the flow, because the table is or was full */
	PROG_REPLY, /* a packet of a real server */
	PROG_TAGGED, /* XDP: a frame with an 802.1Q tag */
	PROG_PARSE_SLOW, /* TC: IPv4 options, IPv6 extension headers, rarer protocols, short transport headers */
	PROG_EGRESS_SLOW, /* TC egress: likewise, of a real server on this host */
	PROG_DEFRAG, /* TC: a fragment of a request or a reply */
	PROG_ICMP_RECEIVE, /* TC: a received ICMP message */
	PROG_GSO_SEGMENT, /* TC: segment a GSO packet for a tunnel with a checksum, or for GUE */
	PROG_ENCAP, /* prepend the headers of GRE or GUE */
	PROG_ICMP_FORWARD, /* TC: an ICMP error about a connection: verify, rewrite, forward */
	PROG_ICMP_TUNNEL, /* TC: an ICMP error about a packet that the director encapsulated */
	PROG_NAT_ORPHAN, /* TC: a NAT server's packet without a connection */
	PROG_BYPASS, /* TC: a firewall mark's packet, forwarded past the service for want of a real server */
	PROG_FWD_SLOW, /* TC: forward with the kernel's help, or send an ICMP error */
	PROG_ICMP_SEND, /* TC: turn the packet into an ICMP error to its sender */
	PROG_UDP_CSUM, /* TC: compute the checksum of a UDP packet that has none */
	PROG_SCTP_CSUM, /* TC: compute the checksum of an SCTP packet whose port changed */
	PROG_FRAGMENT, /* TC: fragment the finished packet */
	PROG_TRACE, /* a packet that the filter of `pylvs trace` selected; this and the next three are in its arrays alone */
	PROG_TRACE_EGRESS, /* likewise at TC egress */
	PROG_PLAIN, /* another packet: the entry program, without a filter before it */
	PROG_PLAIN_EGRESS, /* likewise at TC egress */
	PROG_SCHEDULE, /* + enum scheduler: the schedulers */
	PROGS = 64,
};

#define PROGRAM_ARRAY(name) \
	struct { \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, PROGS); \
		__uint(key_size, sizeof(u32)); \
		__uint(value_size, sizeof(u32)); \
	} name SEC(".maps")
PROGRAM_ARRAY(tailcalls_xdp);
PROGRAM_ARRAY(tailcalls_tc);

/* Tail-call a program. It returns only if that program is missing: then the packet passes to the stack. A traced packet
 * is dropped: the session ends at this moment, and the kernel has emptied its arrays. The stack might answer a packet of
 * a connection with a RST. */
INLINE int tail_call(struct ctx ctx, u32 prog)
{
	if (ctx.hook == HOOK_XDP)
		bpf_tail_call(ctx.xdp, &tailcalls_xdp, prog);
	else
		bpf_tail_call(ctx.skb, &tailcalls_tc, prog);
	if (is_traced())
		return drop(ctx.hook, REASON_MISSED_TAIL_CALL);
	if (ctx.hook == HOOK_XDP)
		count(REASON_MISSED_TAIL_CALL); /* TC counts the packet's end */
	return pass_for(ctx.hook, REASON_MISSED_TAIL_CALL);
}
