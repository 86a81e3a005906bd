/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Source validation by the sysctl rp_filter (RFC 3704), for IPv4: routing drops a packet before IPVS sees it, if the
 * route back to its saddr does not lead to its input device (strict), or if there is none (loose). Here such a packet
 * passes to the stack, which drops, counts and logs it.
 *
 * New connections are checked, and packets that may change a connection's state. So a packet of an established
 * connection costs nothing, and a forged one cannot end it.
 */
#pragma once
#include "conntrack/event.h"
#include "fwd/nexthop.h"

/* Return the device of the route back; 0: there is none. `output` allows routes by this device alone. */
INLINE u32 device_back(void *ctx, const struct packet *p, u32 output, u32 input)
{
	struct bpf_fib_lookup q;
	struct address to = {.word[0] = p->tuple.v4.saddr}, from = {.word[0] = p->tuple.v4.daddr};
	fill_fib_params(&q, &to, false, output ?: loopback, &from);
	switch (bpf_fib_lookup(ctx, &q, sizeof(q), output ? BPF_FIB_LOOKUP_OUTPUT : 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return q.ifindex;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT: /* a route with an encapsulation */
	case BPF_FIB_LKUP_RET_FWD_DISABLED: /* only routers answer */
		return input;
	default: /* for an own address accept_local decides (policy/martian.h), and then the stack */
		return bpf_map_lookup_elem(&locals, &to) ? input : 0;
	}
}

INLINE int has_route_back_of(struct ctx ctx, const struct packet *p, u32 input)
{
	const struct rp_filter *check = map_elem(rp_filters, input & (DEVICES - 1));
	if (!p || likely(!check) || likely(check->mode == RP_OFF) || p->is_ipv6 || p->from_host)
		return true;
	u32 device = device_back(ctx.xdp, p, 0, input);
	if (device == input || check->mode == RP_LOOSE)
		return device != 0;
	/* Of a route with several paths the lookup returns one, and the kernel accepts all. */
	return device && check->mode == RP_FEASIBLE && device_back(ctx.xdp, p, input, input);
}

GLOBAL_OF_HOOKS(int, has_route_back, has_route_back_of, (const struct packet *p, u32 input), (p, input))

/* Whether rp_filter of the input device lets the packet pass. */
INLINE bool passes_rp_filter(struct ctx ctx, const struct packet *p)
{
	return has_route_back(ctx, p, input_of(ctx, p));
}

/* Whether the packet of a connection would change its state, and its source is not valid. */
INLINE u32 is_spoofed(struct ctx ctx, const struct packet *p)
{
	const u32 steady = 1u << EVENT_ACK | 1u << EVENT_KEEP | 1u << EVENT_DATA;
	return likely(steady >> (p->event & 31) & 1) ? 0 : !passes_rp_filter(ctx, p);
}
