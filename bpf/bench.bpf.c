/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Benchmarks of the packet path by BPF_PROG_TEST_RUN, which runs a program many times over one frame without restoring
 * it. So each run starts here: rewrite the frame, then tail-call `bench_program`.
 *
 * Python puts the measured program, or one of the empty ones below, into `bench_program`. The empty ones measure the
 * cost of rewriting, which is subtracted; see docs/performance.md.
 */
#include "lib/swap.h"

enum bench_numbers {
	BENCH_BYTES = 54, /* Ethernet, IPv4 and TCP headers; or UDP's and as much payload */
	BENCH_BYTES6 = 74, /* likewise with IPv6 */
	BENCH_LINK = 14, /* length of the Ethernet header */
	BENCH_CHECK = 24, /* offset of the IPv4 checksum */
	BENCH_SADDR = 26, /* offset of the IPv4 saddr */
	BENCH_DADDR = 30, /* offset of the IPv4 daddr */
	BENCH_PORTS = 34, /* offset of the ports behind IPv4 */
	BENCH_SADDR6 = 34, /* offset of the last word of the IPv6 saddr */
	BENCH_DADDR6 = 50, /* offset of the last word of the IPv6 daddr */
	BENCH_PORTS6 = 54, /* offset of the sport behind IPv6 */
	BENCH_TCP_CHECK = 16, /* offset of the checksum behind the ports */
	BENCH_FIRST_PORT = 16384,
	BENCH_OUTER = 20, /* length of a tunnel's outer header */
	BENCH_LINE_BITS = 20,
	BENCH_STORED = 1, /* first word of a line that `bench_table_store` writes */
	BENCH_WORK = 200, /* instructions of `bench_table_work`; `pylvs_xdp` executes 288 for such a packet */
	BENCH_LINES = 1 << BENCH_LINE_BITS, /* cache lines that `bench_far` and `bench_line` read: 64 MB */
};

enum { TC_PASSED = 0, TC_DROPPED = 2 };

struct bench_plan {
	u16 pad; /* aligns the frame's IP header to four bytes */
	u8 frame[BENCH_BYTES6]; /* the frame to write */
	u32 address; /* client of the first flow, host order */
	u32 port_bits; /* a client has so many flows, a power of two; their ports lie side by side */
	u32 sum; /* of the IPv4 header without checksum and the client's address */
	u32 flow; /* next flow; then flow * multiplier + increment, modulo mask + 1 */
	u32 multiplier;
	u32 increment;
	u32 mask;
	u32 port; /* service port of the first flow, host order */
	/* Number of services less one, a power of two less one: flow n belongs to port + n modulo their number. */
	u32 services;
};

/* One for each CPU, for measurements in parallel. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct bench_plan);
} bench_plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} bench_program SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} bench_program_tc SEC(".maps");

INLINE struct bench_plan *get_plan(void)
{
	u32 only = 0;
	return bpf_map_lookup_elem(&bench_plans, &only);
}

/* Return the next flow of a permutation of all flows. */
INLINE u32 next_flow(struct bench_plan *plan)
{
	u32 flow = plan->flow;
	plan->flow = (flow * plan->multiplier + plan->increment) & plan->mask;
	return flow;
}

/* Return the address of a flow's client, host order. */
INLINE u32 client_of(const struct bench_plan *plan, u32 flow)
{
	return plan->address + (flow >> plan->port_bits);
}

/* Return the port of a flow's client, network order. */
INLINE u16 client_port_of(const struct bench_plan *plan, u32 flow)
{
	return bpf_htons(BENCH_FIRST_PORT + (flow & ((1u << plan->port_bits) - 1)));
}

