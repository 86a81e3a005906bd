/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_SIP_OUT: a packet of UDP from a NAT server, without a connection (IPVS-SEMANTICS 2.7 step 5, 5.6). If the
 * server's service has the persistence engine `sip`, the message begins a connection, as that of a client does. So
 * servers can begin calls, and with one-packet scheduling their replies get the virtual address.
 *
 * PROG_SIP_OUT reads packet, and leaves service, an empty template, chosen and reply. PROG_SIP_OPEN reads them, and
 * leaves chosen, service and reply for PROG_SIP_REPLY, which leaves the same as PROG_REPLY.
 */
#pragma once
#include "conntrack/template.h"
#include "lb/call_template.h"
#include "lb/nat_server.h"
#include "lb/service.h"
#include "lb/template.h"
#include "prog/reply.h"

/* Load the service of a destination if its real servers may begin connections. */
INLINE bool load_sip_service(struct service_match *found, const struct destination *d, u32 live)
{
	return load_service(found, slot_in_force(&d->service, live), live) && found->version->engine[0] &&
	       !found->version->mark && found->version->port;
}

/* Use the call's template if it names this server; else make one. */
INLINE bool join_call(struct __sk_buff *skb, struct scratch *w, const struct root *root, u32 server, u32 now)
{
	if (!set_call(skb, w))
		return false;
	struct found found = find_template(w);
	struct connection *template = found.connection;
	if (template) {
		struct destination *d = map_elem(destinations, template->destination);
		u32 flags = d ? destination_flags(d, READ_ONCE(root->live)) : 0;
		if (template->destination == server && is_valid_template(flags, root))
			w->template.slot = found.slot;
		else
			retire_template(w, &found);
	}
	if (w->template.slot == NO_TEMPLATE && make_template(w, root, now) != CREATED)
		return false;
	w->chosen.destination = server;
	if (!ref_template(w, now))
		w->template.slot = NO_TEMPLATE;
	return true;
}

/* Set the tuple of the request that this packet would be a reply to. */
INLINE void set_request(struct scratch *w)
{
	struct packet *p = &w->packet;
	tuple_reverse(&p->tuple, &w->own_tuple, p->is_ipv6);
	if (p->is_ipv6) {
		p->tuple.v6.daddr = w->reply.saddr;
		p->tuple.v6.dport = w->service.port;
	} else {
		p->tuple.v4.daddr = w->reply.saddr.word[0];
		p->tuple.v4.dport = w->service.port;
	}
}

/* Create the connection of the packet's request, unless it is for one packet. */
INLINE bool open_for_server(struct __sk_buff *skb, struct scratch *w, const struct root *root, u32 now)
{
	u32 server = w->chosen.destination;
	struct destination *d = map_elem(destinations, server);
	if (!d || (w->service.flags & SERVICE_PERSISTENT && !join_call(skb, w, root, server, now)))
		return false;
	struct control *control = w->template.slot != NO_TEMPLATE ? control_of(w->template.slot) : NULL;
	if (control)
		control->assured = ASSURED;
	if (w->service.flags & SERVICE_ONE_PACKET) {
		unref_template(w);
		count_one_packet(server);
		return true;
	}
	enum create_result result = create_conn(w, d, root, now);
	if (result != CREATED)
		unref_template(w);
	return result == CREATED || result == CREATE_EXISTS;
}

INLINE int prog_sip_open(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	w->own_tuple = p->tuple;
	set_request(w);
	bool is_open = open_for_server(skb, w, root, ticks());
	p->tuple = w->own_tuple;
	if (!is_open)
		return pass_orphan(tc_ctx(skb), p, root, false);
	struct counters *counters = counters_at(w->chosen.destination);
	if (counters)
		counters->connections += 1;
	return tail_call(tc_ctx(skb), PROG_SIP_REPLY);
}

/* Return the next hop of the packet if a router would forward it, else NULL. */
INLINE struct hop *sip_hop(struct __sk_buff *skb, const struct scratch *w, const struct reply_conn *a,
			   const struct root *root, u32 now)
{
	struct route_query query;
	set_route_query(&query, tc_ctx(skb), a, &w->packet, root);
	struct hop *hop = client_hop(tc_ctx(skb), &query, now, NULL);
	bool known = hop && (has_neighbour(hop) || hop->verdict == HOP_NOT_REROUTED);
	return known && !cannot_route(tc_ctx(skb), w, hop) ? hop : NULL;
}

/* One-packet scheduling makes no connection, and there is none if the client's port has one to another server. Then the
 * packet changes no state. */
INLINE int prog_sip_reply(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	u32 now = ticks();
	struct reply_conn a = {.index = w->chosen.destination,
			       .destination = map_elem(destinations, w->chosen.destination),
			       .saddr = w->reply.saddr,
			       .port = w->service.port,
			       .masq = true};
	if (!a.destination)
		return pass_to_stack(HOOK_TC);
	find_nat_reply(&a, &w->packet);
	struct hop *hop = sip_hop(skb, w, &a, root, now);
	return hop ? forward_reply(tc_ctx(skb), w, &a, hop, false, root, now)
		   : pass_packet(tc_ctx(skb), &w->packet, REASON_REPLY_UNSENT);
}

INLINE int prog_sip_out(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	u64 live = READ_ONCE(root->live);
	u32 server = nat_server_of(p, root, live);
	struct service_match match;
	struct destination *d = map_elem(destinations, server);
	if (!d || !load_sip_service(&match, d, live))
		return pass_orphan(tc_ctx(skb), p, root, false);
	struct reply_conn a = {.saddr = match.version->address, .masq = true};
	if (!sip_hop(skb, w, &a, root, ticks()))
		return pass_orphan(tc_ctx(skb), p, root, false);
	note_service(w, &match);
	w->reply.saddr = a.saddr;
	w->chosen.destination = server;
	w->chosen.method = METHOD_MASQ;
	w->chosen.port = packet_sport(p);
	w->template.by_call = false;
	return tail_call(tc_ctx(skb), PROG_SIP_OPEN);
}
