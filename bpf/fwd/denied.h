/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A SYN of a client that a rule denies, of a service that has denied another SYN in this tick: a flood of them costs
 * little. The first one of a tick takes the general path (fwd/refused.h), which notes the service in
 * `denied_syns.services`. It decides the same as this file, and decides whatever this file leaves to it.
 *
 * The longest prefix of a set of rules says which clients have the same rule. `denied_syns.networks` remembers those that
 * are denied, because a search of the trie costs as much as all the rest. An edit changes the generation, which
 * invalidates both.
 *
 * One increment counts such a SYN. It moves to the other counters when another service, or another device, gets the row.
 */
#pragma once
#include "conntrack/table.h"
#include "ctx/ended.h"
#include "policy/client_rules.h"

/* Client and service of a SYN, and its ingress device. IPv4: the addresses are in the first words. */
struct syn {
	u64 client[2];
	u64 address[2];
	u32 hash; /* of `address`, in the bitmaps */
	u32 port; /* as in struct denying_service */
	u32 input;
	be16 sport;
};

INLINE void syn_of(struct syn *to, const struct packet *p, const struct root *root)
{
	const u64 *words = addresses_of6(&p->tuple.v6);
	bool is_ipv6 = p->is_ipv6;
	to->client[0] = is_ipv6 ? words[0] : p->tuple.v4.saddr;
	to->client[1] = is_ipv6 ? words[1] : 0;
	to->address[0] = is_ipv6 ? words[2] : p->tuple.v4.daddr;
	to->address[1] = is_ipv6 ? words[3] : 0;
	to->hash = is_ipv6 ? address_hash6(root->address_keys, to->address[0], to->address[1])
			   : address_hash4(root->address_keys, to->address[0]);
	to->port = packet_dport(p) | (is_ipv6 ? DENYING_IPV6 : 0);
	to->input = p->input;
	to->sport = packet_sport(p);
}

INLINE u32 denying_number(const struct syn *syn)
{
	return (syn->hash ^ syn->port ^ syn->port >> 8) % DENYING_SERVICES;
}

/* Return this CPU's row of a service. */
INLINE struct denying_service *denying_row(struct denied_syns *all, const struct syn *syn)
{
	return &barrier_var(all)->services[denying_number(syn)];
}

INLINE u64 valid_now(u32 live)
{
	return live | (u64)ticks() << 32;
}

/* Return 0 if the row is valid for the SYN. */
INLINE u64 difference_of_row(const struct denying_service *row, const struct syn *syn, u32 live)
{
	u64 last = syn->port & DENYING_IPV6 ? row->address[1] ^ syn->address[1] : 0;
	return (row->address[0] ^ syn->address[0]) | last | (row->valid ^ valid_now(live)) | (row->port ^ syn->port) |
	       (row->input ^ syn->input);
}

INLINE u64 name_of_network(be32 network, u32 slot)
{
	return network | (u64)slot << 32;
}

/* Return the entry of a network of IPv4, which another network may have. */
INLINE struct denied_network *denied_network(struct denied_syns *all, u64 name)
{
	u32 position = (name * 0x9e3779b97f4a7c15ULL) >> (64 - DENIED_NETWORKS_BITS);
	return &barrier_var(all)->networks[position & ((1 << DENIED_NETWORKS_BITS) - 1)];
}

/* Return 1 if the trie has a rule that denies all connections of a client, else 0. Remember its network. */
VERIFIED_ONCE u32 search_denied(u64 first, u64 last, const struct denying_service *row, u32 live)
{
	struct address client = {.word = {first, first >> 32, last, last >> 32}};
	struct denied_syns *all = map_elem(denied_syns, 0);
	const struct client_rule *rule = row ? client_rule_of(&client, row->slot, row->set) : NULL;
	if (!all || !rule || rule->action != CLIENT_DROP || rule->interval_ns)
		return 0;
	if (row->port & DENYING_IPV6)
		return 1;
	u64 name = name_of_network(client.word[0] & row->mask, row->slot);
	*denied_network(all, name) = (struct denied_network){name, live};
	return 1;
}

