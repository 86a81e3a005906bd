/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Next hops to clients of NAT, and of packets that this host routes. Each client has a route, which names the next hop.
 * Clients behind one router share it, so many of them fit into the cache.
 */
#pragma once
#include "conntrack/key.h"
#include "ctx/device.h"
#include "fwd/nexthop.h"

/* The route of a reply to a client of NAT. */
struct route_query {
	struct address client;
	struct address saddr; /* saddr as received */
	struct address new_saddr; /* saddr as it leaves: the virtual address */
	u32 input; /* ingress device; 0: sent by this host */
	bool is_ipv6;
	bool reroute; /* snat_reroute: route as if this host sent from the new saddr (IPVS-SEMANTICS 7.3) */
};

enum { CLIENT_HOP_CONFIRM = 1u << 31 };

/* Return a slot for a next hop. Behind the last one is a buffer of the CPU for a next hop that others cannot use. */
INLINE struct client_hop *client_hop_at(u32 index)
{
	struct client_hops *some = map_elem(client_hops, index / HOPS);
	return some ? &barrier_var(some)->of[index % HOPS] : NULL;
}

/* Look up the next hop to a client. */
INLINE void lookup_client(struct ctx ctx, struct hop *hop, const struct route_query *query)
{
	hop->mtu = ~0u;
	if (query->input)
		lookup_hop(ctx, hop, &query->client, query->is_ipv6, query->input, &query->saddr);
	hop->link_mtu = hop->mtu;
	if (!query->reroute || (query->input && !has_neighbour(hop)))
		return;
	lookup_hop(ctx, hop, &query->client, query->is_ipv6, loopback, &query->new_saddr);
	if (hop->mtu > hop->link_mtu)
		hop->mtu = hop->link_mtu;
	if (query->input && !has_neighbour(hop))
		hop->verdict = HOP_NOT_REROUTED;
}

INLINE bool is_reusable(const struct client_hop *slot, u32 input)
{
	return slot->ifindex == input && (slot->hop.verdict == HOP_READY || slot->hop.verdict == HOP_LOCAL);
}

/* --- routes to clients of NAT ---
 *
 * A route is in one of two sets. The first one depends on the client alone, so it arrives together with the connection.
 * The second one also depends on the saddr: a client can be a proxy that uses very many services. Both are keyed, so
 * clients cannot choose addresses of one set. With one round of the hash, 7 keys of 100 would put many of 65,536
 * neighbouring addresses into the same sets. */

INLINE u32 route_set_of(u64 hash)
{
	return (finish_hash(hash) >> 32) * route_sets >> 32;
}

INLINE struct client_route_set *client_route_set(u32 set)
{
	struct client_routes *some = map_elem(client_routes, set / ROUTE_SETS);
	return some ? &barrier_var(some)->of[set % ROUTE_SETS] : NULL;
}

INLINE struct client_route_set *first_routes4(be32 client)
{
	return client_route_set(route_set_of(client * table_key.seeds[0]));
}

INLINE struct client_route_set *second_routes4(be32 client, be32 saddr)
{
	return client_route_set(route_set_of(client * table_key.seeds[0] + saddr * table_key.seeds[1]));
}

/* Return the route in a set; NULL if it is missing or old. No branch selects it, because none can be predicted. */
INLINE struct client_route *route_in(struct client_route_set *set, be32 client, be32 saddr, u32 now)
{
	u64 key = client | (u64)saddr << 32;
	u32 which = 0;
	if (!set)
		return NULL;
#pragma unroll
	for (u32 i = 1; i < ROUTE_WAYS; i++) {
		u64 other = WORD_AT(u64, &set->way[i], 0) ^ key;
		which |= i & (is_nonzero(other) - 1);
	}
	struct client_route *route = &set->way[barrier_var(which) & (ROUTE_WAYS - 1)];
	if (unlikely(WORD_AT(u64, route, 0) != key) || unlikely(now - route->stamp >= ticks_per_second))
		return NULL;
	return route;
}

INLINE struct client_route *find_client_route(be32 client, be32 saddr, u32 now)
{
	struct client_route *route = route_in(first_routes4(client), client, saddr, now);
	return likely(route) ? route : route_in(second_routes4(client, saddr), client, saddr, now);
}

/* Store a route in a set: where it was, or instead of the oldest one. Return false if that is another young route,
 * because too many clients of one set would be looked up in turn. */
