/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 5: what `pylvs trace` learns of a packet. Only a copy of the programs that a session
 * loads has these maps (src/pylvs/trace/variants.py); they are no part of the tables.
 */
#pragma once
#include "abi/base.h"

enum trace_limits {
	TRACE_SNAP = 256, /* bytes of a frame, at most */
	TRACE_RING_BYTES = 1 << 20,
};

/* The element of `tracers_tc` that the hook calls. */
enum tracer { TRACER_INGRESS, TRACER_EGRESS, TRACERS };

enum trace_hook { TRACE_XDP, TRACE_TC, TRACE_TC_EGRESS };

/* What a record has beyond verdict and frame. */
enum trace_known {
	TRACE_KNOWS_SERVICE = 1,
	TRACE_KNOWS_SERVER = 2,
	TRACE_KNOWS_LOAD = 4,
	TRACE_KNOWS_STATE = 8,
	TRACE_KNOWS_METHOD = 16,
};

/* One packet at one hook. Addresses and ports are in network order. */
struct trace_record {
	u64 time_ns; /* CLOCK_BOOTTIME */
	u32 cpu;
	u32 active; /* in the map `trace_areas`: the packet has no verdict yet */
	u32 device; /* ifindex by which it came */
	u32 output; /* ifindex by which it left; 0: none */
	u32 length; /* of the frame as it came */
	u32 sent_length; /* of the frame as it left */
	u32 known; /* enum trace_known */
	u32 mark; /* of the service, or 0 */
	u32 load; /* what the scheduler compared, of the real server that it chose; NOTHING: it compares none */
	u32 candidates; /* usable real servers */
	u32 service_address[4];
	u32 server_address[4];
	be16 service_port;
	be16 server_port;
	u16 before_bytes;
	u16 after_bytes;
	u8 hook; /* enum trace_hook */
	u8 verdict; /* enum trace_verdict */
	u8 choice; /* enum trace_choice */
	u8 scheduler; /* enum scheduler */
	u8 reason; /* enum reason */
	u8 state; /* of the connection, after the packet */
	u8 method; /* enum method */
	u8 protocol; /* of the service */
	u8 service_family; /* 4 or 6 */
	u8 server_family;
	u8 created; /* it made a connection */
	u8 rejected; /* an ICMP error is being sent */
	u8 before[TRACE_SNAP] __attribute__((aligned(8))); /* the frame as it came */
	u8 after[TRACE_SNAP]; /* the frame as it left */
};

/* What a CPU counted of one session. */
struct trace_counts {
	u64 matched; /* packets that the filter selected */
	u64 limited; /* without a record, by the rate limit */
	u64 lost; /* without a record, because the reader was too slow */
	u64 recorded;
};

struct trace_budget { /* of all CPUs */
	u32 tick;
	u32 used;
};

/* set when the object is loaded */
const volatile u32 trace_snap = TRACE_SNAP; /* bytes of a frame that a record has */
const volatile u32 trace_sample = 1; /* one of so many packets is traced */
const volatile u32 trace_per_tick = 64; /* packets that are traced in a tick, at most */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACE_RING_BYTES);
} trace_records SEC(".maps");

PERCPU_MAP(trace_areas, struct trace_record, 1); /* of the packet that the CPU processes */

PERCPU_MAP(trace_counts, struct trace_counts, 1);

ARRAY_MAP(trace_budgets, struct trace_budget, 1, 0);
