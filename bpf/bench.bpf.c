/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Benchmarks of the packet path by BPF_PROG_TEST_RUN, which runs a program many times over one frame without restoring
 * it. So each run starts here: rewrite the frame, then tail-call `bench_target`.
 *
 * Python puts the measured program, or one of the empty ones below, into `bench_target`. The empty ones measure the
 * cost of rewriting, which is subtracted; see docs/performance.md.
 */
#include "lib/swap.h"

enum bench_numbers {
	BENCH_BYTES = 54, /* Ethernet, IPv4 and TCP headers; or UDP's and as much payload */
	BENCH_BYTES6 = 74, /* likewise with IPv6 */
	BENCH_LINK = 14, /* length of the Ethernet header */
	BENCH_CHECK = 24, /* offset of the IPv4 checksum */
	BENCH_SOURCE = 26, /* offset of the IPv4 saddr */
	BENCH_PORTS = 34, /* offset of the ports behind IPv4 */
	BENCH_SOURCE6 = 34, /* offset of the last word of the IPv6 saddr */
	BENCH_PORTS6 = 54, /* offset of the sport behind IPv6 */
	BENCH_FLOWS_AN_ADDRESS = 32768,
	BENCH_FIRST_PORT = 16384,
	BENCH_ROOM = 20, /* length of a tunnel's outer header */
	BENCH_LINES = 1 << 20, /* cache lines that `bench_far` reads: 64 MB */
};

enum { TC_PASSED = 0, TC_DROPPED = 2 };

struct bench_plan {
	u16 pad; /* aligns the frame's IP header to four bytes */
	u8 frame[BENCH_BYTES6]; /* the frame to write */
	u32 address; /* client of the first flow, host order */
	u32 sum; /* of the IPv4 header without checksum and saddr */
	u32 flow; /* next flow; then flow * multiplier + increment, modulo mask + 1 */
	u32 multiplier;
	u32 increment;
	u32 mask;
	u32 port; /* service port of the first flow, host order */
	u32 services; /* number of services less one, a power of two less one: flow n belongs to port + n modulo their number */
};

/* One for each CPU, for measurements in parallel. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct bench_plan);
} bench_plans SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PROG_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(key_size, sizeof(u32));
	MAP_UINT(value_size, sizeof(u32));
} bench_target SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PROG_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(key_size, sizeof(u32));
	MAP_UINT(value_size, sizeof(u32));
} bench_target_tc SEC(".maps");

INLINE struct bench_plan *the_plan(void)
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

/* Write in units that contain the path's reads. A read across two writes would wait for both to reach the cache, which
 * does not happen with a frame from a device. */
INLINE bool write_frame(void *to, void *end, const struct bench_plan *plan, u32 bytes)
{
	if (to + bytes > end)
		return false;
#pragma unroll
	for (int i = 0; i < BENCH_LINK - 2; i += 4)
		WORD_AT(volatile u32, to, i) = WORD_AT(const volatile u32, plan->frame, i);
	WORD_AT(volatile u16, to, BENCH_LINK - 2) = WORD_AT(const volatile u16, plan->frame, BENCH_LINK - 2);
	WORD_AT(volatile u64, to, BENCH_LINK) = WORD_AT(const volatile u64, plan->frame, BENCH_LINK);
	WORD_AT(volatile u64, to, BENCH_LINK + 8) = WORD_AT(const volatile u64, plan->frame, BENCH_LINK + 8);
#pragma unroll
	for (u32 i = BENCH_LINK + 16; i < bytes; i += 4)
		WORD_AT(volatile u32, to, i) = WORD_AT(const volatile u32, plan->frame, i);
	return true;
}

#define WRITE_FRAME(ctx, plan, bytes) \
	write_frame((void *)(long)(ctx)->data, (void *)(long)(ctx)->data_end, plan, bytes)

INLINE int aborted(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

/* The same frame every time. */
SEC("xdp.frags")
int bench_same(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES))
		return aborted(ctx);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

