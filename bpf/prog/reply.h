/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Answers of real servers that come in (IPVS-SEMANTICS 2.7, 7.3). NAT's get the virtual address back as their source;
 * they are forwarded as a router forwards, so only with ip_forward=1, or delivered where the client is this host. What
 * a router would answer with an error goes to the stack as it came: the kernel, too, looks at time to live and MTU
 * before IPVS does. Those of direct routing and tunnels that take this way are counted and go on by the stack.
 */
#pragma once
#include "conntrack/reply.h"
#include "fwd/conn.h"
#include "policy/martian.h"

INLINE u32 onward_length(void *ctx, const struct work *w, enum hook hook)
{
	return hook == HOOK_TC ? judged_length(ctx, w) : w->packet.length;
}

/* What no router would pass on. IPv4 fragments with DF are as long as they came when they leave. */
INLINE bool stuck(void *ctx, const struct work *w, const struct hop *hop, enum hook hook)
{
	const struct packet *p = &w->packet;
	bool cut = hook == HOOK_TC && p->odd & ODDITY_GATHERED;
	return p->ttl <= 1 || fit(onward_length(ctx, w, hook), hop->mtu, 0, p, cut) == FITS_NOT;
}

INLINE bool leads_on(const struct hop *hop)
{
	return hop->verdict == HOP_READY || hop->verdict == HOP_UNRESOLVED;
}

/* Of direct routing or a tunnel: the stack carries it, if it can. */
INLINE int pass_answer(void *ctx, const struct work *w, const struct answer *a, const struct hop *hop,
		       const struct root *root, u32 now, enum hook hook)
{
	const struct packet *p = &w->packet;
	bool passes = hop->verdict == HOP_LOCAL || (leads_on(hop) && !stuck(ctx, w, hop, hook));
	if (hook == HOOK_XDP)
		return passes ? to_tc() : to_stack(hook);
	if (passes && believable(ctx, p, hook))
		note_answer(a, p, root, now, hook);
	return hop->verdict == HOP_LOCAL ? to_stack(hook) : pass(ctx, p, hook);
}

/* Of NAT, to a client on this host. */
INLINE int deliver_answer(void *ctx, struct work *w, const struct answer *a, const struct root *root, u32 now,
			  enum hook hook)
{
	const struct packet *p = &w->packet;
	if (hook == HOOK_XDP)
		return to_tc();
	if (!p->whole)
		return dropped(hook, REASON_SHORT);
	if (!note_answer(a, p, root, now, hook))
		return dropped(hook, REASON_DYING);
	if (!nat(ctx, p, NAT_REPLY, &a->source, a->port, hook))
		return dropped(hook, REASON_SHORT);
	w->hop.verdict = HOP_LOCAL;
	w->replying = 1;
	if (p->protocol == PROTO_SCTP && a->port != port_from(p))
		return go_on(ctx, hook, STAGE_CRC);
	return to_own_client(ctx, p);
}

INLINE int forward_answer(void *ctx, struct work *w, const struct answer *a, struct hop *hop,
			  const struct root *root, u32 now, enum hook hook)
{
	struct packet *p = &w->packet;
	if (!leads_on(hop) || stuck(ctx, w, hop, hook))
		return pass(ctx, p, hook);
	bool fits = onward_length(ctx, w, hook) <= hop->mtu;
	bool plain = hop->verdict == HOP_READY && fits && !p->no_sum && !p->odd && p->whole;
	if (hook == HOOK_XDP && (!plain || !xdp_reaches(ctx, hop)))
		return to_tc();
	if (unlikely(!p->whole))
		return dropped(hook, REASON_SHORT);
	if (!note_answer(a, p, root, now, hook))
		return dropped(hook, REASON_DYING);
	if (hook == HOOK_XDP) {
		u64 live = READ_ONCE(root->live);
		note_entrance(ctx, a->destination, a->index, destination_flags(a->destination, live), SIDE_ANSWER, live);
	}
	if (hook == HOOK_TC && !plain) {
		w->replying = 1;
		w->chosen = a->index;
		w->reply_port = a->port;
		w->virtual_address = a->source;
		w->hop = *hop;
		return go_on(ctx, hook, STAGE_TROUBLE);
	}
	if (!trimmed(ctx, p, hook) || !direct(ctx, p, hop, hook) || !nat(ctx, p, NAT_REPLY, &a->source, a->port, hook))
		return dropped(hook, REASON_SHORT);
	return transmit(ctx, hop, p->six, hook);
}

INLINE int unknown_reply(void *ctx, const struct packet *p, const struct root *root, enum hook hook)
{
	if (root->settings.nat_icmp_send && has_ports(p->protocol))
		return hook == HOOK_XDP ? to_tc() : go_on(ctx, hook, STAGE_UNSERVED);
	return p->request ? go_on(ctx, hook, STAGE_NEW) : pass(ctx, p, hook);
}

INLINE int stage_reply(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	if (!w)
		return to_stack(hook);
	struct packet *p = &w->packet;
	u32 now = ticks();
	if (!facts_of(root)->services[p->six])
		return pass(ctx, p, hook);
	struct answer a;
	if (!find_answer(&a, p))
		return unknown_reply(ctx, p, root, hook);
	if (unlikely(answer_stands_by(&a, p, root)))
		return pass(ctx, p, hook);
	struct way_back way = {.anew = a.source, .input = input_device(ctx, hook), .six = p->six,
			       .reroute = a.masq && root->settings.snat_reroute};
	if (p->six) {
		way.client = p->tuple.v6.target;
		way.source = p->tuple.v6.source;
	} else {
		way.client.word[0] = p->tuple.v4.target;
		way.source.word[0] = p->tuple.v4.source;
	}
	bool asked;
	struct hop *hop = client_hop(ctx, hook, &way, now, &asked);
	if (!hop)
		return to_stack(hook);
	if (!a.masq)
		return pass_answer(ctx, w, &a, hop, root, now, hook);
	if (hop->verdict == HOP_LOCAL)
		return deliver_answer(ctx, w, &a, root, now, hook);
	return forward_answer(ctx, w, &a, hop, root, now, hook);
}
