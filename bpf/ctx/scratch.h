/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What programs hand over to the program that they tail-call: one structure for each hand-over. There is one element
 * for each CPU and hook. The head of each program's file says what it reads here and what it leaves.
 */
#pragma once
#include "abi/percpu.h"
#include "ctx/tailcall.h"
#include "lib/headers.h"
#include "parse/packet.h"

/* --- the parser --> programs of fragments, programs that send --- */

/* A fragment, as PROG_PARSE_SLOW and PROG_EGRESS_SLOW find it: for PROG_DEFRAG. */
struct frag_header {
	u32 frag_off; /* its offset in bytes, plus 1 if more follow; 0: the packet is no fragment */
	u32 id;
	u32 at; /* IPv6: offset of its fragment header in the frame */
	u32 named_at; /* offset of the next-header byte that names the fragment header */
};

/* How a reassembled packet arrived: the sizes and offsets of its fragments (IPVS-SEMANTICS 7.1 end). PROG_DEFRAG leaves
 * it for the programs that send. */
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

/* IPv4 options. Offsets count from the start of the IP header; 0: not present. PROG_PARSE_SLOW leaves them for the
 * programs that send the packet or an ICMP error about it. */
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

/* --- PROG_NEW --> PROG_PERSIST --> scheduler --> PROG_CONNECT --- */

/* The version of the service that was in force, for all programs until PROG_CONNECT. */
struct scheduled_service {
	u32 slot;
	u32 generation;
	u32 flags;
	u32 list;
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd;
	u32 max_weight;
	u32 table; /* mh, sh: index of the table in force */
	u32 epoch; /* lblc, lblcr: see struct service_version */
	u32 epoch_tick;
	u32 scheduler;
	u32 timeout; /* of persistence, in ticks */
	u32 netmask;
	u32 mark; /* firewall mark of the service, or 0 */
	be16 port;
};

/* The state of a new flow, from PROG_NEW to PROG_CONNECT, PROG_BYPASS and the programs that return there. */
struct new_flow {
	/* Destination of the connection that this packet replaces, which still counts it; or NO_INDEX. */
	u32 old_destination;
	u32 old_state;
	u32 half_open_ended; /* PROG_END_HALF_OPEN ran */
	u32 by_hash; /* schedule by PROG_HASH_FALLBACK */
	u32 opens; /* it may create a connection; else it may only continue a flow without one */
	u32 collisions; /* with another CPU that makes the same connection */
	u32 client_rules; /* the set of client rules that limits the client; 0: none does */
	u64 opened_ns; /* before the connection is made, if it is logged; else 0 */
	/* Of the connection that was created, or with one-packet scheduling of its template; or of the one that an ICMP
	 * error is about; 0: none. */
	u32 slot;
};

/* The client's template: from PROG_PERSIST, PROG_SIP or PROG_SIP_OPEN to PROG_CONNECT. */
struct scheduled_template {
	u32 slot; /* or NO_TEMPLATE */
	u32 by_call; /* it is that of the SIP call `call` */
	union tuple tuple;
	struct call call;
};

/* --- a scheduler, a template or a connection --> programs that forward --- */

/* The real server: for PROG_CONNECT, PROG_ENCAP, PROG_FWD_SLOW and PROG_ICMP_FORWARD. */
struct chosen_server {
	u32 destination; /* or NO_INDEX */
	u32 method;
	u32 state; /* state of the destination in force: method and tunnel */
	be16 port;
};

/* The new saddr and sport of a NAT server's packet: from PROG_REPLY, PROG_SIP_OUT or PROG_ICMP_RECEIVE. */
struct nat_reply {
	struct address saddr;
	be16 sport;
};

/* How to send a packet: for PROG_FWD_SLOW, and from it for PROG_ENCAP, PROG_UDP_CSUM, PROG_SCTP_CSUM, PROG_FRAGMENT. */
struct xmit {
	struct hop hop;
	u32 fragment_size; /* 0: send unfragmented */
	u32 is_ipv6; /* the frame leaves as IPv6 */
	u32 is_reply;
	u32 resolve; /* let the kernel's neighbour code send it */
};

/* --- ICMP errors (icmp/error.h) --- */

/* An ICMP error to send: for PROG_ICMP_SEND. PROG_ICMP_RECEIVE leaves a received one here for PROG_ICMP_TUNNEL. */
struct icmp_message {
	u32 type;
	u32 code;
	u32 rest;
	u32 translated; /* IPVS would have sent it to the virtual address, and translated it for the chosen server */
	u32 reason; /* enum reason by which the packet ends; REASON_NONE: the packet becomes the error */
};

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