SEC("xdp.frags")
int bench_same6(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES6))
		return aborted(ctx);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* Likewise for tunnels: first remove the outer header of the run before. */
SEC("xdp.frags")
int bench_shrink(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || (ctx->data_end - ctx->data > BENCH_BYTES + BENCH_ROOM / 2 &&
		      bpf_xdp_adjust_head(ctx, BENCH_ROOM)))
		return aborted(ctx);
	if (!WRITE_FRAME(ctx, plan, BENCH_BYTES))
		return aborted(ctx);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* A different flow each time. */
SEC("xdp.frags")
int bench_flows(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES))
		return aborted(ctx);
	void *to = (void *)(long)ctx->data;
	if (to + BENCH_BYTES > (void *)(long)ctx->data_end)
		return aborted(ctx);
	u32 flow = next_flow(plan);
	u32 client = plan->address + flow / BENCH_FLOWS_AN_ADDRESS;
	u32 sum = plan->sum + bpf_htons(client >> 16) + bpf_htons(client);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	u16 port = bpf_htons(BENCH_FIRST_PORT + flow % BENCH_FLOWS_AN_ADDRESS);
	u16 target = bpf_htons(plan->port + (flow & plan->services));
	WORD_AT(volatile u64, to, BENCH_CHECK - 2) =
		WORD_AT(const volatile u16, plan->frame, BENCH_CHECK - 2) | (~sum & 0xffff) << 16 | (u64)bpf_htonl(client) << 32;
	WORD_AT(volatile u32, to, BENCH_PORTS) = (u32)target << 16 | port;
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* Its checksum stays that of the first flow. */
SEC("xdp.frags")
int bench_flows6(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES6))
		return aborted(ctx);
	void *to = (void *)(long)ctx->data;
	if (to + BENCH_BYTES6 > (void *)(long)ctx->data_end)
		return aborted(ctx);
	u32 flow = next_flow(plan);
	WORD_AT(volatile u32, to, BENCH_SOURCE6) = bpf_htonl(plan->address + flow / BENCH_FLOWS_AN_ADDRESS);
	WORD_AT(volatile u16, to, BENCH_PORTS6) = bpf_htons(BENCH_FIRST_PORT + flow % BENCH_FLOWS_AN_ADDRESS);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

SEC("tc")
int bench_tc(struct __sk_buff *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES))
		return TC_DROPPED;
	bpf_tail_call(ctx, &bench_target_tc, 0);
	return TC_DROPPED;
}

SEC("tc")
int bench_tc6(struct __sk_buff *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !WRITE_FRAME(ctx, plan, BENCH_BYTES6))
		return TC_DROPPED;
	bpf_tail_call(ctx, &bench_target_tc, 0);
	return TC_DROPPED;
}

/* --- targets to compare with --- */

/* The floor of all ratios: the least that forwards a frame. */
SEC("xdp.frags")
int bench_swap(struct xdp_md *ctx)
{
	return swap_macs((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? (int)XDP_TX : aborted(ctx);
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
	return bpf_xdp_adjust_head(ctx, -BENCH_ROOM) ? aborted(ctx) : (int)XDP_TX;
}

/* The loader sets the size to BENCH_LINES for `bench_far`. */
struct bench_line {
	u64 word[8];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct bench_line);
} bench_lines SEC(".maps");

/* One dependent read from a random cache line, which every program that keeps a million flows needs. Each read depends
 * on the one before. */
SEC("xdp.frags")
int bench_far(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan)
		return aborted(ctx);
	u32 next = plan->flow * 1664525 + 1013904223;
	u32 at = next >> 4 & (BENCH_LINES - 1);
	struct bench_line *line = bpf_map_lookup_elem(&bench_lines, &at);
	if (!line)
		return aborted(ctx);
	plan->flow = next + line->word[0];
	return XDP_TX;
}

const volatile enum bench_numbers bench_numbers __attribute__((used)) = BENCH_BYTES;

char _license[] SEC("license") = "Dual MIT/GPL";
