/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Measuring the packet path with BPF_PROG_TEST_RUN, which runs a program many times over one frame and never puts back
 * what the program did to it. So each round enters here: the frame is written anew, and `bench_target` goes on.
 *
 * Python puts the program to be measured, or one of the empty ones below, into `bench_target`. What writing anew costs
 * is measured with these and taken off; docs/performance.md tells how.
 */
#include "lib/swap.h"

enum bench_numbers {
	BENCH_BYTES = 54, /* Ethernet, IPv4 and TCP headers, or UDP's with as much behind it */
	BENCH_BYTES6 = 74, /* likewise of IPv6 */
	BENCH_LINK = 14, /* the first of them */
	BENCH_CHECK = 24, /* where the IPv4 checksum is, */
	BENCH_SOURCE = 26, /* the source address, */
	BENCH_PORTS = 34, /* and the ports */
	BENCH_SOURCE6 = 34, /* the last word of an IPv6 source, */
	BENCH_PORTS6 = 54, /* and its port */
	BENCH_FLOWS_AN_ADDRESS = 32768,
	BENCH_FIRST_PORT = 16384,
	BENCH_ROOM = 20, /* bytes that a tunnel puts in front */
	BENCH_LINES = 1 << 20, /* of a cache, in what `bench_far` reads from: 64 MB */
};

enum { TC_PASSED = 0, TC_DROPPED = 2 };

struct bench_plan {
	u16 pad; /* the frame lies as it does in memory: its IP header at a multiple of four */
	u8 frame[BENCH_BYTES6]; /* as it is written anew */
	u32 address; /* of the first flow's client, host order */
	u32 sum; /* of the IPv4 header without checksum and source address */
	u32 flow; /* the next one: flow * multiplier + increment, modulo mask + 1 */
	u32 multiplier;
	u32 increment;
	u32 mask;
	u32 port; /* of the first flow's service, host order */
	u32 services; /* flows belong to so many in turn, at one port after the other: a power of two, less one */
};

/* One for each CPU: several may measure at once. */
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

/* The next flow of a sequence that visits all of them once. */
INLINE u32 next_flow(struct bench_plan *plan)
{
	u32 flow = plan->flow;
	plan->flow = (flow * plan->multiplier + plan->increment) & plan->mask;
	return flow;
}

/* In pieces that the path's reads lie within: a read that spans two writes would wait for both, which no frame from a
 * card makes it do. */
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

/* Likewise, for what puts a header in front: it is taken off first. */
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

/* Each time the next flow. */
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

/* Its checksum is the first flow's. */
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

/* --- what stands in for the path --- */

/* The floor of all ratios: as little as forwarding can be. */
SEC("xdp.frags")
int bench_swap(struct xdp_md *ctx)
{
	return swap_macs((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? (int)XDP_TX : aborted(ctx);
}

/* And at TC. */
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

/* One of them unless sized to BENCH_LINES before loading. */
struct bench_line {
	u64 word[8];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct bench_line);
} bench_lines SEC(".maps");

/* What no program that remembers a million flows can do without: one read from where nobody expects it. The next one
 * begins when this one has ended, for it depends on what was read. */
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