/* Whether a rule denies all connections of the client. */
INLINE bool is_denied(struct denied_syns *all, const struct denying_service *row, const struct syn *syn, u32 live)
{
	if (!(syn->port & DENYING_IPV6)) {
		u64 name = name_of_network(syn->client[0] & row->mask, row->slot);
		const struct denied_network *known = denied_network(all, name);
		if (likely(!((known->name ^ name) | (known->live ^ live))))
			return true;
	}
	return search_denied(syn->client[0], syn->client[1], row, live);
}

/* Move the SYNs that a row has counted to the other counters. Those of a deleted service count without it. */
VERIFIED_ONCE int move_denied(struct denying_service *row)
{
	u64 packets = row ? row->denied : 0;
	if (!packets)
		return 0;
	struct device_packets *device = device_row(row->input);
	u64 *reason = map_elem(reasons, REASON_CLIENT_DENIED);
	struct service *service = map_elem(services, row->slot);
	if (device)
		device->ended[END_DROPPED] += packets;
	if (reason)
		*reason += packets;
	if (service && version_in_force(service, READ_ONCE(get_root()->live))->added == row->added)
		add_for_service(row->slot, row->added, REASON_CLIENT_DENIED, packets);
	row->denied = 0;
	return 0;
}

INLINE be32 mask_of_bits(u32 bits)
{
	return bits && bits < 32 ? bpf_htonl(~0u << (32 - bits)) : ~0u;
}

/* Note that a rule of this version denies the SYN, and count it. `mac` is the daddr of its frame. */
INLINE void note_denied(const struct syn *syn, u32 slot, const struct service_version *v, u64 mac, u32 live)
{
	struct denied_syns *all = map_elem(denied_syns, 0);
	if (!all)
		return;
	struct denying_service *row = denying_row(all, syn);
	if (row->slot != slot || row->added != v->added || row->input != syn->input)
		move_denied(row);
	row->address[0] = syn->address[0];
	row->address[1] = syn->address[1];
	row->valid = valid_now(live);
	row->mac = mac;
	row->input = syn->input;
	row->port = syn->port;
	row->slot = slot;
	row->set = v->client_rules;
	row->added = v->added;
	row->mask = mask_of_bits(v->rule_bits);
	row->denied += 1;
}

/* Return the row of a SYN that came by XDP and is denied, or NULL: the general path decides. The caller has compared
 * the VRRP role, and searches the connection. `mac` is the daddr of its frame, and two bytes more. */
INLINE struct denying_service *denied_at_xdp(const struct syn *syn, u64 mac, u32 ttl, const struct root *root)
{
	struct denied_syns *all = map_elem(denied_syns, 0);
	u32 live = READ_ONCE(root->live);
	if (!all)
		return NULL;
	struct denying_service *row = denying_row(all, syn);
	if (difference_of_row(row, syn, live) | (row->mac ^ mac) << 16)
		return NULL;
	row = AFTER(row, (u64)live);
	if (ttl <= 1 || syn->sport == bpf_htons(PORT_FTP_DATA) || is_only_backup(root) ||
	    !is_denied(all, row, syn, live))
		return NULL;
	return row;
}

/* Return the number of a SYN's row, plus 1, if it came by TC and is denied; 0: the general path decides. The caller
 * searches the connection: in Linux 6.1 the stack has no space for that here. */
VERIFIED_ONCE u32 denied_at_tc(const struct packet *p)
{
	const struct root *root = get_root();
	struct denied_syns *all = map_elem(denied_syns, 0);
	u32 live = READ_ONCE(root->live);
	struct syn syn;
	if (!all || !p || !may_be_plain_syn(p) || root->standby || is_only_backup(root))
		return 0;
	syn_of(&syn, p, root);
	struct denying_service *row = denying_row(all, &syn);
	if (difference_of_row(row, &syn, live))
		return 0;
	row = AFTER(row, (u64)live);
	return is_denied(all, row, &syn, live) ? denying_number(&syn) + 1 : 0;
}

/* Count the SYN, and drop it. */
INLINE int drop_denied_at_tc(u32 row)
{
	struct denied_syns *all = map_elem(denied_syns, 0);
	if (all)
		barrier_var(all)->services[(row - 1) % DENYING_SERVICES].denied += 1;
	return TC_SHOT;
}
