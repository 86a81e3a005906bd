/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Next hops: device, MAC addresses, MTU. FIB lookups are cached for a second per CPU: per destination here, and per
 * client of NAT in fwd/client_hop.h.
 *
 * Lookups pretend that the packet came in by lo, whose forwarding is on. So direct routing and tunnels work with
 * ip_forward=0, as in IPVS.
 */
#pragma once
#include "abi/config.h"
#include "ctx/device.h"
#include "fwd/pmtu.h"
#include "lib/headers.h"
#include "parse/packet.h"
#include "policy/own_address.h"
#include "policy/vrrp_role.h"

enum {
	MIN_MTU4 = 68,
	MIN_MTU6 = 1280, /* RFC 791, RFC 8200 5 */
};

/* Whether the hop has a neighbour, resolved or not. Without branches: the verifier would follow each of them. */
INLINE bool has_neighbour(const struct hop *hop)
{
	return (1u << HOP_READY | 1u << HOP_UNRESOLVED) >> (hop->verdict & 7) & 1;
}

/* Whether a lookup is the first one of its period after another one. Without packets of its own the kernel would never
 * ask the neighbour again. A changed MAC address that no one announced would stay unknown. */
INLINE bool is_confirm_due(u32 former_stamp, u32 stamp)
{
	return former_stamp && former_stamp / confirm_ticks != stamp / confirm_ticks;
}

INLINE void fill_fib_params(struct bpf_fib_lookup *q, const struct address *to, bool is_ipv6, u32 input,
			    const struct address *from)
{
	__builtin_memset(q, 0, sizeof(*q));
	q->ifindex = input;
	q->tot_len = 1; /* makes the kernel return the MTU */
	if (is_ipv6) {
		q->family = AF_INET6;
		__builtin_memcpy(q->ipv6_dst, to, sizeof(*to));
		if (from)
			__builtin_memcpy(q->ipv6_src, from, sizeof(*from));
	} else {
		q->family = AF_INET;
		q->ipv4_dst = to->word[0];
		if (from)
			q->ipv4_src = from->word[0];
	}
}

/* Whether an address that routing does not forward is local. bpf_fib_lookup returns the same for a local address and
 * for a missing route. The snapshots decide. They lack tables that only some packets reach (`ip rule fwmark`), and what
 * came after the last edit. So an address with a route in the main table is local, too. `q` is a buffer. */
