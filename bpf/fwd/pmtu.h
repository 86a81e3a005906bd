/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Path MTU discovery to tunnel destinations (RFC 1191; IPVS-SEMANTICS 8.5). The kernel ignores ICMP errors about
 * packets that it has not sent. So this map has what would be route exceptions there.
 *
 * A client with a connection can forge an error about it, so an error counts for its client alone. The least path MTU
 * of all clients only decides for which packets the client's own is looked up, off the fast path.
 */
#pragma once
#include "abi/conntrack.h"
#include "abi/percpu.h"

enum { PATH_TIMEOUT_S = 600, PATH_MIN_MTU = 552 }; /* the kernel's route/mtu_expires and route/min_pmtu */

/* Return the path MTU entry of an address, unless it has expired. */
INLINE struct path_mtu *pmtu_of(const struct address *to, u32 now)
{
	struct address key = *to; /* Linux 6.1 accepts no map key from a global function's argument */
	struct path_mtu *path = bpf_map_lookup_elem(&path_mtus, &key);
	return path && (s32)(path->until - now) > 0 ? path : NULL;
}

/* Apply a smaller path MTU after a FIB lookup. */
INLINE void apply_pmtu(struct hop *hop, const struct address *to, u32 now)
{
	struct path_mtu *path = pmtu_of(to, now);
	if (!path)
		return;
	if (!is_dry())
		WRITE_ONCE(path->used, 1);
	if (path->mtu < hop->mtu)
		hop->mtu = path->mtu;
}

struct invalidate_ctx {
	u32 index;
	u32 pad;
};

static int invalidate_step(u32 cpu, struct invalidate_ctx *f)
{
	struct percpu_destination *percpu = percpu_of_cpu(f->index, cpu);
	if (!percpu)
		return 1;
	WRITE_ONCE(percpu->hop.verdict, HOP_UNKNOWN);
	WRITE_ONCE(percpu->ingress[SIDE_REQUEST].live, 0);
	return 0;
}

/* Invalidate the cached next hop of a destination on all CPUs. */
INLINE void invalidate_hops(u32 index)
{
	struct invalidate_ctx f = {.index = index};
	bpf_loop(4096, invalidate_step, &f, 0);
}

/* Return the MTU of the path to a real server for packets of one client. */
VERIFIED_ONCE u32 client_mtu(const struct hop *hop, u32 real, u32 client, u32 now)
{
	struct address key = {.word = {real, client}};
	struct path_mtu *own = pmtu_of(&key, now);
	if (!hop)
		return 0;
	return own && own->mtu < hop->link_mtu ? own->mtu : hop->link_mtu;
}

/* Whether this CPU has cached a next hop with a larger MTU. */
INLINE bool is_hop_larger(u32 index, u32 mtu)
{
	const struct percpu_destination *percpu = percpu_of(index);
	return percpu && percpu->hop.verdict != HOP_UNKNOWN && percpu->hop.mtu > mtu;
}

/* Lower the least path MTU of all clients. Return whether packets were sent by it. An error that lowers nothing
 * invalidates no next hop, or forged ones would cost every CPU a lookup each. */
INLINE bool lower_pmtu(const struct address *to, u32 index, u32 mtu, u32 now)
{
	struct path_mtu *path = pmtu_of(to, now);
	struct path_mtu fresh = {.mtu = mtu, .until = now + PATH_TIMEOUT_S * ticks_per_second};
	bool lower = !path || mtu < path->mtu;
	u32 least = lower ? mtu : path->mtu;
	if (path) {
		if (lower)
			WRITE_ONCE(path->mtu, mtu);
		WRITE_ONCE(path->until, fresh.until);
	} else {
		bpf_map_update_elem(&path_mtus, to, &fresh, BPF_ANY);
	}
	if (lower || is_hop_larger(index, least)) /* larger: a destination with the same address */
		invalidate_hops(index);
	return path && path->used;
}

/* Record the path MTU of a client of a destination from an ICMP error. `route` is the MTU of the route itself. Return
 * the MTU in use so far. The kernel reports that one to the sender of the packet: a new MTU counts only after its first
 * use. */
INLINE u32 update_pmtu(const struct address *to, u32 index, be32 client, u32 mtu, u32 route, u32 now)
{
	struct address key = {.word = {to->word[0], client}};
	struct path_mtu *path = pmtu_of(&key, now);
	bool used = lower_pmtu(to, index, mtu < PATH_MIN_MTU ? PATH_MIN_MTU : mtu, now);
	u32 old = path ? path->mtu : route, sent_by = path && used ? path->mtu : route;
	u32 until = now + PATH_TIMEOUT_S * ticks_per_second;
	if (old < mtu)
		return sent_by;
	bool too_small = mtu < PATH_MIN_MTU;
	if (too_small)
		mtu = old < PATH_MIN_MTU ? old : PATH_MIN_MTU;
	if (!path) {
		struct path_mtu fresh = {.mtu = mtu, .until = until};
		bpf_map_update_elem(&path_mtus, &key, &fresh, BPF_ANY);
		return sent_by;
	}
	if (path->mtu != mtu || too_small || (s32)(path->until - now) < (s32)(until - now) / 2)
		WRITE_ONCE(path->until, until);
	WRITE_ONCE(path->mtu, mtu);
	return used ? mtu : sent_by;
}