/* A received ICMP error: from PROG_ICMP_RECEIVE to PROG_ICMP_FORWARD, perhaps by PROG_NEW, and to PROG_FWD_SLOW. */
struct received_icmp {
	u32 side; /* enum icmp_side: where it came from */
	u32 transit; /* it is addressed to another host */
	struct icmp_inner inner;
	union tuple reversed; /* buffer: the ends of the inner tuple swapped */
};

/* --- buffers: only the program that fills one reads it --- */

/* Schedulers keep here what later steps of bpf_loop read. On the stack the verifier of Linux 6.1 would assume the first
 * step's values for all steps, and prune live branches. */
struct sched_loop {
	u32 best; /* list index, or NO_INDEX */
	u32 best_load;
	s32 best_weight;
	u32 sum;
	u32 left;
	/* searches of winner trees (lb/search.h), and draws from them: */
	u32 list;
	u32 count;
	u32 at; /* of a walk: its first list index; of a tree: the next node */
	s32 min_weight;
};

/* PROG_NEW: what rules for firewall marks match beyond `struct packet`, and the state of their evaluation. */
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

/* The options of a SYN whose MSS is clamped. */
struct tcp_options {
	u8 bytes[40];
	u32 size;
	u32 at; /* of the next option */
	u32 mss_at; /* of the value of option MSS; 0: there is none */
};

struct scratch {
	struct packet packet; /* for all programs */
	struct owner owner; /* of the packet, for its end */
	struct scheduled_service service;
	struct new_flow flow;
	struct chosen_server chosen;
	struct sched_loop loop;
	struct nat_reply reply;
	struct xmit xmit;
	struct scheduled_template template;
	struct frag_header fragment;
	struct options options;
	struct frag_map frags;
	struct icmp_message error;
	struct received_icmp received;
	u32 passes_by; /* enum reason of a reassembled packet that PROG_FRAGMENT re-injects for the stack */
	union tuple own_tuple; /* the packet's, while that of an ICMP error's inner packet or of a request replaces it */
	struct mark_state marks;
	struct call_scan scan;
	struct options echo; /* PROG_ICMP_SEND: options of the error */
	struct tcp_options tcp_options;
	u8 head[FRAG_HEAD + 8]; /* PROG_FRAGMENT: IP headers of every fragment, including an IPv6 fragment header */
};

#define NO_INDEX 0xffffffffu
#define NO_TEMPLATE 0xffffffffu

PERCPU_MAP(scratches, struct scratch, 2);

struct copy {
	u8 bytes[COPY_BYTES];
};

PERCPU_MAP(copies, struct copy, 1);

INLINE struct scratch *scratch_of(enum hook hook)
{
	return map_elem(scratches, hook);
}

INLINE int tail_call_with(struct ctx ctx, const struct packet *p, u32 prog)
{
	struct scratch *w = scratch_of(ctx.hook);
	if (!w)
		return pass_to_stack(ctx.hook);
	w->packet = *p;
	w->owner = (struct owner){};
	return tail_call(ctx, prog);
}

/* Note the service of the packet, for its end. */
INLINE void note_owner(struct scratch *w, u32 service, u32 added)
{
	w->owner = (struct owner){service + 1, added};
}

enum icmp_error { ICMP_NO_ROUTE, ICMP_NO_PORT, ICMP_TTL_EXCEEDED, ICMP_TOO_BIG };

/* Choose the ICMP error that PROG_ICMP_SEND sends about the packet, which ends by the reason. */
INLINE void set_icmp_error(struct scratch *w, u32 reason, enum icmp_error error, u32 rest)
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
	w->error.type = type;
	w->error.code = code;
	w->error.rest = rest;
	w->error.translated = false;
	w->error.reason = reason;
}

/* Deliver a translated reply to a client on this host. Its saddr is a local address, which IPv4 routing rejects on a
 * device with accept_local=0 (fib_validate_source). So the packet re-enters by lo, where pylvs sets accept_local, and
 * `receive` passes it to the stack. A packet that came in by lo already has its route. */
INLINE int to_own_client(struct __sk_buff *skb, const struct packet *p)
{
	u8 link[6] = {}; /* lo's: with another daddr the packet would count as another host's */
	trace_sent(tc_ctx(skb), 0);
	if (p->is_ipv6 || p->from_host || bpf_skb_store_bytes(skb, 0, link, sizeof(link), 0))
		return pass_counted(HOOK_TC);
	skb->tc_index = FOR_STACK;
	if (is_traced())
		trace_end(TRACE_PASSED);
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
INLINE int pass_packet(struct ctx ctx, const struct packet *p, u32 reason)
{
	struct scratch *w = scratch_of(HOOK_TC);
	if (ctx.hook == HOOK_XDP || !(p->slow_flags & SLOW_REASSEMBLED) || !w || !w->frags.passing)
		return pass_for(ctx.hook, reason);
	w->frags.passing = TO_STACK_AGAIN;
	w->passes_by = reason;
	return tail_call(ctx, PROG_FRAGMENT);
}