/* Return the checksum of an IPv4 header with this client. */
INLINE u16 checksum_of(const struct bench_plan *plan, u32 client)
{
	u32 sum = plan->sum + bpf_htons(client >> 16) + bpf_htons(client);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#define COPY(type, to, from, at) (WORD_AT(volatile type, to, at) = WORD_AT(const volatile type, from, at))

/* Write in units that contain the path's reads. A read across two writes would wait for both to reach the cache, which
 * does not happen with a frame from a device. */
INLINE bool write_frame(void *to, void *end, const struct bench_plan *plan, u32 bytes)
{
	u32 at = BENCH_LINK;
	if (to + bytes > end)
		return false;
	COPY(u64, to, plan->frame, 0);
	COPY(u32, to, plan->frame, 8);
	COPY(u16, to, plan->frame, BENCH_LINK - 2);
	if (bytes == BENCH_BYTES) {
		COPY(u64, to, plan->frame, BENCH_LINK);
		COPY(u32, to, plan->frame, BENCH_CHECK - 2);
		COPY(u64, to, plan->frame, BENCH_SADDR);
		at = BENCH_PORTS;
	} else {
#pragma unroll
		for (; at + 8 <= BENCH_PORTS6; at += 8)
			COPY(u64, to, plan->frame, at);
	}
#pragma unroll
	for (; at < bytes; at += 4)
		COPY(u32, to, plan->frame, at);
	return true;
}

#define WRITE_FRAME(ctx, plan, bytes) write_frame((void *)(long)(ctx)->data, (void *)(long)(ctx)->data_end, plan, bytes)

/* Define a program that writes a frame, and tail-calls the measured one. */
#define WRITER(name, write) \
	SEC("xdp.frags") \
	int name(struct xdp_md *ctx) \
	{ \
		struct bench_plan *plan = get_plan(); \
		if (plan && (write)) \
			bpf_tail_call(ctx, &bench_program, 0); \
		return XDP_ABORTED; \
	}

/* The same frame every time. */
WRITER(bench_same, WRITE_FRAME(ctx, plan, BENCH_BYTES))

WRITER(bench_same6, WRITE_FRAME(ctx, plan, BENCH_BYTES6))

/* Remove the tunnel header of the run before. */
INLINE bool remove_tunnel_header(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data <= BENCH_BYTES + BENCH_OUTER / 2 || !bpf_xdp_adjust_head(ctx, BENCH_OUTER);
}

/* The same frame every time, for programs that add a tunnel header. */
WRITER(bench_shrink, remove_tunnel_header(ctx) && WRITE_FRAME(ctx, plan, BENCH_BYTES))

/* Write both IPv4 addresses, one of which is the client's, and the header's checksum. */
INLINE void write_addresses(void *to, const struct bench_plan *plan, u32 client, u32 saddr, u32 daddr)
{
	WORD_AT(volatile u32, to, BENCH_CHECK - 2) = WORD_AT(const volatile u16, plan->frame, BENCH_CHECK - 2) |
						     (u32)checksum_of(plan, client) << 16;
	WORD_AT(volatile u64, to, BENCH_SADDR) = saddr | (u64)daddr << 32;
}

/* Write a transport checksum that never looks unfinished, as one of 65,535 would (parse/unfinished.h). For every client
 * it differs from the sum of the pseudo header by the same amount. */
INLINE void write_transport_check(void *to, u32 ports, u32 client)
{
	u32 sum = bpf_htons(client >> 16) + bpf_htons(client);
	WORD_AT(volatile u16, to, ports + BENCH_TCP_CHECK) = (sum & 0xffff) + (sum >> 16);
}

INLINE bool write_next_flow(struct xdp_md *ctx, struct bench_plan *plan)
{
	void *to = (void *)(long)ctx->data;
	if (!WRITE_FRAME(ctx, plan, BENCH_BYTES) || to + BENCH_BYTES > (void *)(long)ctx->data_end)
		return false;
	u32 flow = next_flow(plan), client = client_of(plan, flow);
	u16 dport = bpf_htons(plan->port + (flow & plan->services));
	write_addresses(to, plan, client, bpf_htonl(client), WORD_AT(const volatile u32, plan->frame, BENCH_DADDR));
	WORD_AT(volatile u32, to, BENCH_PORTS) = (u32)dport << 16 | client_port_of(plan, flow);
	write_transport_check(to, BENCH_PORTS, client);
	return true;
}

/* A different flow each time. */
WRITER(bench_flows, write_next_flow(ctx, plan))

/* Likewise, for programs that add a tunnel header. */
WRITER(bench_shrink_flows, remove_tunnel_header(ctx) && write_next_flow(ctx, plan))

/* A real server's packet to a different client each time. */
INLINE bool write_reply(struct xdp_md *ctx, struct bench_plan *plan)
{
	void *to = (void *)(long)ctx->data;
	if (!WRITE_FRAME(ctx, plan, BENCH_BYTES) || to + BENCH_BYTES > (void *)(long)ctx->data_end)
		return false;
	u32 flow = next_flow(plan), client = client_of(plan, flow);
	write_addresses(to, plan, client, WORD_AT(const volatile u32, plan->frame, BENCH_SADDR), bpf_htonl(client));
	WORD_AT(volatile u32, to, BENCH_PORTS) = (u32)client_port_of(plan, flow) << 16 |
						 WORD_AT(const volatile u16, plan->frame, BENCH_PORTS);
	write_transport_check(to, BENCH_PORTS, client);
	return true;
}
WRITER(bench_replies, write_reply(ctx, plan))

/* Write a frame of the next flow, whose client's address and port are at these offsets. */
INLINE bool write_next_flow6(struct xdp_md *ctx, struct bench_plan *plan, u32 address, u32 port)
{
	void *to = (void *)(long)ctx->data;
	if (!WRITE_FRAME(ctx, plan, BENCH_BYTES6) || to + BENCH_BYTES6 > (void *)(long)ctx->data_end)
		return false;
	u32 flow = next_flow(plan), own = (port - BENCH_PORTS6) * 8, other = 16 - own;
	u32 client = client_of(plan, flow);
	WORD_AT(volatile u64, to, address - 4) = WORD_AT(const volatile u32, plan->frame, address - 4) |
						 (u64)bpf_htonl(client) << 32;
	WORD_AT(volatile u32, to, BENCH_PORTS6) =
		(u32)client_port_of(plan, flow) << own |
		(u32)WORD_AT(const volatile u16, plan->frame, BENCH_PORTS6 + other / 8) << other;
	write_transport_check(to, BENCH_PORTS6, client);
	return true;
}

WRITER(bench_flows6, write_next_flow6(ctx, plan, BENCH_SADDR6, BENCH_PORTS6))

/* As `bench_replies`. */
WRITER(bench_replies6, write_next_flow6(ctx, plan, BENCH_DADDR6, BENCH_PORTS6 + 2))

SEC("tc")
int bench_tc(struct __sk_buff *ctx)
{
	struct bench_plan *plan = get_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES))
		return TC_DROPPED;
	bpf_tail_call(ctx, &bench_program_tc, 0);
	return TC_DROPPED;
}

