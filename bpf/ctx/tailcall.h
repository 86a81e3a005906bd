/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What is rarer than an established connection lives in programs of its own, reached by tail call.
 */
#pragma once
#include "ctx/ctx.h"

enum stage {
	STAGE_NEW, /* no connection, a SYN, or a connection whose destination went */
	STAGE_PERSIST, /* of a persistent service: ask the client's template before the scheduler */
	STAGE_CONNECT, /* a scheduler has chosen: make the connection and forward */
	STAGE_STATELESS, /* table full: forward by source hash */
	STAGE_REPLY, /* from a NAT real server */
	STAGE_ODD, /* TC: IPv4 options, IPv6 extension headers, rarer protocols, short transport headers */
	STAGE_FRAGMENT, /* TC: a fragment of a request or a reply */
	STAGE_ERROR, /* TC: an ICMP message that came in */
	STAGE_SPLIT, /* TC: cut a super-packet for a tunnel with a checksum */
	STAGE_WRAP, /* put a tunnel's headers in front, of GRE or GUE */
	STAGE_ERROR_CARRY, /* TC: an ICMP error about a connection: check it, rewrite it, send it on */
	STAGE_ERROR_TUNNEL, /* TC: an ICMP error about a tunnel's packet */
	STAGE_UNSERVED, /* TC: an answer of a NAT real server that belongs to no connection */
	STAGE_BYPASS, /* TC: a firewall mark's packet that goes on past the service, for want of a real server */
	STAGE_TROUBLE, /* TC: forward what needs the kernel's help or an error sent */
	STAGE_ICMP, /* TC: turn the packet into an ICMP error for its sender */
	STAGE_SUM, /* TC: compute the checksum of a UDP packet that came without */
	STAGE_CRC, /* TC: compute the checksum of an SCTP packet whose port was changed */
	STAGE_CUT, /* TC: cut the finished packet into fragments */
	STAGE_SCHEDULE, /* + enum scheduler */
	STAGES = 64,
};

#define PROGRAM_ARRAY(name) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_PROG_ARRAY); \
		MAP_UINT(max_entries, STAGES); \
		MAP_UINT(key_size, sizeof(u32)); \
		MAP_UINT(value_size, sizeof(u32)); \
	} name SEC(".maps")
PROGRAM_ARRAY(stages_xdp);
PROGRAM_ARRAY(stages_tc);

/* Go on in another program. What follows runs only if that program is missing: the packet goes to the stack. */
INLINE int go_on(void *ctx, enum hook hook, u32 stage)
{
	if (hook == HOOK_XDP)
		bpf_tail_call(ctx, &stages_xdp, stage);
	else
		bpf_tail_call(ctx, &stages_tc, stage);
	count(REASON_MISSED_STAGE);
	return to_stack(hook);
}