INLINE bool store_route(struct client_route_set *set, const struct client_route *route)
{
	u32 oldest = 0;
	bool same = false;
	if (!set)
		return false;
#pragma unroll
	for (u32 i = 0; i < ROUTE_WAYS; i++) {
		same = set->way[i].client == route->client && set->way[i].saddr == route->saddr;
		if (same) {
			oldest = i;
			break;
		}
		if (route->stamp - set->way[i].stamp > route->stamp - set->way[oldest & (ROUTE_WAYS - 1)].stamp)
			oldest = i;
	}
	struct client_route *chosen = &set->way[barrier_var(oldest) & (ROUTE_WAYS - 1)];
	if (!same && route->stamp - chosen->stamp < ticks_per_second)
		return false;
	*chosen = *route;
	return true;
}

/* Set the key of a client's route. Two source addresses have the same hash with a probability of 2^-32. */
INLINE void set_route_key6(u64 *key, const struct address *client, const struct address *saddr)
{
	key[0] = client->word[0] | (u64)client->word[1] << 32;
	key[1] = client->word[2] | (u64)client->word[3] << 32;
	key[2] = nh(saddr->word[0] | (u64)saddr->word[1] << 32, SEED_OTHER) +
		 nh(saddr->word[2] | (u64)saddr->word[3] << 32, SEED_OTHER + 1);
}

INLINE struct client_route6_set *client_route6_set(u32 set)
{
	struct client_routes6 *some = map_elem(client_routes6, set / ROUTE_SETS);
	return some ? &barrier_var(some)->of[set % ROUTE_SETS] : NULL;
}

INLINE struct client_route6_set *first_routes6(const u64 *key)
{
	return client_route6_set(route_set_of(nh_client(key[0], key[1])));
}

INLINE struct client_route6_set *second_routes6(const u64 *key)
{
	return client_route6_set(route_set_of(nh_client(key[0], key[1]) + key[2]));
}

INLINE u64 difference_of_route6(const struct client_route6 *route, const u64 *key)
{
	return (route->key[0] ^ key[0]) | (route->key[1] ^ key[1]) | (route->key[2] ^ key[2]);
}

/* As `route_in`. */
INLINE struct client_route6 *route6_in(struct client_route6_set *set, const u64 *key, u32 now)
{
	if (!set)
		return NULL;
	u32 which = 1 - is_nonzero(difference_of_route6(&set->way[1], key));
	struct client_route6 *route = &set->way[barrier_var(which) & (ROUTE_WAYS6 - 1)];
	if (unlikely(difference_of_route6(route, key)) || unlikely(now - route->stamp >= ticks_per_second))
		return NULL;
	return route;
}

INLINE struct client_route6 *find_client_route6(const u64 *key, u32 now)
{
	struct client_route6 *route = route6_in(first_routes6(key), key, now);
	return likely(route) ? route : route6_in(second_routes6(key), key, now);
}

/* As `store_route`. */
INLINE bool store_route6(struct client_route6_set *set, const struct client_route6 *route)
{
	if (!set)
		return false;
	bool is_first = !difference_of_route6(&set->way[0], route->key);
	bool is_second = !difference_of_route6(&set->way[1], route->key);
	bool second_is_older = route->stamp - set->way[1].stamp > route->stamp - set->way[0].stamp;
	struct client_route6 *chosen = is_second || (!is_first && second_is_older) ? &set->way[1] : &set->way[0];
	if (!is_first && !is_second && route->stamp - chosen->stamp < ticks_per_second)
		return false;
	*chosen = *route;
	return true;
}

INLINE bool has_hop(const struct client_hop *slot, const struct hop *hop, u32 input)
{
	const u64 *there = (const u64 *)&slot->hop, *words = (const u64 *)hop;
	u64 other = slot->ifindex ^ input ^ slot->hop.ifindex ^ hop->ifindex;
#pragma unroll
	for (u32 i = 1; i < sizeof(*hop) / 8; i++) /* without the stamp and ifindex */
		other |= there[i] ^ words[i];
	return !other;
}

/* Store a next hop where all clients find it that have the same one: in one of two slots. Return its index, perhaps
 * with CLIENT_HOP_CONFIRM, or that of the buffer if both have others in use. The hash is keyed, because a client on the
 * link is its own next hop. */
VERIFIED_ONCE u32 share_hop(const struct hop *hop, u32 input)
{
	if (!hop)
		return hop_slots;
	const u64 *gateway = (const u64 *)&hop->gateway;
	u64 route = hop->ifindex ^ input ^ (u64)hop->mtu << 32;
	u64 hash = finish_hash(nh_client(gateway[0], gateway[1]) + nh(route, SEED_REST));
	u32 index = (hash >> 32) * hop_slots >> 32, second = (u64)(u32)hash * hop_slots >> 32;
	struct client_hop *slot = client_hop_at(index), *other = client_hop_at(second);
	if (!slot || !other)
		return hop_slots;
	bool there = has_hop(slot, hop, input), is_other = has_hop(other, hop, input);
	if (!there && (is_other || hop->stamp - other->hop.stamp > hop->stamp - slot->hop.stamp)) {
		slot = other;
		index = second;
		there = is_other;
	}
	if (!there) {
		if (slot->hop.verdict != HOP_UNKNOWN && hop->stamp - slot->hop.stamp < ticks_per_second)
			return hop_slots;
		slot->version += 1;
		slot->ifindex = input;
	}
	bool confirm = is_confirm_due(slot->hop.stamp, hop->stamp);
	slot->hop = *hop;
	return confirm ? index | CLIENT_HOP_CONFIRM : index;
}

