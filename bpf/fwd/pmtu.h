/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Path MTU discovery towards tunnel real servers (RFC 1191; IPVS-SEMANTICS 8.5). The kernel learns nothing from errors
 * about packets that it has not sent, so what it would note as an exception of a route is noted here.
 */
#pragma once
#include "abi/conntrack.h"
#include "abi/percpu.h"

enum { PATH_LIFE_S = 600, PATH_LEAST_MTU = 552 }; /* the kernel's route/mtu_expires and route/min_pmtu */

/* What was learnt of the path to an address, unless it is too old. */
INLINE struct path *pmtu_of(const struct address *to, u32 now)
{
	struct address key = *to; /* Linux 6.1 takes no key from what a global function was given */
	struct path *path = bpf_map_lookup_elem(&paths, &key);
	return path && (s32)(path->until - now) > 0 ? path : NULL;
}

/* A destination's route has just been asked for: a smaller MTU that was learnt counts. */
INLINE void apply_pmtu(struct hop *hop, const struct address *to, u32 now)
{
	struct path *path = pmtu_of(to, now);
	if (!path)
		return;
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
	struct lane *lane = lane_of_cpu(f->index, cpu);
	if (!lane)
		return 1;
	WRITE_ONCE(lane->hop.verdict, HOP_UNKNOWN);
	WRITE_ONCE(lane->entrances[SIDE_REQUEST].live, 0);
	return 0;
}

/* No CPU sends to this destination by the route that it had. */
INLINE void invalidate_hops(u32 index)
{
	struct invalidate_ctx f = {.index = index};
	bpf_loop(4096, invalidate_step, &f, 0);
}

/* An error told that `mtu` is the path's. `route` is the MTU without any such news. The result is the MTU by which
 * packets have been sent so far, for that is what the kernel reports to whoever sent the too long packet: the new one
 * counts only after its first use. */
INLINE u32 update_pmtu(const struct address *to, u32 mtu, u32 route, u32 now)
{
	struct path *path = pmtu_of(to, now);
	u32 old = path ? path->mtu : route, sent_by = path && path->used ? path->mtu : route;
	u32 until = now + PATH_LIFE_S * ticks_per_second;
	if (old < mtu)
		return sent_by;
	bool least = mtu < PATH_LEAST_MTU;
	if (least)
		mtu = old < PATH_LEAST_MTU ? old : PATH_LEAST_MTU;
	if (!path) {
		struct path fresh = {.mtu = mtu, .until = until};
		bpf_map_update_elem(&paths, to, &fresh, BPF_ANY);
		return sent_by;
	}
	if (path->mtu != mtu || least || (s32)(path->until - now) < (s32)(until - now) / 2)
		WRITE_ONCE(path->until, until);
	WRITE_ONCE(path->mtu, mtu);
	return path->used ? mtu : sent_by;
}
