/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Every map of the director. Capacities are set when the object is loaded; those below are the least.
 */
#pragma once
#include "abi.h"

#define ARRAY_MAP(name, value_type, entries, flag_bits) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_ARRAY); \
		MAP_UINT(max_entries, entries); \
		MAP_UINT(map_flags, flag_bits); \
		MAP_TYPE(key, u32); \
		MAP_TYPE(value, value_type); \
	} name SEC(".maps")
#define PERCPU_MAP(name, value_type, entries) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		MAP_UINT(max_entries, entries); \
		MAP_TYPE(key, u32); \
		MAP_TYPE(value, value_type); \
	} name SEC(".maps")
#define HASH_MAP(name, key_type, value_type, entries, flag_bits) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_HASH); \
		MAP_UINT(max_entries, entries); \
		MAP_UINT(map_flags, flag_bits); \
		MAP_TYPE(key, key_type); \
		MAP_TYPE(value, value_type); \
	} name SEC(".maps")

#define STACK_MAP(name, value_type, entries) \
	struct { \
		MAP_UINT(type, BPF_MAP_TYPE_STACK); \
		MAP_UINT(max_entries, entries); \
		MAP_TYPE(value, value_type); \
	} name SEC(".maps")

/* written by Python */
HASH_MAP(services4, struct service_key4, u32, 64, BPF_F_NO_PREALLOC);
HASH_MAP(services6, struct service_key6, u32, 64, BPF_F_NO_PREALLOC);
ARRAY_MAP(services, struct service, 64, BPF_F_MMAPABLE);
ARRAY_MAP(members, struct member, 256, BPF_F_MMAPABLE);
HASH_MAP(maglev_tables, u32, struct maglev_table, 128, BPF_F_NO_PREALLOC);
ARRAY_MAP(mark_rules, struct mark_rule, 2 * MARK_RULES, BPF_F_MMAPABLE);
HASH_MAP(routed_marks, struct routed_mark, u8, 4096, BPF_F_NO_PREALLOC);
HASH_MAP(locals, struct address, u8, 4096, BPF_F_NO_PREALLOC);
HASH_MAP(accept_locals, u32, u8, 1024, BPF_F_NO_PREALLOC); /* devices by ifindex, with accept_local */
ARRAY_MAP(devices, struct device, DEVICES, BPF_F_MMAPABLE);
HASH_MAP(standby, struct address, u8, 2 * STANDBY_ADDRESSES, BPF_F_NO_PREALLOC); /* written by the virtual routers' process */

/* The map `roots`, whose only value packets have at an address that is known when the program is loaded. */
struct root root_value SEC(".data.roots");

/* of no concern to packets */
ARRAY_MAP(books, struct book, 1, BPF_F_MMAPABLE);
HASH_MAP(names, struct destination_name, u32, 64, BPF_F_NO_PREALLOC);
ARRAY_MAP(service_bases, struct counters, 64, BPF_F_MMAPABLE);
ARRAY_MAP(destination_bases, struct counters, 64, BPF_F_MMAPABLE);

/* written by both */
ARRAY_MAP(service_states, struct service_state, 64, BPF_F_MMAPABLE);
ARRAY_MAP(destinations, struct destination, 64, BPF_F_MMAPABLE);

HASH_MAP(cache, struct cache_key, struct cached, 128, BPF_F_NO_PREALLOC);
ARRAY_MAP(estimates, struct estimate, 64, BPF_F_MMAPABLE);

/* connections */
ARRAY_MAP(connections4, struct place4, 2048, BPF_F_MMAPABLE);
ARRAY_MAP(index4, struct bucket, 256, BPF_F_MMAPABLE); /* which aligns its lines */
ARRAY_MAP(marks4, struct marks, 16, BPF_F_MMAPABLE);
HASH_MAP(connections6, struct tuple6, struct connection6, 1024, BPF_F_NO_PREALLOC);
HASH_MAP(replies6, struct tuple6, struct reply6, 1024, BPF_F_NO_PREALLOC);
ARRAY_MAP(words6, u64, 1024, BPF_F_MMAPABLE);
ARRAY_MAP(registry6, struct registered, 1024, 0);
ARRAY_MAP(controls, struct control, 4096, BPF_F_MMAPABLE); /* by slot, of both families */
ARRAY_MAP(looks, struct looks, 320, BPF_F_MMAPABLE);
ARRAY_MAP(pools, struct pool, 1, BPF_F_MMAPABLE);
PERCPU_MAP(magazines, struct magazine, 1);
ARRAY_MAP(orphans_magazine, struct magazine, 1, 0);
STACK_MAP(free_slots4, struct bundle, 64);
STACK_MAP(free_slots6, struct bundle, 64);

/* per CPU */
PERCPU_MAP(client_hops, struct client_hop, HOP_SLOTS);
PERCPU_MAP(lanes, struct lanes, 8); /* by destination / LANES */
PERCPU_MAP(reasons, u64, REASONS);
PERCPU_MAP(limiters, struct limiter, 1);
PERCPU_MAP(copies, struct copy, 1);

/* what errors told of the paths to tunnel real servers, by their IPv4 address */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, struct path);
} paths SEC(".maps");

/* devices that can transmit what XDP redirects */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_DEVMAP_HASH);
	MAP_UINT(max_entries, DEVICES);
	MAP_UINT(key_size, sizeof(u32));
	MAP_UINT(value_size, sizeof(u32));
} transmitters SEC(".maps");

#define LOOKUP(map, index) \
	({ \
		u32 index_ = (index); \
		bpf_map_lookup_elem(&(map), &index_); \
	})

/* set when the object is loaded */
const volatile u32 tick_shift = 5; /* a tick is 2^tick_shift jiffies, about an eighth of a second */
const volatile u32 ticks_per_second = 8;
const volatile u32 minute = 480; /* in ticks */
const volatile u32 slots4 = 1024; /* how many there are: 1 and following */
const volatile u32 first_slot6 = 2048; /* the slots of IPv4 come before */
const volatile u32 slots6 = 1024;
const volatile struct table_key table_key4 = {.seeds = {1, 1}, .buckets = 124, .slots_mask = 2047};
const volatile u32 loopback = 1; /* ifindex of lo */
const volatile u32 tunnel_secret = 0; /* keys the source ports of GUE */
const volatile u32 fib_gives_source = 0; /* bpf_fib_lookup knows BPF_FIB_LOOKUP_SRC (6.7) */
const volatile u32 fib_takes_mark = 0; /* bpf_fib_lookup knows BPF_FIB_LOOKUP_MARK (6.10) */

INLINE struct lane *lane_in(struct lanes *some, u32 destination)
{
	return some ? &OPAQUE(some)->of[destination % LANES] : NULL;
}

/* What this CPU keeps of a destination. */
INLINE struct lane *lane_of(u32 destination)
{
	return lane_in(LOOKUP(lanes, destination / LANES), destination);
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

INLINE u32 ticks(void)
{
	return (u32)(bpf_jiffies64() >> tick_shift);
}

VERIFIED_ONCE int count(u32 reason)
{
	u64 *counter = LOOKUP(reasons, reason);
	if (counter)
		*counter += 1;
	return 0;
}
