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

INLINE u32 onward_length(void *ctx, const struct scratch *w, enum hook hook)
{
	return hook == HOOK_TC ? judged_length(ctx, w) : w->packet.length;
}

/* What no router would pass on. IPv4 fragments with DF are as long as they came when they leave. */
INLINE bool cannot_route(void *ctx, const struct scratch *w, const struct hop *hop, enum hook hook)
{
	const struct packet *p = &w->packet;
	bool cut = hook == HOOK_TC && p->slow_flags & SLOW_REASSEMBLED;
	return p->ttl <= 1 || fit(onward_length(ctx, w, hook), hop->mtu, 0, p, cut) == FITS_NOT;
}

INLINE bool is_routable(const struct hop *hop)
{
	return hop->verdict == HOP_READY || hop->verdict == HOP_UNRESOLVED;
}

/* Of direct routing or a tunnel: the stack carries it, if it can. */
INLINE int pass_reply(void *ctx, const struct scratch *w, const struct reply_conn *a, const struct hop *hop,
		       const struct root *root, u32 now, enum hook hook)
{
	const struct packet *p = &w->packet;
	bool passes = hop->verdict == HOP_LOCAL || (is_routable(hop) && !cannot_route(ctx, w, hop, hook));
	if (hook == HOOK_XDP)
		return passes ? pass_to_tc() : pass_to_stack(hook);
	if (passes && is_valid_source(ctx, p, hook))
		update_reply(a, p, root, now, hook);
	return hop->verdict == HOP_LOCAL ? pass_to_stack(hook) : pass_packet(ctx, p, hook);
}

/* Of NAT, to a client on this host. */
INLINE int deliver_reply(void *ctx, struct scratch *w, const struct reply_conn *a, const struct root *root, u32 now,
			  enum hook hook)
{
	const struct packet *p = &w->packet;
	if (hook == HOOK_XDP)
		return pass_to_tc();
	if (!p->l4_complete)
		return drop(hook, REASON_SHORT);
	if (!update_reply(a, p, root, now, hook))
		return drop(hook, REASON_DYING);
	if (!nat(ctx, p, NAT_REPLY, &a->source, a->port, hook))
		return drop(hook, REASON_SHORT);
	w->hop.verdict = HOP_LOCAL;
	w->is_reply = 1;
	if (p->protocol == IPPROTO_SCTP && a->port != packet_sport(p))
		return tail_call(ctx, hook, PROG_SCTP_CSUM);
	return to_own_client(ctx, p);
}

INLINE int forward_reply(void *ctx, struct scratch *w, const struct reply_conn *a, struct hop *hop,
			  const struct root *root, u32 now, enum hook hook)
{
	struct packet *p = &w->packet;
	if (!is_routable(hop) || cannot_route(ctx, w, hop, hook))
		return pass_packet(ctx, p, hook);
	bool fits = onward_length(ctx, w, hook) <= hop->mtu;
	bool plain = hop->verdict == HOP_READY && fits && !p->no_csum && !p->slow_flags && p->l4_complete;
	if (hook == HOOK_XDP && (!plain || !xdp_reaches(ctx, hop)))
		return pass_to_tc();
	if (unlikely(!p->l4_complete))
		return drop(hook, REASON_SHORT);
	if (!update_reply(a, p, root, now, hook))
		return drop(hook, REASON_DYING);
	if (hook == HOOK_XDP) {
		u64 live = READ_ONCE(root->live);
		allow_fast(ctx, a->destination, a->index, destination_flags(a->destination, live), SIDE_ANSWER, live);
	}
	if (hook == HOOK_TC && !plain) {
		w->is_reply = 1;
		w->chosen = a->index;
		w->reply_port = a->port;
		w->virtual_address = a->source;
		w->hop = *hop;
		return tail_call(ctx, hook, PROG_FWD_SLOW);
	}
	if (!trim_padding(ctx, p, hook) || !direct(ctx, p, hop, hook) || !nat(ctx, p, NAT_REPLY, &a->source, a->port, hook))
		return drop(hook, REASON_SHORT);
	return xmit(ctx, hop, p->is_ipv6, hook);
}

INLINE int unmatched_reply(void *ctx, const struct packet *p, const struct root *root, enum hook hook)
{
	if (root->settings.nat_icmp_send && has_ports(p->protocol))
		return hook == HOOK_XDP ? pass_to_tc() : tail_call(ctx, hook, PROG_NAT_ORPHAN);
	return p->maybe_vip ? tail_call(ctx, hook, PROG_NEW) : pass_packet(ctx, p, hook);
}

INLINE int prog_reply(void *ctx, enum hook hook)
{
	struct scratch *w = scratch_of(hook);
	struct root *root = get_root();
	if (!w)
		return pass_to_stack(hook);
	struct packet *p = &w->packet;
	u32 now = ticks();
	if (!facts_of(root)->services[p->is_ipv6])
		return pass_packet(ctx, p, hook);
	struct reply_conn a;
	if (!find_reply(&a, p))
		return unmatched_reply(ctx, p, root, hook);
	if (unlikely(reply_is_standby(&a, p, root)))
		return pass_packet(ctx, p, hook);
	struct reply_route way = {.anew = a.source, .input = ctx_ifindex(ctx, hook), .is_ipv6 = p->is_ipv6,
			       .reroute = a.masq && root->settings.snat_reroute};
	if (p->is_ipv6) {
		way.client = p->tuple.v6.target;
		way.source = p->tuple.v6.source;
	} else {
		way.client.word[0] = p->tuple.v4.target;
		way.source.word[0] = p->tuple.v4.source;
	}
	bool asked;
	struct hop *hop = client_hop(ctx, hook, &way, now, &asked);
	if (!hop)
		return pass_to_stack(hook);
	if (!a.masq)
		return pass_reply(ctx, w, &a, hop, root, now, hook);
	if (hop->verdict == HOP_LOCAL)
		return deliver_reply(ctx, w, &a, root, now, hook);
	return forward_reply(ctx, w, &a, hop, root, now, hook);
}
