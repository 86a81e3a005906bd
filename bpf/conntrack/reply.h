/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Find the connection of a real server's packet (IPVS-SEMANTICS 2.7 step 3). NAT servers send from their own address
 * and port, the others from the virtual ones.
 */
#pragma once
#include "conntrack/lookup.h"
#include "conntrack/update.h"
#include "fwd/account.h"
#include "policy/vrrp_role.h"

struct reply_conn {
	u32 slot;
	u32 index; /* of the destination */
	u64 *word;
	struct destination *destination;
	struct address saddr; /* the virtual address: saddr of the translated reply */
	be16 port;
	bool controlled;
	bool masq;
};

INLINE bool find_nat_reply(struct reply_conn *a, const struct packet *p)
{
	struct found found = found_at(find_reply_slot(&p->tuple, p->is_ipv6));
	if (!found.connection)
		return false;
	a->slot = found.slot;
	a->index = found.connection->destination;
	a->controlled = found.connection->flags & CONN_CONTROLLED;
	a->word = &found.connection->word;
	a->masq = true;
	virtual_of(a->slot, &a->saddr, &a->port, p->is_ipv6);
	return true;
}

INLINE bool find_plain_reply(struct reply_conn *a, const struct packet *p)
{
	union tuple request;
	tuple_reverse(&request, &p->tuple, p->is_ipv6);
	struct found found = find_tuple(&request, p->is_ipv6);
	struct connection *c = found.connection;
	if (!c || c->method == METHOD_MASQ)
		return false;
	a->slot = found.slot;
	a->index = c->destination;
	a->controlled = c->flags & CONN_CONTROLLED;
	a->masq = false;
	a->word = &c->word;
	return true;
}

INLINE bool find_reply(struct reply_conn *a, const struct packet *p)
{
	__builtin_memset(a, 0, sizeof(*a));
	if (!find_nat_reply(a, p) && !find_plain_reply(a, p))
		return false;
	a->destination = map_elem(destinations, a->index);
	if (is_traced() && a->destination)
		trace_server(a->index, method_in(destination_flags(a->destination, READ_ONCE(get_root()->live))),
			     a->masq ? packet_sport(p) : a->destination->port, TRACE_REPLY);
	return a->word && a->destination;
}

/* Whether the reply's virtual address is standby. */
INLINE bool reply_is_standby(const struct reply_conn *a, const struct packet *p, const struct root *root)
{
	if (likely(!root->standby))
		return false;
	struct address vip = {};
	if (a->masq)
		vip = a->saddr;
	else
		packet_saddr(&vip, p);
	return is_standby(root, &vip, p->is_ipv6);
}

/* Update state and counters. Return false if the connection is being removed. */
INLINE bool update_reply(const struct reply_conn *a, struct packet *p, const struct root *root, u32 now,
			 struct ctx ctx)
{
	u32 direction = direction_in(&root->settings, DIRECTION_OUTPUT);
	enum found_by by = a->masq ? BY_SERVER : BY_REVERSE;
	if (!update_state(a->word, a->slot, a->controlled, direction, by, p, a->index, facts_of(root), now, ctx.hook))
		return false;
	if (is_traced() && !is_dry() && a->word)
		trace_state(word_state(READ_ONCE(*a->word)), false);
	account_available(ctx, a->index, SIDE_REPLY, p, root);
	if (unlikely(a->controlled) && p->protocol == IPPROTO_UDP)
		assure(a->slot, ASSURED);
	return true;
}
