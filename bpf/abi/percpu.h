/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 4: what each CPU keeps for itself (counters, next hops), and averages of counters.
 */
#pragma once
#include "abi/base.h"

struct counters {
	u64 connections;
	u64 in_packets;
	u64 out_packets;
	u64 in_bytes;
	u64 out_bytes;
};

enum counter_limits { COUNTED_EVENTS = 3, COUNTERS = 5 }; /* of struct counters: the first ones do not count bytes */
_Static_assert(sizeof(struct counters) == COUNTERS * sizeof(u64), "struct counters");

/* What the estimator knows of a destination or a service, in the order of struct counters. */
struct estimate {
	s64 averages[COUNTERS]; /* of the rates, fixed point */
	u64 last[COUNTERS]; /* the counts at the last step, which listings show of a destination */
	u64 passed[COUNTERS]; /* of a destination: the counts that its service has; of a service: their sum */
};

/* NOT_REROUTED: a router would forward the packet, but there is no route from its new saddr. */
enum hop_verdict {
	HOP_UNKNOWN,
	HOP_READY,
	HOP_UNRESOLVED,
	HOP_NO_ROUTE,
	HOP_LOCAL,
	HOP_NO_FORWARDING,
	HOP_NOT_REROUTED
};

struct hop { /* a cached FIB lookup; the fast path reads what is before `link_mtu` */
	u32 stamp; /* tick of the lookup */
	u32 ifindex;
	u8 dmac[6];
	u8 smac[6];
	u32 mtu;
	u16 verdict;
	u8 gateway_is_ipv6; /* of a route of IPv4, too (RFC 8950) */
	u8 is_foreign_vip; /* of a destination: its virtual address is not local */
	/* Of a destination: without the path MTUs that ICMP errors have reported. Of a client: of the route by which a
	 * router would forward its packets, before their saddr is changed. */
	u32 link_mtu;
	struct address gateway; /* next hop on the link */
	struct address saddr; /* preferred source address; of a destination, that of tunnels to it */
};

/* Where the fast path of XDP may receive packets of a destination: an ingress device that the general path has checked.
 * That of TC reads `live` alone: `tc_inputs` has its device. */
struct fast_ingress {
	u32 live; /* config generation for which this is valid, its lower half; 0: none */
	u32 input; /* ifindex, and its MAC address; NO_XDP: only TC may be fast */
	u8 mac[6];
	u8 family; /* of the destination: 4 or 6 */
	u8 pad;
};

/* What a CPU keeps of a destination: three cache lines. The fast path uses the first and the last one. */
struct percpu_destination {
	struct counters counters;
	struct hop hop;
	u64 others[2]; /* requests and replies that XDP did not forward, or that are in `device_packets` */
	u32 tc_inputs[2]; /* TC forwarded those that `listed` lacks; they came by this device */
	struct fast_ingress ingress[2]; /* of requests, and of NAT's replies */
	u32 reply_stamp; /* tick of the check of the second one; the first one is checked with the hop */
	u32 timeout_tcp; /* timeouts of established connections in that generation, in ticks */
	u32 timeout_udp;
	be32 rip; /* first word of the destination's address */
	u64 listed[2]; /* of `others`, those in `device_packets` */
};
_Static_assert(__builtin_offsetof(struct percpu_destination, hop.verdict) == 64, "cache lines");
_Static_assert(sizeof(struct percpu_destination) == 3 * 64, "cache lines");
_Static_assert(__builtin_offsetof(struct percpu_destination, ingress) == 2 * 64, "cache lines");

/* Reasons of most packets that pass, with the names of enum reason. One increment counts such a packet. */
enum plain { PLAIN_NO_SERVICE, PLAIN_OTHER_HOST, PLAIN_NOT_IP, PLAINS };

/* Packets that came by a device. Those that its host sends have ifindex 0. */
struct device_packets {
	u32 ifindex;
	u32 pad;
	u64 forwarded[2]; /* by enum hook; without those in `percpu_destinations` */
	u64 ended[ENDS]; /* by enum end; without the following */
	u64 plain[PLAINS]; /* passed, by enum plain; `reasons` lacks them */
};

/* Of a service: its slot and the generation of the edit that added it. An edit removes those of deleted services. */
struct service_reason {
	u32 service;
	u32 added;
	u32 reason;
};

enum { SERVICE_REASONS = 65536 };

/* Consecutive destinations share an element, because the kernel allocates each element of a per-CPU array separately.
 * Single elements made up half of the time to create all maps. */
struct percpu_destinations {
	struct percpu_destination of[PERCPU_DESTINATIONS];
};

/* A path MTU, reported by an ICMP error: like a route exception of the kernel. */
struct path_mtu {
	u32 mtu;
	u32 until; /* expiry tick */
	u32 used; /* packets were sent by it */
	u32 pad;
};

/* A next hop to clients of NAT: to all clients of a router (struct client_route). */
struct client_hop {
	u32 version; /* how often it was replaced */
	u32 ifindex; /* ingress device; 0: sent by this host */
	struct hop hop;
} __attribute__((aligned(64)));

struct client_hops {
	struct client_hop of[HOPS];
};

