/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Forward a packet by its connection: the last steps of every path through the director.
 *
 * XDP first checks that it can finish, then changes connection, counters and packet. Otherwise it passes the packet to
 * TC, unmodified. TC follows the kernel's order: count, then send or answer with an ICMP error (IPVS-SEMANTICS 2.3 step
 * 8, 7.1).
 */
#pragma once
#include "conntrack/lookup.h"
#include "conntrack/sync.h"
#include "conntrack/update.h"
#include "ctx/device.h"
#include "fwd/account.h"
#include "fwd/ipip.h"
#include "fwd/mss.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "policy/rp_filter.h"
#include "policy/standby.h"
#include "policy/vrrp_role.h"

struct real_server {
	struct destination *destination;
	u32 index;
	u32 method;
	u32 state; /* destination state in force */
	be16 port;
};

/* Return the longest packet that fits into an MTU with the headers that the method adds. */
INLINE u32 max_len_to(const struct real_server *t, u32 mtu)
{
	return max_len(t->method, t->state, t->destination->family == 6, mtu);
}

INLINE bool no_slowpath(struct ctx ctx, const struct packet *p, const struct real_server *t, const struct hop *hop,
			u32 max)
{
	return likely(hop->verdict == HOP_READY) && likely(p->ttl > 1) && !p->slow_flags && p->l4_complete &&
	       segment_length(ctx, p) <= max && !(t->method == METHOD_MASQ && p->no_csum) &&
	       !(t->method == METHOD_TUNNEL && tunnel_flags(t->state));
}

/* Whether XDP can forward the packet. If it is too long for the path of another client, its own path decides. */
INLINE bool xdp_can(struct xdp_md *ctx, const struct packet *p, const struct real_server *t, const struct hop *hop,
		    bool confirm, u32 now)
{
	u32 max = max_len_to(t, hop->mtu);
	if (unlikely(p->length > max))
		max = max_len_to(t, path_mtu(p, t->method, t->destination, hop, now));
	return likely(!confirm) && no_slowpath(xdp_ctx(ctx), p, t, hop, max) && xdp_reaches(p, hop);
}

/* Tail-call PROG_ENCAP for a tunnel other than IPIP. */
INLINE int encap_tunnel(struct ctx ctx, const struct packet *p, const struct real_server *t, const struct hop *hop)
{
	struct scratch *w = scratch_of(ctx.hook);
	if (!w)
		return pass_to_stack(ctx.hook);
	w->packet = *p;
	w->packet.counted = 1;
	note_owner(w, t->destination->service, t->destination->service_added);
	w->xmit.hop = *hop;
	w->chosen.destination = t->index;
	w->chosen.state = t->state;
	w->xmit.fragment_size = 0;
	w->xmit.resolve = 0;
	return tail_call(ctx, PROG_ENCAP) | END_COUNTED;
}

/* End a packet of a real server's service. */
INLINE int end_at(struct ctx ctx, const struct destination *d, int result)
{
	const struct owner owner = {d->service + 1, d->service_added};
	return end_of(ctx, &owner, result);
}

/* Drop a packet to this real server, for which it was counted. */
INLINE int drop_to(struct ctx ctx, const struct real_server *t, u32 reason)
{
	return end_at(ctx, t->destination, drop(ctx.hook, reason) | END_COUNTED);
}

/* Modify and send the packet. It was checked and counted before. */
INLINE int send(struct ctx ctx, const struct packet *p, const struct real_server *t, const struct hop *hop,
		const struct settings *settings)
{
	if (!trim_padding(ctx, p))
		return drop_to(ctx, t, REASON_TRUNCATED);
	clamp_mss(ctx, p, t->destination, get_root());
	if (t->method == METHOD_TUNNEL) {
		if (!dec_ttl(ctx, p))
			return drop_to(ctx, t, REASON_TRUNCATED);
		if (unlikely(t->state >> DESTINATION_TUNNEL))
			return encap_tunnel(ctx, p, t, hop);
		if (ctx.hook == HOOK_XDP && bpf_xdp_adjust_head(ctx.xdp, -(int)outer_hlen(t->destination)))
			return drop_to(ctx, t, REASON_NO_HEADROOM);
		if (!encapsulate(ctx, p, t->destination, hop, settings->pmtu_disc, false))
			return drop_to(ctx, t, REASON_NO_HEADROOM);
		return xmit(ctx, p, hop);
	}
	if (!fwd_direct(ctx, p, hop))
		return drop_to(ctx, t, REASON_TRUNCATED);
	if (t->method == METHOD_MASQ && !nat(ctx, p, NAT_REQUEST, &t->destination->address, t->port))
		return drop_to(ctx, t, REASON_TRUNCATED);
	return xmit(ctx, p, hop);
}