/* Look up and share the next hop to a client. Return its index: that of the buffer if others cannot use it. */
INLINE u32 share_lookup(struct ctx ctx, const struct route_query *query, u16 *version)
{
	struct client_hop *buffer = client_hop_at(hop_slots);
	if (!buffer)
		return hop_slots;
	lookup_client(ctx, &buffer->hop, query);
	buffer->hop.saddr = (struct address){}; /* of the route from this host, which the packet does not have */
	buffer->ifindex = query->input;
	if (!is_reusable(buffer, query->input))
		return hop_slots;
	u32 shared = share_hop(&buffer->hop, query->input);
	struct client_hop *slot = client_hop_at(shared & ~CLIENT_HOP_CONFIRM);
	*version = slot ? slot->version : 0;
	return shared;
}

/* Whether the next hop of a route is the one that was stored for it, and may be used again. */
INLINE bool is_in_force(u32 hop, u16 version, u32 input)
{
	struct client_hop *slot = client_hop_at(hop);
	return slot && (u16)slot->version == version && is_reusable(slot, input);
}

INLINE u32 client_hop_index4(struct ctx ctx, const struct route_query *query, u32 now)
{
	be32 client = query->client.word[0], saddr = query->reroute ? query->new_saddr.word[0] : query->saddr.word[0];
	struct client_route *known = find_client_route(client, saddr, now);
	if (known && is_in_force(known->hop, known->version, query->input))
		return known->hop;
	u16 version = 0;
	u32 shared = share_lookup(ctx, query, &version);
	struct client_route route = {client, saddr, now, shared & ~CLIENT_HOP_CONFIRM, version};
	if (shared != hop_slots && !store_route(first_routes4(client), &route))
		store_route(second_routes4(client, saddr), &route);
	return shared;
}

INLINE u32 client_hop_index6(struct ctx ctx, const struct route_query *query, u32 now)
{
	struct client_route6 route = {.stamp = now};
	set_route_key6(route.key, &query->client, query->reroute ? &query->new_saddr : &query->saddr);
	struct client_route6 *known = find_client_route6(route.key, now);
	if (known && is_in_force(known->hop, known->version, query->input))
		return known->hop;
	u32 shared = share_lookup(ctx, query, &route.version);
	route.hop = shared & ~CLIENT_HOP_CONFIRM;
	if (shared != hop_slots && !store_route6(first_routes6(route.key), &route))
		store_route6(second_routes6(route.key), &route);
	return shared;
}

/* Return the index in `client_hops`, with CLIENT_HOP_CONFIRM if the kernel shall send this packet. */
INLINE u32 client_hop_index_of(struct ctx ctx, const struct route_query *query, u32 now)
{
	if (!query)
		return 0;
	return query->is_ipv6 ? client_hop_index6(ctx, query, now) : client_hop_index4(ctx, query, now);
}

GLOBAL_OF_HOOKS(u32, client_hop_index, client_hop_index_of, (const struct route_query *query, u32 now), (query, now))

/* Return the next hop to a client of NAT, as a router would choose it: only if this host forwards. `confirm` as
 * above. */
INLINE struct hop *client_hop(struct ctx ctx, const struct route_query *query, u32 now, bool *confirm)
{
	u32 index = client_hop_index(ctx, query, now);
	struct client_hop *slot = client_hop_at(index & ~CLIENT_HOP_CONFIRM);
	if (confirm)
		*confirm = index & CLIENT_HOP_CONFIRM;
	return slot ? &barrier_var(slot)->hop : NULL;
}

/* TC: return the next hop that a router in this host's position would choose for a packet of no known connection.
 * Anyone sends such packets, from any address. So the route is not stored, or it would evict those of clients. */
INLINE struct hop *router_hop(struct ctx ctx, const struct packet *p)
{
	struct client_hop *buffer = client_hop_at(hop_slots);
	struct route_query query = {.input = ctx_ifindex(ctx), .is_ipv6 = p->is_ipv6};
	if (!buffer)
		return NULL;
	packet_daddr(&query.client, p);
	packet_saddr(&query.saddr, p);
	struct hop *hop = &barrier_var(buffer)->hop;
	lookup_client(ctx, hop, &query);
	return hop;
}
