/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Data that a program leaves for the program that it tail-calls. There is one element for each CPU and hook.
 */
#pragma once
#include "abi/percpu.h"
#include "ctx/tailcall.h"
#include "lib/headers.h"
#include "parse/packet.h"

struct icmp_inner { /* the packet inside an ICMP error */
	union tuple tuple; /* saddr to daddr, as in the inner packet */
	u16 at; /* offset of its IP header in the frame */
	u16 l4; /* offset of its transport header */
	u8 protocol;
	u8 tos;
	u8 df;
	u8 later; /* not the first fragment */
	u8 known; /* the tuple is complete enough to find a connection */
	u8 pad[3];
};

enum icmp_side { SIDE_CLIENT, SIDE_SERVER /* server of NAT */, SIDE_PLAIN /* server of another method */ };

/* How a reassembled packet arrived: the sizes and offsets of its fragments (IPVS-SEMANTICS 7.1 end). */
enum {
	FRAG_WORDS = 32,
	FRAG_HEAD = 256,
	TO_STACK_AGAIN = 2,
	FOR_STACK = 0x7079, /* in tc_index: the packet re-enters for the stack */
};
struct frag_map {
	u32 largest; /* length of the longest fragment, with its IP headers */
	u32 df; /* IPv4: that fragment had DF */
	u32 length; /* of the payload */
	u32 first; /* bytes of the payload that the kernel's first buffer would hold */
	u32 longest; /* longest payload of the fragments behind those */
	u32 min_head; /* shortest IP headers of a fragment other than the first */
	u32 passing; /* daddr is another host's; TO_STACK_AGAIN: PROG_FRAGMENT re-injects it for the stack */
	u64 starts[FRAG_WORDS]; /* one bit for each 8 bytes: a fragment starts there */
};

/* What rules for firewall marks match beyond `struct packet`, and the state of their evaluation. */
struct mark_state {
	u32 mark;
	u32 known; /* bits of the mark that no filter of tc can have set before */
	u32 unsure; /* a rule matched on other bits */
	u32 next; /* next rule to evaluate */
	u32 device;
	u8 tcp_flags;
	u8 pad;
	u8 link[6];
};

/* IPv4 options. Offsets count from the start of the IP header; 0: not present. */
struct options {
	u8 bytes[64]; /* the header as it will be written */
	u32 size; /* of the header */
	u8 route_at; /* record route */
	u8 route_address_at; /* slot of record route for this host's address */
	u8 stamp_at; /* timestamps */
	u8 stamp_address_at;
	u8 stamped; /* the time was written */
	u8 ended;
	u8 changed;
	u8 pad[5];
};

/* The search for a Call-ID in the text of a SIP message. Positions count from the start of the text. */
struct call_scan {
	u32 reads; /* enum call_part */
	u32 at;
	u32 end; /* of the text */
	u32 from; /* where the search began */
	u32 start; /* of the Call-ID */
	u32 domain; /* of its part behind the "@" */
	u32 folded; /* its blanks are those of a continuation line */
};