/* TC: tail-call PROG_FWD_SLOW for a packet that `send` cannot handle. It was counted before. */
INLINE int fwd_slow(struct __sk_buff *skb, const struct packet *p, const struct real_server *t)
{
	struct scratch *w = scratch_of(HOOK_TC);
	if (!w)
		return pass_to_stack(HOOK_TC);
	w->packet = *p;
	w->packet.counted = 1;
	note_owner(w, t->destination->service, t->destination->service_added);
	w->chosen.destination = t->index;
	w->chosen.method = t->method;
	w->chosen.state = t->state;
	w->chosen.port = t->port;
	w->xmit.is_reply = 0;
	return tail_call(tc_ctx(skb), PROG_FWD_SLOW) | END_COUNTED;
}

/* Count and forward a packet of a new connection, or without a connection. `slot`: that of the connection, or with
 * one-packet scheduling of its template; 0: none. */
INLINE int fwd_new(struct ctx ctx, const struct packet *p, struct real_server *t, const struct root *root, u32 now,
		   u32 connections, u32 slot)
{
	bool confirm;
	if (is_traced())
		trace_server(t->index, t->method, t->port, TRACE_NO_CHOICE);
	t->state = destination_flags(t->destination, READ_ONCE(root->live));
	struct hop *hop = destination_hop(ctx, t->index, t->destination, now, &confirm);
	if (!hop)
		return pass_to_stack(ctx.hook);
	if (ctx.hook == HOOK_XDP) {
		if (!xdp_can(ctx.xdp, p, t, hop, confirm, now)) {
			struct counters *c = counters_at(t->index);
			if (c)
				c->connections += connections; /* TC will count the packet */
			return pass_to_tc();
		}
	}
	account_request(ctx, t->index, p, connections);
	sync_conn(root, slot, SYNC_REQUEST, now);
	if (ctx.hook == HOOK_TC && !no_slowpath(ctx, p, t, hop, max_len_to(t, hop->mtu)))
		return fwd_slow(ctx.skb, p, t);
	return send(ctx, p, t, hop, &root->settings);
}

/* Whether the general path has let packets of this side be fast: requests since the last lookup of the hop, replies
 * within a second. */
INLINE bool is_fast(const struct percpu_destination *percpu, enum side side, u32 live, u32 now)
{
	return likely(percpu->ingress[side].live == live) &&
	       likely(now - (side == SIDE_REPLY ? percpu->reply_stamp : percpu->hop.stamp) < ticks_per_second);
}

VERIFIED_ONCE int write_ingress(const struct destination *d, u32 index, u32 input, u32 side, u64 live)
{
	struct percpu_destination *percpu = percpu_of(index);
	struct device *device = map_elem(devices, input & (DEVICES - 1));
	if (!percpu || !device || !d || (device->ifindex != input && input != NO_XDP))
		return 0;
	const struct facts *facts = facts_in(get_root(), live);
	struct fast_ingress *ingress = &percpu->ingress[side & 1];
	if (input == NO_XDP && is_fast(percpu, side & 1, live, ticks()))
		return 0; /* XDP keeps its device */
	if (ingress->input != input)
		change_input(index, side, HOOK_XDP, input);
	percpu->timeout_tcp = facts->timeouts[STATE_ESTABLISHED];
	percpu->timeout_udp = facts->timeouts[STATE_UDP];
	percpu->rip = d->address.word[0];
	if (!fib_gives_saddr)
		percpu->hop.saddr = d->saddr;
	if (side == SIDE_REPLY)
		percpu->reply_stamp = ticks();
	__builtin_memcpy(ingress->mac, device->mac, 6);
	ingress->family = d->family;
	ingress->live = live;
	return 0;
}

/* Let the following packets of this side take the fast path, if the destination keeps its connections. */
INLINE void allow_fast(struct ctx ctx, const struct hop *hop, const struct destination *d, u32 index, u32 state,
		       enum side side, u64 live)
{
	if (keeps_conns(state))
		write_ingress(d, index, fast_input(ctx, hop->ifindex), side, live);
}

