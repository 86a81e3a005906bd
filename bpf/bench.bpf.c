/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Measuring the packet path with BPF_PROG_TEST_RUN, which runs a program many times over one frame and never puts back
 * what the program did to it. So each round enters here: the frame is written anew, and `bench_target` goes on.
 *
 * Python puts the program to be measured, or one of the empty ones below, into `bench_target`. What writing anew costs
 * is measured with these and taken off; docs/performance.md tells how.
 */
#include "helpers.h"

enum bench_numbers {
	BENCH_BYTES = 54, /* Ethernet, IPv4 and TCP headers */
	BENCH_LINK = 14, /* the first of them */
	BENCH_CHECK = 24, /* where the IPv4 checksum is, */
	BENCH_SOURCE = 26, /* the source address, */
	BENCH_PORTS = 34, /* and the ports */
	BENCH_FLOWS_AN_ADDRESS = 32768,
	BENCH_FIRST_PORT = 16384,
	BENCH_ROOM = 20, /* bytes that a tunnel puts in front */
};

struct bench_plan {
	u16 pad; /* the frame lies as it does in memory: its IP header at a multiple of four */
	u8 frame[BENCH_BYTES]; /* as it is written anew */
	u32 address; /* of the first flow's client, host order */
	u32 sum; /* of the IPv4 header without checksum and source address */
	u32 flow; /* the next one: flow * multiplier + increment, modulo mask + 1 */
	u32 multiplier;
	u32 increment;
	u32 mask;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
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

INLINE struct bench_plan *the_plan(void)
{
	u32 only = 0;
	return bpf_map_lookup_elem(&bench_plans, &only);
}

#define AT(type, base, offset) (*(type *)((void *)(base) + (offset)))

/* In pieces that the path's reads lie within: a read that spans two writes would wait for both. */
INLINE bool write_frame(struct xdp_md *ctx, const struct bench_plan *plan)
{
	void *to = (void *)(long)ctx->data;
	if (to + BENCH_BYTES > (void *)(long)ctx->data_end)
		return false;
#pragma unroll
	for (int i = 0; i < BENCH_LINK; i += 2)
		AT(volatile u16, to, i) = AT(const volatile u16, plan->frame, i);
#pragma unroll
	for (int i = BENCH_LINK; i < BENCH_BYTES; i += 4)
		AT(volatile u32, to, i) = AT(const volatile u32, plan->frame, i);
	return true;
}

INLINE int aborted(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

/* The same frame every time. */
SEC("xdp.frags")
int bench_same(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !write_frame(ctx, plan))
		return aborted(ctx);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* Likewise, for what puts a header in front: it is taken off first. */
SEC("xdp.frags")
int bench_shrink(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || (ctx->data_end - ctx->data > sizeof(plan->frame) + BENCH_ROOM / 2 &&
		      bpf_xdp_adjust_head(ctx, BENCH_ROOM)))
		return aborted(ctx);
	if (!write_frame(ctx, plan))
		return aborted(ctx);
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* Each time the next flow of a sequence that visits all of them once. */
SEC("xdp.frags")
int bench_flows(struct xdp_md *ctx)
{
	struct bench_plan *plan = the_plan();
	if (!plan || !write_frame(ctx, plan))
		return aborted(ctx);
	void *to = (void *)(long)ctx->data;
	if (to + BENCH_BYTES > (void *)(long)ctx->data_end)
		return aborted(ctx);
	u32 flow = plan->flow;
	plan->flow = (flow * plan->multiplier + plan->increment) & plan->mask;
	u32 client = plan->address + flow / BENCH_FLOWS_AN_ADDRESS;
	u32 sum = plan->sum + to_be16(client >> 16) + to_be16(client);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	u16 port = to_be16(BENCH_FIRST_PORT + flow % BENCH_FLOWS_AN_ADDRESS);
	AT(volatile u32, to, BENCH_CHECK - 2) = AT(const volatile u16, plan->frame, BENCH_CHECK - 2) | (~sum & 0xffff) << 16;
	AT(volatile u32, to, BENCH_SOURCE) = to_be32(client);
	AT(volatile u32, to, BENCH_PORTS) = (u32)AT(const volatile u16, plan->frame, BENCH_PORTS + 2) << 16 | port;
	bpf_tail_call(ctx, &bench_target, 0);
	return aborted(ctx);
}

/* --- what stands in for the path --- */

/* The floor of all ratios: as little as forwarding can be. */
SEC("xdp.frags")
int bench_swap(struct xdp_md *ctx)
{
	u16 *mac = (void *)(long)ctx->data;
	if ((void *)(mac + 6) > (void *)(long)ctx->data_end)
		return aborted(ctx);
#pragma unroll
	for (int i = 0; i < 3; i++) {
		u16 target = mac[i];
		mac[i] = mac[i + 3];
		mac[i + 3] = target;
	}
	return XDP_TX;
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

const volatile enum bench_numbers bench_numbers __attribute__((used)) = BENCH_BYTES;

char _license[] SEC("license") = "Dual MIT/GPL";
