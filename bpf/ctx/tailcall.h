/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What is rarer than an established connection lives in programs of its own, reached by tail call.
 */
#pragma once
#include "ctx/ctx.h"

enum prog {
	PROG_NEW, /* no connection, a SYN, or a connection whose destination went */
	PROG_PERSIST, /* of a persistent service: ask the client's template before the scheduler */
	PROG_CONNECT, /* a scheduler has chosen: make the connection and forward */
	PROG_HASH_FALLBACK, /* table full: forward by source hash */
	PROG_REPLY, /* from a NAT real server */
	PROG_PARSE_SLOW, /* TC: IPv4 options, IPv6 extension headers, rarer protocols, short transport headers */
	PROG_DEFRAG, /* TC: a fragment of a request or a reply */
	PROG_ICMP_RECEIVE, /* TC: an ICMP message that came in */
	PROG_GSO_SEGMENT, /* TC: cut a super-packet for a tunnel with a checksum */
	PROG_ENCAP, /* put a tunnel's headers in front, of GRE or GUE */
	PROG_ICMP_FORWARD, /* TC: an ICMP error about a connection: check it, rewrite it, send it on */
	PROG_ICMP_TUNNEL, /* TC: an ICMP error about a tunnel's packet */
	PROG_NAT_ORPHAN, /* TC: an answer of a NAT real server that belongs to no connection */
	PROG_BYPASS, /* TC: a firewall mark's packet that goes on past the service, for want of a real server */
	PROG_FWD_SLOW, /* TC: forward what needs the kernel's help or an error sent */
	PROG_ICMP_SEND, /* TC: turn the packet into an ICMP error for its sender */
	PROG_UDP_CSUM, /* TC: compute the checksum of a UDP packet that came without */
	PROG_SCTP_CSUM, /* TC: compute the checksum of an SCTP packet whose port was changed */
	PROG_FRAGMENT, /* TC: cut the finished packet into fragments */
	PROG_SCHEDULE, /* + enum scheduler */
	PROGS = 64,
};

#define PROGRAM_ARRAY(name) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_PROG_ARRAY); \
		MAP_UINT(max_entries, PROGS); \
		MAP_UINT(key_size, sizeof(u32)); \
		MAP_UINT(value_size, sizeof(u32)); \
	} name SEC(".maps")
PROGRAM_ARRAY(stages_xdp);
PROGRAM_ARRAY(stages_tc);

/* Go on in another program. What follows runs only if that program is missing: the packet goes to the stack. */
INLINE int tail_call(struct ctx ctx, u32 prog)
{
	if (ctx.hook == HOOK_XDP)
		bpf_tail_call(ctx.raw, &stages_xdp, prog);
	else
		bpf_tail_call(ctx.raw, &stages_tc, prog);
	count(REASON_MISSED_STAGE);
	return pass_to_stack(ctx.hook);
}