struct scratch {
	struct packet packet;
	struct frag_map frags;
	u32 fragment; /* set by PROG_PARSE_SLOW for a fragment: its offset in bytes, plus 1 if more follow */
	u32 fragment_id;
	u32 fragment_at; /* IPv6: offset of its fragment header in the frame */
	u32 fragment_named_at; /* offset of the next-header byte that names the fragment header */
	struct options options;
	struct options echo; /* options of an ICMP error about it */
	u8 head[FRAG_HEAD + 8]; /* IP headers of every fragment, including an IPv6 fragment header */
	struct hop hop;
	struct address virtual_address; /* saddr of ICMP errors */
	u32 service;
	u32 generation; /* of the service's version */
	u32 service_flags;
	u32 list;
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd;
	u32 max_weight;
	u32 table; /* mh: which table of slots */
	u32 epoch; /* lblc, lblcr: see struct service_version */
	u32 epoch_tick;
	u32 destination; /* that the scheduler chose, or NO_INDEX */
	u32 method;
	u32 state; /* of the chosen destination: method and tunnel */
	u32 resolve; /* let the kernel's neighbour code send it */
	u32 scheduler;
	/* Schedulers keep here what later steps of bpf_loop read. On the stack the verifier of Linux 6.1 would assume
	 * the first step's values for all steps, and prune live branches. */
	u32 best; /* list index, or NO_INDEX */
	u32 best_load;
	s32 best_weight;
	u32 sum;
	u32 left;
	u32 timeout; /* persistence timeout in ticks */
	u32 netmask;
	u32 template; /* slot of the client's template, or NO_TEMPLATE */
	/* Destination of the connection that this packet replaces, which still counts it; or NO_INDEX. */
	u32 old_destination;
	u32 old_state;
	u32 half_open_ended; /* PROG_END_HALF_OPEN ran */
	u32 by_hash; /* schedule by PROG_HASH_FALLBACK */
	u32 opens; /* it may create a connection; else it may only continue a flow without one */
	u32 collisions; /* with another CPU that makes the same connection */
	u32 needs_template;
	be16 service_port;
	union tuple template_tuple;
	be16 port; /* port of the real server */
	be16 reply_port; /* new sport of a reply */
	u32 is_reply;
	u32 error_type; /* ICMP type */
	u32 error_code;
	u32 error_rest;
	u32 error_translated; /* IPVS would have sent it to the virtual address, and translated it for `destination` */
	u32 error_side; /* enum icmp_side: where the ICMP error came from */
	u32 icmp_transit; /* it is addressed to another host */
	struct icmp_inner inner;
	union tuple outer; /* tuple of an ICMP error while its inner packet is scheduled */
	u32 mtu; /* length of fragments; 0: send unfragmented */
	u32 mark; /* firewall mark of the service, or 0 */
	struct mark_state seen;
	u32 outer_is_ipv6; /* the frame leaves as IPv6 */
	u32 by_call; /* the template is that of the SIP call `call` */
	struct call call;
	struct call_scan scan;
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

enum icmp_error { ICMP_NO_ROUTE, ICMP_NO_PORT, ICMP_TTL_EXCEEDED, ICMP_TOO_BIG };

/* Choose the ICMP error that PROG_ICMP_SEND sends. */
INLINE void set_icmp_error(struct scratch *w, enum icmp_error error, u32 rest)
{
	bool is_ipv6 = w->packet.is_ipv6;
	u32 type = is_ipv6 ? ICMPV6_DEST_UNREACH : ICMP_DEST_UNREACH, code = 0;
	switch (error) {
	case ICMP_NO_ROUTE:
		code = is_ipv6 ? ICMPV6_ADDR_UNREACH : ICMP_HOST_UNREACH;
		break;
	case ICMP_NO_PORT:
		code = is_ipv6 ? ICMPV6_PORT_UNREACH : ICMP_PORT_UNREACH;
		break;
	case ICMP_TTL_EXCEEDED:
		type = is_ipv6 ? ICMPV6_TIME_EXCEED : ICMP_TIME_EXCEEDED;
		break;
	case ICMP_TOO_BIG:
		type = is_ipv6 ? ICMPV6_PKT_TOOBIG : ICMP_DEST_UNREACH;
		code = is_ipv6 ? 0 : ICMP_FRAG_NEEDED;
		break;
	}
	w->error_type = type;
	w->error_code = code;
	w->error_rest = rest;
	w->error_translated = false;
}

/* Deliver a translated reply to a client on this host. Its saddr is a local address, which IPv4 routing rejects on a
 * device with accept_local=0 (fib_validate_source). So the packet re-enters by lo, where pylvs sets accept_local, and
 * `receive` passes it to the stack. A packet that came in by lo already has its route. */
INLINE int to_own_client(struct __sk_buff *skb, const struct packet *p)
{
	u8 link[6] = {}; /* lo's: with another daddr the packet would count as another host's */
	if (p->is_ipv6 || p->from_host || bpf_skb_store_bytes(skb, 0, link, sizeof(link), 0))
		return pass_to_stack(HOOK_TC);
	skb->tc_index = FOR_STACK;
	return bpf_redirect(loopback, BPF_F_INGRESS);
}

/* Whether the packet re-enters for the stack. */
INLINE bool for_stack(struct __sk_buff *skb)
{
	if (likely(skb->tc_index != FOR_STACK))
		return false;
	skb->tc_index = 0;
	return true;
}

/* Pass the packet to the stack. A reassembled packet for another host re-enters as the fragments that arrived. */
INLINE int pass_packet(struct ctx ctx, const struct packet *p)
{
	struct scratch *w = scratch_of(HOOK_TC);
	if (ctx.hook == HOOK_XDP || !(p->slow_flags & SLOW_REASSEMBLED) || !w || !w->frags.passing)
		return pass_to_stack(ctx.hook);
	w->frags.passing = TO_STACK_AGAIN;
	return tail_call(ctx, PROG_FRAGMENT);
}
