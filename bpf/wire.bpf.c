/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Programs at both ends of a measured wire. At the director's end: the least that forwards a frame, at either hook. At
 * the far end: a source of frames, and a counter that drops them. BPF_PROG_TEST_RUN with live frames runs the source;
 * it gives each frame to the director's device without a socket buffer, as a driver does. `wire_pass` is there because
 * a veth receives frames of native XDP only while it has a program.
 *
 * Client and server share the director's link. Their MAC addresses differ in the bits WIRE_PAIR of the last byte, so
 * forwarding needs no table.
 */
#include "lib/swap.h"
#include <linux/pkt_cls.h>

enum wire_numbers {
	WIRE_PAIR = 3,
	WIRE_BYTES = 60, /* Ethernet's shortest frame */
};

struct wire_plan {
	u8 frame[WIRE_BYTES];
	u32 device; /* device that receives the frames */
	u8 wanted[6]; /* MAC address of counted frames */
	u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct wire_plan);
} wire_plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} wire_counts SEC(".maps");

INLINE struct wire_plan *get_plan(void)
{
	u32 only = 0;
	return bpf_map_lookup_elem(&wire_plans, &only);
}

/* Readdress an IPv4 frame from one host to the other. Return false for other frames. */
INLINE bool readdress(void *data, void *end)
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
	return readdress((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_TX : XDP_PASS;
}

SEC("tc")
int wire_turn_tc(struct __sk_buff *skb)
{
	if (!readdress((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_UNSPEC;
	return bpf_redirect(skb->ifindex, 0);
}

/* Rewrites the frame each time, because the run before has changed it. */
SEC("xdp")
int wire_generator(struct xdp_md *ctx)
{
	struct wire_plan *plan = get_plan();
	u32 *to = (void *)(long)ctx->data;
	if (!plan || (void *)to + WIRE_BYTES > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < WIRE_BYTES / 4; i++)
		to[i] = ((const volatile u32 *)plan->frame)[i];
	return bpf_redirect(plan->device, 0);
}

/* Count a frame with the wanted MAC address. */
INLINE void count(void *data, void *end)
{
	u32 only = 0;
	u64 *counted = bpf_map_lookup_elem(&wire_counts, &only);
	struct wire_plan *plan = get_plan();
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