/* Likewise for requests. Tunnels other than IPIP have no fast path. */
INLINE void allow_fast_request(struct ctx ctx, const struct hop *hop, const struct real_server *t, u64 live)
{
	if (hop->verdict == HOP_READY && !(t->state >> DESTINATION_TUNNEL))
		allow_fast(ctx, hop, t->destination, t->index, t->state, SIDE_REQUEST, live);
}

/* Forward a packet of a connection that this packet cannot replace. */
INLINE int fwd_known(struct ctx ctx, const struct packet *p, const struct found *found, const struct root *root,
		     u32 now)
{
	struct connection *c = found->connection;
	struct real_server t = {.index = c->destination, .method = c->method, .port = c->port};
	u64 live = READ_ONCE(root->live);
	u32 slot = found->slot;
	t.destination = map_elem(destinations, t.index);
	if (!t.destination) {
		if (c->method != METHOD_BYPASS || !facts_in(root, live)->services[p->is_ipv6])
			return pass_for(ctx.hook, REASON_NO_SERVICE); /* then IPVS has no hook of this family */
		return ctx.hook == HOOK_XDP ? pass_to_tc() : tail_call_with(ctx, p, PROG_BYPASS);
	}
	t.state = destination_flags(t.destination, live);
	if (unlikely(!serves_conns(t.state, &root->settings)))
		return tail_call_with(ctx, p, PROG_NEW);
	if (is_traced()) {
		trace_server(t.index, t.method, t.port, TRACE_EXISTING_CONNECTION);
		trace_state(word_state(READ_ONCE(c->word)), false);
	}
	bool confirm, masq = t.method == METHOD_MASQ;
	struct hop *hop = destination_hop(ctx, t.index, t.destination, now, &confirm);
	if (!hop)
		return pass_to_stack(ctx.hook);
	if (unlikely(hop->is_foreign_vip | is_spoofed(ctx, p))) {
		u32 reason = hop->is_foreign_vip ? REASON_NOT_LOCAL : REASON_SPOOFED;
		return end_at(ctx, t.destination, pass_for(ctx.hook, reason));
	}
	if (ctx.hook == HOOK_XDP && !xdp_can(ctx.xdp, p, &t, hop, confirm, now))
		return pass_to_tc();
	if (likely(!confirm))
		allow_fast_request(ctx, hop, &t, live);
	u32 direction = direction_in(&root->settings, masq ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY);
	bool controlled = c->flags & CONN_CONTROLLED;
	if (unlikely(!update_state(&c->word, slot, controlled, direction, BY_TUPLE, p, t.index, facts_in(root, live), now,
				   ctx.hook)))
		return end_at(ctx, t.destination, drop(ctx.hook, REASON_EXPIRING));
	if (is_traced() && !is_dry())
		trace_state(word_state(READ_ONCE(c->word)), false);
	account_request(ctx, t.index, p, 0);
	sync_conn(root, slot, SYNC_REQUEST, now);
	if (ctx.hook == HOOK_TC && unlikely(!no_slowpath(ctx, p, &t, hop, max_len_to(&t, hop->mtu))))
		return fwd_slow(ctx.skb, p, &t);
	return send(ctx, p, &t, hop, &root->settings);
}

/* Whether the daddr of a packet whose headers are not parsed yet is standby. */
INLINE bool slow_is_standby(struct ctx ctx, const struct packet *p, const struct root *root)
{
	void *header = ctx_data(ctx) + ETH_HLEN, *end = ctx_data_end(ctx);
	struct address daddr = {};
	if (p->is_ipv6) {
		struct ipv6_header *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		daddr = ip->daddr;
	} else {
		struct ipv4_header *ip = header;
		if ((void *)(ip + 1) > end)
			return false;
		daddr.word[0] = ip->daddr;
	}
	return is_standby(root, &daddr, p->is_ipv6);
}

INLINE int fwd_packet(struct ctx ctx, struct packet *p, const struct root *root)
{
	if (p->maybe_vip) {
		if (is_only_backup(root))
			return pass_for(ctx.hook, REASON_NO_SERVICE);
		if (unlikely(root->standby) && daddr_is_standby(p, root))
			return pass_for(ctx.hook, REASON_STANDBY);
		if (unlikely(p->syn))
			load_expiry_tick(&p->tuple, p->is_ipv6);
		struct found found = find_connection(p);
		if (likely(found.connection) && likely(!p->syn))
			return fwd_known(ctx, p, &found, root, ticks());
		p->no_conn = !found.connection;
	}
	return tail_call_with(ctx, p, p->maybe_rs ? PROG_REPLY : PROG_NEW);
}