SEC("tc")
int bench_tc6(struct __sk_buff *ctx)
{
	struct bench_plan *plan = get_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES6))
		return TC_DROPPED;
	bpf_tail_call(ctx, &bench_program_tc, 0);
	return TC_DROPPED;
}

/* --- targets to compare with --- */

/* The floor of all ratios: the least that forwards a frame. */
SEC("xdp.frags")
int bench_swap(struct xdp_md *ctx)
{
	return swap_macs((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? (int)XDP_TX : (int)XDP_ABORTED;
}

/* The same at TC. */
SEC("tc")
int bench_tc_swap(struct __sk_buff *ctx)
{
	if (!swap_macs((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return TC_DROPPED;
	return bpf_redirect(ctx->ifindex, 0);
}

SEC("tc")
int bench_tc_empty(struct __sk_buff *ctx)
{
	return TC_PASSED;
}

SEC("xdp.frags")
int bench_empty(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp.frags")
int bench_grow(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -BENCH_OUTER) ? (int)XDP_ABORTED : (int)XDP_TX;
}

/* The loader sets the size to BENCH_LINES for `bench_far` and `bench_line`. */
struct bench_line {
	u64 word[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct bench_line);
} bench_lines SEC(".maps");

/* One read from a random cache line; the frame is not read. Each read depends on the one before. */
SEC("xdp.frags")
int bench_far(struct xdp_md *ctx)
{
	struct bench_plan *plan = get_plan();
	if (!plan)
		return XDP_ABORTED;
	u32 next = plan->flow * 1664525 + 1013904223;
	u32 at = next >> 4 & (BENCH_LINES - 1);
	struct bench_line *line = bpf_map_lookup_elem(&bench_lines, &at);
	if (!line)
		return XDP_ABORTED;
	plan->flow = next + line->word[0];
	return XDP_TX;
}

enum line_use { LINE_READ, LINE_AWAITED, LINE_STORED };

#define MIX_ONCE(number, with) (number = barrier_var(number ^ (with)))

/* Run BENCH_WORK instructions on registers. None depends on a cache line, and they form four chains. */
INLINE u64 work_on(u64 seed)
{
	u64 one = seed, two = seed + 1, three = seed + 2, four = seed + 3;
#pragma unroll
	for (int i = 0; i < BENCH_WORK / 4; i++) {
		MIX_ONCE(one, seed);
		MIX_ONCE(two, seed);
		MIX_ONCE(three, seed);
		MIX_ONCE(four, seed);
	}
	return one | two | three | four;
}

/* The least that forwards a packet of one of many flows by what it stored of that flow: one cache line. `lines` has so
 * many. Unlike those of `bench_far`, the reads are independent: the processor can start the next before this one ends.
 * LINE_AWAITED: the next packet is made from what was read.
 * LINE_STORED: a compare-exchange in the line, and another word.
 * Beside work: instructions that do not depend on the line follow it. Until the line arrives, the processor can keep
 * the results of some 280 instructions. If it reaches the next packet's line before that, both arrive together. */
INLINE int forward_by_line(struct xdp_md *ctx, void *lines, u32 number, enum line_use use, bool beside_work)
{
	void *frame = (void *)(long)ctx->data;
	if (frame + BENCH_BYTES > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	struct bench_plan *plan = use == LINE_AWAITED ? get_plan() : NULL;
	u64 tuple = (u64)WORD_AT(u32, frame, BENCH_SADDR) << 32 | WORD_AT(u32, frame, BENCH_PORTS);
	u32 at = (tuple * 0x9e3779b97f4a7c15 >> 32) * number >> 32; /* the golden ratio, as the kernel's hash_64() */
	struct bench_line *line = bpf_map_lookup_elem(lines, &at);
	u64 first = line ? line->word[0] : 1;
	if (plan)
		plan->port += barrier_var(first); /* before the test of `first`, behind which the compiler knows it */
	if (first) /* always 0 */
		return XDP_ABORTED;
	if (use == LINE_STORED) {
		u64 there = __sync_val_compare_and_swap(&line->word[BENCH_STORED], 0, tuple);
		line->word[BENCH_STORED + 1 + !!there] = tuple;
	}
	if (beside_work && !work_on(tuple | 1))
		return XDP_ABORTED;
	return swap_macs(frame, (void *)(long)ctx->data_end) ? (int)XDP_TX : (int)XDP_ABORTED;
}

#define FORWARDER(name, lines, number, use, beside_work) \
	SEC("xdp.frags") \
	int name(struct xdp_md *ctx) \
	{ \
		return forward_by_line(ctx, lines, number, use, beside_work); \
	}

FORWARDER(bench_line, &bench_lines, BENCH_LINES, LINE_READ, false)

/* Set by the loader: as many as the connection table has. */
const volatile u32 bench_table_size = 1;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct bench_line);
} bench_table SEC(".maps");

/* The same with a table of the size of pylvs's. */
FORWARDER(bench_table_line, &bench_table, bench_table_size, LINE_READ, false)

/* The same, but the processor cannot start the next packet before the line is there. */
FORWARDER(bench_table_awaited, &bench_table, bench_table_size, LINE_AWAITED, false)

/* The same beside other work: BENCH_WORK instructions, which do not depend on the line. */
FORWARDER(bench_table_work, &bench_table, bench_table_size, LINE_READ, true)

/* The least that stores a flow in this table: a compare-exchange in its line, and a word. */
FORWARDER(bench_table_store, &bench_table, bench_table_size, LINE_STORED, false)

/* The same beside other work. A new flow of pylvs executes several times as many instructions. */
FORWARDER(bench_table_store_work, &bench_table, bench_table_size, LINE_STORED, true)

const volatile enum bench_numbers bench_numbers __attribute__((used)) = BENCH_BYTES;

char _license[] SEC("license") = "Dual MIT/GPL";
