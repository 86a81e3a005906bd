/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * How long the expirer may hold a CPU in one go, how long it then rests, and how long it did hold it.
 */
#pragma once
#include "abi/conntrack.h"

enum pace_limits {
	RUN_NS = 250000, /* after which a go ends: packets of this CPU wait for it */
	PAUSE_MIN_NS = 50000, /* between goes of one round: as long as the go was, so it takes half of a CPU at most */
	PAUSE_MAX_NS = 1000000,
	CLOCK_EVERY = 64, /* steps between looks at the clock, where a step is short */
};

ARRAY_MAP(paces, struct pace, 1, BPF_F_MMAPABLE);

/* Note a go that began then. How long it was. */
INLINE u64 note_run(struct pace *pace, u64 began)
{
	u64 spent = bpf_ktime_get_ns() - began;
	u32 class = 0;
	for (u32 i = 0; i < PACE_CLASSES - 1; i++)
		class += spent >= (u64)PACE_FIRST_NS << i;
	pace->goes += 1;
	pace->spent_ns += spent;
	pace->cpu = bpf_get_smp_processor_id();
	if (spent > pace->longest_ns)
		pace->longest_ns = spent;
	pace->lengths[barrier_var(class) & (PACE_CLASSES - 1)] += 1;
	return spent;
}

INLINE u64 pause_after(u64 spent)
{
	if (spent < PAUSE_MIN_NS)
		return PAUSE_MIN_NS;
	return spent < PAUSE_MAX_NS ? spent : PAUSE_MAX_NS;
}

/* A program that the loader runs once, and again when a newer object takes over: it sets the callback of the timer in
 * the one element of `map`, a `struct type`, and starts it. bpf_timer_init says EBUSY when it is there already. */
#define TIMER_STARTER(name, type, map, callback, first_ns) \
	SEC("tc") \
	int name(struct __sk_buff *skb) \
	{ \
		struct type *of = map_elem(map, 0); \
		if (!of) \
			return 1; \
		bpf_timer_init(&of->timer, &map, 1 /* CLOCK_MONOTONIC */); \
		if (bpf_timer_set_callback(&of->timer, callback)) \
			return 2; \
		return bpf_timer_start(&of->timer, first_ns, 0) ? 3 : 0; \
	}