INLINE bool is_own_address_by(void *ctx, struct bpf_fib_lookup *q, const struct address *address, bool is_ipv6)
{
	if (has_local_route(address, is_ipv6))
		return true;
	fill_fib_params(q, address, is_ipv6, loopback, NULL);
	long ret = bpf_fib_lookup(ctx, q, sizeof(*q), BPF_FIB_LOOKUP_DIRECT);
	return ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* Whether routing delivers the address to this host. */
INLINE bool is_delivered_by(void *ctx, struct bpf_fib_lookup *q, const struct address *to, bool is_ipv6)
{
	fill_fib_params(q, to, is_ipv6, loopback, NULL);
	return bpf_fib_lookup(ctx, q, sizeof(*q), 0) == BPF_FIB_LKUP_RET_NOT_FWDED &&
	       is_own_address_by(ctx, q, to, is_ipv6);
}

/* Whether the route to an address of IPv4 beside this one is to both. Then routing would have forwarded this one, too,
 * unless it is local: so packets reach a virtual address that was added after the last edit. Not for real servers,
 * where a route to one host may go while that to its neighbour stays. `q` is a buffer. */
INLINE bool has_route_beside(void *ctx, struct bpf_fib_lookup *q, const struct address *address)
{
#pragma unroll
	for (u32 bit = 1; bit <= 4; bit <<= 1) { /* the neighbours may be local, too */
		struct address beside = {.word = {address->word[0] ^ bpf_htonl(bit)}};
		fill_fib_params(q, &beside, false, loopback, NULL);
		long ret = bpf_fib_lookup(ctx, q, sizeof(*q), 0);
		if (ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH)
			return true;
	}
	return false;
}

/* Whether a virtual address that routing does not forward is local. `q` is a buffer. */
INLINE bool is_own_virtual_by(void *ctx, struct bpf_fib_lookup *q, const struct address *address, bool is_ipv6)
{
	return is_own_address_by(ctx, q, address, is_ipv6) || (!is_ipv6 && has_route_beside(ctx, q, address));
}

/* Whether routing delivers a virtual address to this host. */
INLINE bool is_virtual_delivered(void *ctx, const struct address *address, bool is_ipv6)
{
	struct bpf_fib_lookup params;
	fill_fib_params(&params, address, is_ipv6, loopback, NULL);
	long ret = bpf_fib_lookup(ctx, &params, sizeof(params), 0);
	/* Another program has turned off forwarding of lo. The stack would reset connections before it is on again. */
	if (unlikely(ret == BPF_FIB_LKUP_RET_FWD_DISABLED))
		return has_local_route(address, is_ipv6);
	return ret == BPF_FIB_LKUP_RET_NOT_FWDED && is_own_virtual_by(ctx, &params, address, is_ipv6);
}

INLINE int is_local_or_vrrp(struct ctx ctx, const struct address *address, bool is_ipv6)
{
	if (!address)
		return false;
	struct address key = *address;
	return is_virtual_delivered(ctx.xdp, &key, is_ipv6) || is_vrrp_address(&key);
}

/* Whether packets to a virtual address are for this host: routing delivers them, or a virtual router has the
 * address. */
GLOBAL_OF_HOOKS(int, is_local_vip, is_local_or_vrrp, (const struct address *address, u32 is_ipv6), (address, is_ipv6))

INLINE int lookup_fib_of(struct ctx ctx, struct hop *hop, const struct address *to, u32 ipv6_and_input,
			 const struct address *from)
{
	struct bpf_fib_lookup params;
	bool is_ipv6 = ipv6_and_input & 1;
	if (!hop || !to)
		return 0;
	fill_fib_params(&params, to, is_ipv6, ipv6_and_input >> 1, from);
	u32 flags = fib_gives_saddr && !from ? BPF_FIB_LOOKUP_SRC : 0;
	long ret = bpf_fib_lookup(ctx.xdp, &params, sizeof(params), flags);
	hop->stamp = ticks();
	hop->ifindex = params.ifindex;
	hop->mtu = params.mtu_result;
	hop->gateway_is_ipv6 = params.family == AF_INET6;
	if (hop->gateway_is_ipv6)
		__builtin_memcpy(&hop->gateway, params.ipv6_dst, sizeof(hop->gateway));
	else
		hop->gateway = (struct address){.word[0] = params.ipv4_dst};
	if (is_ipv6)
		__builtin_memcpy(&hop->saddr, params.ipv6_src, sizeof(hop->saddr));
	else
		hop->saddr = (struct address){.word[0] = params.ipv4_src};
	switch (ret) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		hop->verdict = HOP_READY;
		__builtin_memcpy(hop->dmac, params.dmac, 6);
		__builtin_memcpy(hop->smac, params.smac, 6);
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		/* Without a resolved neighbour the kernel returns the MTU only for a packet that exceeds it. */
		fill_fib_params(&params, to, is_ipv6, ipv6_and_input >> 1, from);
		params.tot_len = 0xffff;
		bpf_fib_lookup(ctx.xdp, &params, sizeof(params), 0);
		hop->mtu = params.mtu_result;
		hop->verdict = HOP_UNRESOLVED;
		break;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		hop->verdict = is_delivered_by(ctx.xdp, &params, to, is_ipv6) ? HOP_LOCAL : HOP_NO_FORWARDING;
		break;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		hop->verdict = is_own_address_by(ctx.xdp, &params, to, is_ipv6) ? HOP_LOCAL : HOP_NO_ROUTE;
		break;
	default:
		hop->verdict = HOP_NO_ROUTE;
	}
	return 0;
}

