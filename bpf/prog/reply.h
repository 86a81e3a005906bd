/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_REPLY: packets of real servers (IPVS-SEMANTICS 2.7, 7.3). Replies of NAT get the virtual address as saddr. They
 * are forwarded like by a router, so only with ip_forward=1, or delivered to a client on this host. A reply that a
 * router would answer with an ICMP error passes to the stack unmodified: the kernel, too, checks TTL and MTU before
 * IPVS. With snat_reroute the route from the virtual address comes after that. Without one the reply is dropped.
 * Replies of other methods are counted, and pass to the stack.
 *
 * Reads packet and frags. Leaves chosen, reply and xmit for PROG_FWD_SLOW, xmit for PROG_SCTP_CSUM, chosen and error
 * for PROG_ICMP_SEND.
 */
#pragma once
#include "conntrack/reply.h"
#include "conntrack/reply_owner.h"
#include "ctx/device.h"
#include "fwd/client_hop.h"
#include "fwd/conn.h"
#include "lb/nat_server.h"
#include "policy/martian.h"

INLINE u32 fwd_length(struct ctx ctx, const struct scratch *w)
{
	return ctx.hook == HOOK_TC ? mtu_length(ctx.skb, w) : w->packet.length;
}

/* Reassembled IPv4 packets with DF leave in the fragments received. */
INLINE bool exceeds(struct ctx ctx, const struct scratch *w, u32 mtu)
{
	const struct packet *p = &w->packet;
	bool may_fragment = ctx.hook == HOOK_TC && p->slow_flags & SLOW_REASSEMBLED;
	return fit(fwd_length(ctx, w), mtu, 0, p, may_fragment) == FITS_NOT;
}

/* Whether a router would not forward it. */
INLINE bool cannot_route(struct ctx ctx, const struct scratch *w, const struct hop *hop)
{
	return w->packet.ttl <= 1 || exceeds(ctx, w, hop->link_mtu);
}

/* Count a reply of direct routing or a tunnel, which the stack then forwards. */
INLINE int pass_reply(struct ctx ctx, struct scratch *w, const struct reply_conn *a, const struct hop *hop,
		      const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	bool passes = hop->verdict == HOP_LOCAL || (has_neighbour(hop) && !cannot_route(ctx, w, hop));
	if (ctx.hook == HOOK_XDP)
		return passes ? pass_to_tc() : pass_for(ctx.hook, REASON_REPLY_UNSENT);
	if (passes && is_valid_saddr(ctx, p)) {
		update_reply(a, p, root, now, ctx);
		clamp_mss(ctx, p, a->destination, root);
	}
	u32 reason = passes ? REASON_REPLY_ROUTED : REASON_REPLY_UNSENT;
	return hop->verdict == HOP_LOCAL ? pass_for(ctx.hook, reason) : pass_packet(ctx, p, reason);
}

/* Translate a reply of NAT to a client on this host. */
INLINE int deliver_reply(struct ctx ctx, struct scratch *w, const struct reply_conn *a, const struct root *root,
			 u32 now)
{
	struct packet *p = &w->packet;
	if (ctx.hook == HOOK_XDP)
		return pass_to_tc();
	if (!p->l4_complete)
		return drop(ctx.hook, REASON_TRUNCATED);
	if (!update_reply(a, p, root, now, ctx))
		return drop(ctx.hook, REASON_EXPIRING);
	clamp_mss(ctx, p, a->destination, root);
	if (!nat(ctx, p, NAT_REPLY, &a->saddr, a->port))
		return drop(ctx.hook, REASON_TRUNCATED);
	w->xmit.hop.verdict = HOP_LOCAL;
	w->xmit.is_reply = 1;
	if (p->protocol == IPPROTO_SCTP && a->port != packet_sport(p))
		return tail_call(ctx, PROG_SCTP_CSUM);
	return to_own_client(ctx.skb, p);
}

/* The route from the virtual address has a smaller MTU. IPVS has translated the packet before, so the kernel addresses
 * the error to the virtual address, and IPVS translates it. */
INLINE int reject_rerouted(struct __sk_buff *skb, struct scratch *w, const struct reply_conn *a, u32 mtu)
{
	struct packet *p = &w->packet;
	dec_ttl(tc_ctx(skb), p);
	if (p->is_ipv6)
		p->tuple.v6.daddr = a->saddr; /* from which the error comes */
	else
		p->tuple.v4.daddr = a->saddr.word[0];
	set_icmp_error(w, REASON_TOO_BIG, ICMP_TOO_BIG, mtu);
	w->error.translated = true;
	w->chosen.destination = a->index;
	return tail_call(tc_ctx(skb), PROG_ICMP_SEND);
}

