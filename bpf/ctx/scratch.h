/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What one program leaves for the next that it tail-calls, per CPU and hook.
 */
#pragma once
#include "abi/percpu.h"
#include "ctx/tailcall.h"
#include "parse/packet.h"

struct icmp_inner { /* the packet that an ICMP error is about */
	union tuple tuple; /* source to target, as quoted */
	u16 at; /* offset of its IP header in the frame */
	u16 l4; /* of what follows that */
	u8 protocol;
	u8 tos;
	u8 df;
	u8 later; /* a fragment, but not the first */
	u8 known; /* the tuple could be a connection's */
	u8 pad[3];
};

enum icmp_side { SIDE_CLIENT, SIDE_SERVER /* of NAT */, SIDE_PLAIN /* server's side, other methods */ };

/* How a packet that came in fragments came (IPVS-SEMANTICS 7.1 end). */
enum { FRAG_WORDS = 32, FRAG_HEAD = 256, TO_STACK_AGAIN = 2,
       FOR_STACK = 0x7079 /* tc_index of what comes in once more, for the stack */ };
struct frag_map {
	u32 largest; /* longest fragment, with its IP headers */
	u32 df; /* IPv4: it had DF */
	u32 length; /* of the payload */
	u32 first; /* bytes of it that the kernel's first buffer would hold */
	u32 longest; /* fragment behind that */
	u32 least_head; /* shortest IP headers of a fragment that is not the first */
	u32 passing; /* its target is not this host; TO_STACK_AGAIN: PROG_FRAGMENT shall send it round, for the stack */
	u64 starts[FRAG_WORDS]; /* a bit for each 8 bytes: a fragment starts there */
};

/* What the classifier's rules ask about that `struct packet` does not tell, and what they have said so far. */
struct mark_state {
	u32 mark;
	u32 known; /* bits of the mark that do not depend on what tc did before */
	u32 unsure; /* a rule asked for others */
	u32 next; /* rule to be asked */
	u32 device;
	u8 tcp_flags;
	u8 pad;
	u8 link[6];
};

/* IPv4 options of the packet; places count from the start of its IP header, 0: none. */
struct options {
	u8 bytes[64]; /* the header as it is to be written */
	u32 size; /* of the header */
	u8 route_at; /* record route */
	u8 route_address_at; /* for this host's address */
	u8 stamp_at; /* timestamps */
	u8 stamp_address_at;
	u8 stamped; /* the time was written */
	u8 ended;
	u8 changed;
	u8 pad[5];
};

struct scratch {
	struct packet packet;
	struct frag_map pieces;
	u32 fragment; /* PROG_PARSE_SLOW found a fragment: its offset in bytes, 1 added if more follow */
	u32 fragment_id;
	u32 fragment_at; /* IPv6: place of its fragment header in the frame */
	u32 fragment_named_at; /* and of the byte that names that */
	struct options options;
	struct options echo; /* of an error about it */
	u8 head[FRAG_HEAD + 8]; /* headers that all fragments begin with, an IPv6 fragment header last */
	struct hop hop;
	struct address virtual_address; /* source of ICMP errors */
	u32 service;
	u32 service_flags;
	u32 list;
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd;
	u32 max_weight;
	u32 table; /* mh */
	u32 epoch; /* lblc, lblcr */
	u32 epoch_tick;
	u32 destination; /* that the scheduler chose, or NO_INDEX */
	u32 method;
	u32 state; /* of the chosen destination: its tunnel */
	u32 resolve; /* the kernel's neighbour code shall send it */
	u32 upper;
	u32 lower;
	u32 scheduler;
	/* What a scheduler's steps read of steps before them stands here, where no verifier follows it: of the stack, Linux
	 * 6.1 believes at every step what it was at the first, and leaves out the branches that are then never taken. */
	u32 best; /* place in the list, or NO_INDEX */
	u32 best_load;
	s32 best_weight;
	u32 sum;
	u32 left;
	u32 timeout; /* of persistence, in ticks */
	u32 netmask;
	u32 template; /* slot of the client's template, or NO_TEMPLATE */
	u32 old_destination; /* destination whose connection this packet ended, and that still counts it; or NO_INDEX */
	u32 old_state;
	be16 service_port;
	union tuple template_tuple;
	be16 port; /* of the real server */
	be16 reply_port; /* of a reply's new source */
	u32 is_reply;
	u32 error_type; /* of ICMP */
	u32 error_code;
	u32 error_rest;
	u32 error_side; /* which side an ICMP error came from */
	u32 icmp_transit; /* it is to another host */
	struct icmp_inner inner;
	union tuple outer; /* of an ICMP error, while its quote is being scheduled */
	u32 mtu; /* to cut at */
	u32 mark; /* of the service, if it is one of a firewall mark */
	struct mark_state seen;
	u32 outer_is_ipv6; /* the frame as it leaves is IPv6 */
};

#define NO_INDEX 0xffffffffu
#define NO_TEMPLATE 0xffffffffu

PERCPU_MAP(works, struct scratch, 2);

struct copy {
	u8 bytes[COPY_BYTES];
};

PERCPU_MAP(copies, struct copy, 1);

INLINE struct scratch *scratch_of(enum hook hook)
{
	return map_elem(works, hook);
}

INLINE int tail_call_with(struct ctx ctx, const struct packet *p, u32 prog)
{
	struct scratch *w = scratch_of(ctx.hook);
	if (!w)
		return pass_to_stack(ctx.hook);
	w->packet = *p;
	return tail_call(ctx, prog);
}

/* A translated answer to a client on this host. Its source is an address of this host, which IPv4 routing refuses from
 * a device whose accept_local is 0 (fib_validate_source). So it comes in once more by lo, where packets have such
 * sources and pylvs sets accept_local; `receive` leaves it to the stack there. What came by lo has its route already. */
INLINE int to_own_client(struct __sk_buff *skb, const struct packet *p)
{
	u8 link[6] = {}; /* lo's: other packets would count as another host's */
	if (p->is_ipv6 || p->from_host || bpf_skb_store_bytes(skb, 0, link, sizeof(link), 0))
		return pass_to_stack(HOOK_TC);
	skb->tc_index = FOR_STACK;
	return bpf_redirect(loopback, BPF_F_INGRESS);
}

/* The stack shall have it. What came in fragments and is for another host goes there as it came. */
INLINE int pass_packet(struct ctx ctx, const struct packet *p)
{
	struct scratch *w = scratch_of(HOOK_TC);
	if (ctx.hook == HOOK_XDP || !(p->slow_flags & SLOW_REASSEMBLED) || !w || !w->pieces.passing)
		return pass_to_stack(ctx.hook);
	w->pieces.passing = TO_STACK_AGAIN;
	return tail_call(ctx, PROG_FRAGMENT);
}