GLOBAL_OF_HOOKS(int, lookup_fib, lookup_fib_of,
		(struct hop *hop, const struct address *to, u32 ipv6_and_input, const struct address *from),
		(hop, to, ipv6_and_input, from))

/* Look up the next hop. `from` is the saddr for policy routing, or NULL. */
INLINE void lookup_hop(struct ctx ctx, struct hop *hop, const struct address *to, bool is_ipv6, u32 input,
		       const struct address *from)
{
	lookup_fib(ctx, hop, to, is_ipv6 | input << 1, from); /* a BPF function has at most five arguments */
}

/* Repeat the lookup of a destination, and the check of its virtual address. Its packets must take the general path once
 * before the fast path. */
INLINE int refresh_hop_of(struct ctx ctx, struct percpu_destination *percpu, const struct destination *d, u32 now)
{
	if (!percpu || !d)
		return 0;
	struct hop *hop = &percpu->hop;
	lookup_hop(ctx, hop, &d->address, d->family == 6, loopback, NULL);
	percpu->ingress[SIDE_REQUEST].live = 0;
	hop->is_foreign_vip = !d->mark && !is_local_vip(ctx, &d->virtual_address, d->virtual_family == 6);
	/* The kernel applies a route's own MTU to forwarded packets only if it is locked. */
	if (d->mtu && d->mtu < hop->mtu)
		hop->mtu = d->mtu;
	hop->link_mtu = hop->mtu;
	if (d->family == 4)
		apply_pmtu(hop, &d->address, now);
	return 0;
}

GLOBAL_OF_HOOKS(int, refresh_hop, refresh_hop_of,
		(struct percpu_destination *percpu, const struct destination *d, u32 now), (percpu, d, now))

/* Return the next hop of a destination, at most a second old. Only a resolved one of a local virtual address is cached.
 * `confirm`, for XDP alone: pass this packet to TC, where the kernel's neighbour code keeps the neighbour entry valid.
 * TC gives NULL. */
INLINE struct hop *destination_hop(struct ctx ctx, u32 index, const struct destination *d, u32 now, bool *confirm)
{
	bool dry = is_dry(); /* such a copy has one element for all destinations */
	struct percpu_destination *percpu = percpu_of(dry ? index % PERCPU_DESTINATIONS : index);
	if (confirm)
		*confirm = false;
	if (!percpu)
		return NULL;
	percpu = barrier_var(percpu);
	struct hop *hop = &percpu->hop;
	if (dry || unlikely(now - hop->stamp >= ticks_per_second ||
		     (hop->verdict != HOP_READY && hop->verdict != HOP_LOCAL) || hop->is_foreign_vip)) {
		u32 former_stamp = hop->stamp;
		refresh_hop(ctx, percpu, d, now);
		if (confirm)
			*confirm = is_confirm_due(former_stamp, hop->stamp);
	}
	return hop;
}

/* How XDP sends: by the ingress device, by another device whose driver supports it, or not at all. */
enum xmit_mode { XMIT_TX, XMIT_REDIRECT, XMIT_NONE };

INLINE enum xmit_mode xmit_mode_to(const struct hop *hop, u32 input)
{
	u32 ifindex = hop->ifindex;
	if (likely(ifindex == input))
		return XMIT_TX;
	return bpf_map_lookup_elem(&transmitters, &ifindex) ? XMIT_REDIRECT : XMIT_NONE;
}

INLINE int xdp_xmit(const struct hop *hop, enum xmit_mode mode)
{
	return likely(mode == XMIT_TX) ? (int)XDP_TX : (int)bpf_redirect_map(&transmitters, hop->ifindex, 0);
}

INLINE bool xdp_reaches(const struct packet *p, const struct hop *hop)
{
	return xmit_mode_to(hop, p->input) != XMIT_NONE;
}