/* The route of replies to a client of NAT over IPv4. */
struct client_route {
	be32 client;
	be32 saddr; /* saddr of the reply as it leaves */
	u32 stamp; /* tick of the lookup */
	u16 hop; /* in client_hops */
	u16 version; /* of that */
};

/* A cache line. */
struct client_route_set {
	struct client_route way[ROUTE_WAYS];
} __attribute__((aligned(64)));

struct client_routes {
	struct client_route_set of[ROUTE_SETS];
};

/* The same over IPv6: half as many in a cache line. */
struct client_route6 {
	u64 key[3]; /* client, and a hash of the saddr of the reply as it leaves */
	u32 stamp;
	u16 hop;
	u16 version;
};

struct client_route6_set {
	struct client_route6 way[ROUTE_WAYS6];
} __attribute__((aligned(64)));

struct client_routes6 {
	struct client_route6_set of[ROUTE_SETS];
};

/* The service of the last SYN that got no connection: those of a flood usually have one service. */
struct recent_service {
	u64 address[2];
	be16 port;
	u16 is_ipv6;
	u32 live; /* config generation for which this is valid; 0: none */
	u32 slot; /* as service_at returns it */
};

/* A service of which a client rule has denied a SYN in this tick, and how such SYNs came (fwd/denied.h). */
struct denying_service {
	u64 address[2];
	u64 valid; /* for this config generation (its lower half), and this tick << 32; 0: never */
	u64 mac; /* of the ingress device, in the lower 48 bits */
	u32 input; /* its ifindex */
	u32 port; /* in network order, | DENYING_IPV6 */
	u32 slot;
	u32 set; /* of its client rules */
	u32 added; /* generation of the edit that added it */
	be32 mask; /* IPv4: clients that share these bits have the same rule */
	u64 denied; /* SYNs that `reasons`, `service_reasons` and `device_packets` lack */
};
_Static_assert(sizeof(struct denying_service) == 64, "a cache line");

/* A network of IPv4 whose SYNs a rule denies, by a search of the trie. */
struct denied_network {
	u64 name; /* the network, and the slot of the service << 32 */
	u64 live; /* config generation for which this is valid, its lower half; 0: none */
};

enum { DENYING_IPV6 = 1 << 16, DENYING_SERVICES = 16, DENIED_NETWORKS_BITS = 10 };

struct denied_syns {
	struct denying_service services[DENYING_SERVICES];
	struct denied_network networks[1 << DENIED_NETWORKS_BITS];
};

struct limiter {
	u32 tick;
	u32 tokens;
};

ARRAY_MAP(service_bases, struct counters, 64, BPF_F_MMAPABLE);

ARRAY_MAP(destination_bases, struct counters, 64, BPF_F_MMAPABLE);

ARRAY_MAP(estimates, struct estimate, 64, BPF_F_MMAPABLE); /* of destinations */

ARRAY_MAP(service_estimates, struct estimate, 64, BPF_F_MMAPABLE);

PERCPU_MAP(client_hops, struct client_hops, 2); /* the last one has a buffer */

PERCPU_MAP(client_routes, struct client_routes, 1);

PERCPU_MAP(client_routes6, struct client_routes6, 1);

PERCPU_MAP(percpu_destinations, struct percpu_destinations, 8); /* index: destination / PERCPU_DESTINATIONS */

PERCPU_MAP(device_packets, struct device_packets, DEVICES); /* index: ifindex % DEVICES */

/* Ends of packets by service and reason. Elements are allocated when they are first counted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, SERVICE_REASONS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_reason);
	__type(value, u64);
} service_reasons SEC(".maps");

PERCPU_MAP(limiters, struct limiter, 1);

enum { PEER_WINDOWS = 1024 }; /* receivers of ICMP errors with the same hash share a window */

/* Errors of a second to a receiver: the second in the upper half, their number in the lower one. */
ARRAY_MAP(peer_windows, u64, PEER_WINDOWS, 0);

PERCPU_MAP(recent_services, struct recent_service, 1);

PERCPU_MAP(denied_syns, struct denied_syns, 1);

/* Path MTUs to tunnel destinations. The key's first word is the IPv4 address of the real server, the second one that of
 * the client whose packet the error was about. A second word of 0: the least of all clients. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct path_mtu);
} path_mtus SEC(".maps");

INLINE struct percpu_destination *percpu_in(struct percpu_destinations *some, u32 destination)
{
	return some ? &barrier_var(some)->of[destination % PERCPU_DESTINATIONS] : NULL;
}

/* Return this CPU's data of a destination. */
INLINE struct percpu_destination *percpu_of(u32 destination)
{
	return percpu_in(map_elem(percpu_destinations, destination / PERCPU_DESTINATIONS), destination);
}

INLINE struct percpu_destination *percpu_of_cpu(u32 destination, u32 cpu)
{
	u32 number = destination / PERCPU_DESTINATIONS;
	return percpu_in(bpf_map_lookup_percpu_elem(&percpu_destinations, &number, cpu), destination);
}

INLINE struct counters *counters_at(u32 destination)
{
	struct percpu_destination *percpu = percpu_of(destination);
	return percpu ? &percpu->counters : NULL;
}
