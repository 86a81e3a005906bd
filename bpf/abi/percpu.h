/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The part of the contract that each CPU writes for itself: counters, next hops; and averages of the counters.
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

/* Of a destination: averages of connections, packets and bytes each way, fixed point, and the counts last seen. */
struct estimate {
	s64 averages[5];
	u64 last[5];
};

enum hop_verdict { HOP_UNKNOWN, HOP_READY, HOP_UNRESOLVED, HOP_NO_ROUTE, HOP_LOCAL, HOP_NO_FORWARDING };

struct hop { /* where packets to an address leave */
	u32 stamp; /* tick of the question */
	u32 ifindex;
	u8 target_mac[6];
	u8 source_mac[6];
	u32 mtu;
	u32 room; /* for a packet in an IP-in-IP tunnel; 0: less than IP demands */
	u32 verdict;
	struct address gateway; /* next hop on the link */
	struct address source; /* the address this host would use */
};

/* Where packets come in that the fast path may take without another question (fast.h). */
struct entrance {
	u64 live; /* the generation in which it may; 0: none */
	u32 stamp; /* tick at which it was noted */
	u32 input; /* the device, and its link address */
	u8 mac[6];
	u8 pad[2];
};

struct lane { /* what a CPU keeps of a destination */
	struct counters counters;
	struct hop hop;
	struct entrance entrances[2]; /* of requests, of NAT's answers */
	u32 life_tcp; /* of an established connection, in their generation, in ticks */
	u32 life_udp;
	be32 real; /* the destination's address, and the source of tunnels to it */
	be32 outer_source;
};

/* Of destinations that follow each other. The kernel allocates each element of a per-CPU array separately, which made up
 * half of the time that all maps of a state take. */
struct lanes {
	struct lane of[LANES];
};

/* The MTU of the path to an IPv4 address, as an ICMP error told it: a kernel's route exception. */
struct path {
	u32 mtu;
	u32 until; /* tick */
	u32 used; /* packets have been sent by it */
	u32 pad;
};

struct client_hop {
	struct address address;
	struct address source; /* which the reply leaves with */
	u32 family;
	u32 ifindex; /* of input; 0: sent by this host */
	struct hop hop;
};

struct limiter {
	u32 tick;
	u32 tokens;
};

ARRAY_MAP(service_bases, struct counters, 64, BPF_F_MMAPABLE);

ARRAY_MAP(destination_bases, struct counters, 64, BPF_F_MMAPABLE);

ARRAY_MAP(estimates, struct estimate, 64, BPF_F_MMAPABLE);

PERCPU_MAP(client_hops, struct client_hop, HOP_SLOTS);

PERCPU_MAP(lanes, struct lanes, 8); /* by destination / LANES */

PERCPU_MAP(limiters, struct limiter, 1);

/* what errors told of the paths to tunnel real servers, by their IPv4 address */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, struct path);
} paths SEC(".maps");

INLINE struct lane *lane_in(struct lanes *some, u32 destination)
{
	return some ? &barrier_var(some)->of[destination % LANES] : NULL;
}

/* What this CPU keeps of a destination. */
INLINE struct lane *lane_of(u32 destination)
{
	return lane_in(map_elem(lanes, destination / LANES), destination);
}

INLINE struct lane *lane_of_cpu(u32 destination, u32 cpu)
{
	u32 number = destination / LANES;
	return lane_in(bpf_map_lookup_percpu_elem(&lanes, &number, cpu), destination);
}

INLINE struct counters *counters_at(u32 destination)
{
	struct lane *lane = lane_of(destination);
	return lane ? &lane->counters : NULL;
}