INLINE int forward_reply(struct ctx ctx, struct scratch *w, const struct reply_conn *a, struct hop *hop,
			 bool confirm, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	bool rerouted = likely(hop->verdict != HOP_NOT_REROUTED);
	if ((rerouted && !has_neighbour(hop)) || cannot_route(ctx, w, hop))
		return pass_packet(ctx, p, REASON_REPLY_UNSENT);
	if (!rerouted)
		return drop(ctx.hook, REASON_NO_ROUTE);
	bool fits = fwd_length(ctx, w) <= hop->mtu;
	bool plain = hop->verdict == HOP_READY && fits && !p->no_csum && !p->slow_flags && p->l4_complete;
	if (ctx.hook == HOOK_XDP && (!plain || confirm || !xdp_reaches(p, hop)))
		return pass_to_tc();
	if (unlikely(!p->l4_complete))
		return drop(ctx.hook, REASON_TRUNCATED);
	if (!update_reply(a, p, root, now, ctx))
		return drop(ctx.hook, REASON_EXPIRING);
	if (ctx.hook == HOOK_TC && unlikely(exceeds(ctx, w, hop->mtu)))
		return reject_rerouted(ctx.skb, w, a, hop->mtu);
	if (plain && likely(!confirm)) {
		u64 live = READ_ONCE(root->live);
		allow_fast(ctx, hop, a->destination, a->index, destination_flags(a->destination, live), SIDE_REPLY,
			   live);
	}
	if (ctx.hook == HOOK_TC && !plain) {
		w->xmit.is_reply = 1;
		w->chosen.destination = a->index;
		w->reply.sport = a->port;
		w->reply.saddr = a->saddr;
		w->xmit.hop = *hop;
		return tail_call(ctx, PROG_FWD_SLOW);
	}
	clamp_mss(ctx, p, a->destination, root);
	if (!trim_padding(ctx, p) || !fwd_direct(ctx, p, hop) || !nat(ctx, p, NAT_REPLY, &a->saddr, a->port))
		return drop(ctx.hook, REASON_TRUNCATED);
	return xmit(ctx, p, hop);
}

/* A packet of no connection, from the address of a NAT server. */
INLINE int pass_orphan(struct ctx ctx, const struct packet *p, const struct root *root, bool is_referenced)
{
	if (!is_referenced && root->settings.nat_icmp_send && has_ports(p->protocol))
		return ctx.hook == HOOK_XDP ? pass_to_tc() : tail_call(ctx, PROG_NAT_ORPHAN);
	if (p->maybe_vip)
		return tail_call(ctx, PROG_NEW);
	const struct owner none = {};
	return ctx.hook == HOOK_XDP ? pass_decided(ctx, &none, REASON_NO_REPLY_FLOW)
				    : pass_packet(ctx, p, REASON_NO_REPLY_FLOW);
}

INLINE int unmatched_reply(struct ctx ctx, const struct packet *p, const struct root *root)
{
	if (regain_replies(&p->tuple, p->is_ipv6))
		return tail_call(ctx, PROG_REPLY);
	bool may_come = may_be_copied(ticks()), is_referenced = may_come && !p->from_host;
	if (is_referenced && !p->maybe_vip)
		return drop(ctx.hook, REASON_REFUSED_TABLE_COPY);
	if (ctx.hook == HOOK_TC && may_come && p->from_host && is_of_nat_server(p))
		return drop(ctx.hook, REASON_REFUSED_TABLE_COPY);
	if (!facts_of(root)->services[p->is_ipv6] && !p->maybe_vip)
		return pass_packet(ctx, p, REASON_NO_SERVICE);
	if (!is_referenced && unlikely(facts_of(root)->engines) && p->protocol == IPPROTO_UDP)
		return ctx.hook == HOOK_XDP ? pass_to_tc() : tail_call(ctx, PROG_SIP_OUT);
	return pass_orphan(ctx, p, root, is_referenced);
}

/* Set the route of a reply. */
INLINE void set_route_query(struct route_query *query, struct ctx ctx, const struct reply_conn *a,
			    const struct packet *p, const struct root *root)
{
	*query = (struct route_query){.new_saddr = a->saddr,
				    .input = ctx_ifindex(ctx),
				    .is_ipv6 = p->is_ipv6,
				    .reroute = a->masq && root->settings.snat_reroute};
	packet_daddr(&query->client, p);
	packet_saddr(&query->saddr, p);
}

INLINE int prog_reply(struct ctx ctx, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	u32 now = ticks();
	struct reply_conn a;
	if (!find_reply(&a, p))
		return unmatched_reply(ctx, p, root);
	note_owner(w, a.destination->service, a.destination->service_added);
	if (unlikely(is_spoofed(ctx, p)))
		return pass_packet(ctx, p, REASON_SPOOFED);
	if (unlikely(reply_is_standby(&a, p, root)))
		return pass_packet(ctx, p, REASON_STANDBY);
	struct route_query query;
	set_route_query(&query, ctx, &a, p, root);
	bool confirm;
	struct hop *hop = client_hop(ctx, &query, now, &confirm);
	if (!hop)
		return pass_to_stack(ctx.hook);
	if (!a.masq)
		return pass_reply(ctx, w, &a, hop, root, now);
	if (hop->verdict == HOP_LOCAL)
		return deliver_reply(ctx, w, &a, root, now);
	return forward_reply(ctx, w, &a, hop, confirm, root, now);
}
