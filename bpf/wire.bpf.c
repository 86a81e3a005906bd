/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The ends of a measured wire. At the director's: the least that forwards a frame, at either hook. At the far one: where
 * frames come from (run by BPF_PROG_TEST_RUN with live frames, which gives each to the director's device as the driver
 * of a card would, without a socket buffer), where they are counted and end, and what lets all pass, because a veth
 * takes natively sent frames only while it has a program.
 *
 * Client and server share the director's link. The last byte of one's MAC address is that of the other with WIRE_PAIR
 * of its bits turned, so a frame needs no table to reach the other one.
 */
#include "lib/swap.h"
#include <linux/pkt_cls.h>

enum wire_numbers {
	WIRE_PAIR = 3,
	WIRE_BYTES = 60, /* of a frame that is sent: Ethernet's shortest */
};

struct wire_plan {
	u8 frame[WIRE_BYTES];
	u32 device; /* where it goes in */
	u8 wanted[6]; /* the destination of those that are counted */
	u8 pad[2];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct wire_plan);
} wire_plans SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} wire_counts SEC(".maps");

INLINE struct wire_plan *the_plan(void)
{
	u32 only = 0;
	return bpf_map_lookup_elem(&wire_plans, &only);
}

/* Address an IPv4 frame to the other one, from whom it came to. False: it is something else. */
INLINE bool turned(void *data, void *end)
{
	u16 *mac = data;
	if (data + 14 > end || mac[6] != __builtin_bswap16(0x0800) || !swap_macs(mac, end))
		return false;
	((u8 *)data)[5] ^= WIRE_PAIR;
	return true;
}

SEC("xdp")
int wire_turn_xdp(struct xdp_md *ctx)
{
	return turned((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_TX : XDP_PASS;
}

SEC("tc")
int wire_turn_tc(struct __sk_buff *skb)
{
	if (!turned((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_UNSPEC;
	return bpf_redirect(skb->ifindex, 0);
}

/* A frame that was used before is not what it was: written anew each time. */
SEC("xdp")
int wire_source(struct xdp_md *ctx)
{
	struct wire_plan *plan = the_plan();
	u32 *to = (void *)(long)ctx->data;
	if (!plan || (void *)to + WIRE_BYTES > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < WIRE_BYTES / 4; i++)
		to[i] = ((const volatile u32 *)plan->frame)[i];
	return bpf_redirect(plan->device, 0);
}

/* Counts the frames that came out as they should. */
INLINE void count(void *data, void *end)
{
	u32 only = 0;
	u64 *counted = bpf_map_lookup_elem(&wire_counts, &only);
	struct wire_plan *plan = the_plan();
	u16 *mac = data;
	if (!counted || !plan || data + 14 > end)
		return;
	const u16 *wanted = (const u16 *)plan->wanted;
	if (mac[0] == wanted[0] && mac[1] == wanted[1] && mac[2] == wanted[2] && mac[6] == __builtin_bswap16(0x0800))
		__sync_fetch_and_add(counted, 1);
}

SEC("xdp")
int wire_end_xdp(struct xdp_md *ctx)
{
	count((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_DROP;
}

SEC("tc")
int wire_end_tc(struct __sk_buff *skb)
{
	count((void *)(long)skb->data, (void *)(long)skb->data_end);
	return TC_ACT_SHOT;
}

SEC("xdp")
int wire_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

const volatile enum wire_numbers wire_numbers __attribute__((used)) = WIRE_PAIR;

char _license[] SEC("license") = "Dual MIT/GPL";
