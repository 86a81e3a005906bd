/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The run time of timers: limits of a run and of the pause behind it, and statistics.
 */
#pragma once
#include "abi/conntrack.h"

enum budget_limits {
	/* Packets of this CPU wait for a run, 0.1 ms at most. Each timer reads the clock after steps that take less
	 * than the rest of that, also where all their memory is remote. */
	RUN_NS = 50000,
	/* Between runs of one round. A pause is as long as the run before, so a timer takes at most half of a CPU. */
	PAUSE_MIN_NS = 50000,
	PAUSE_MAX_NS = 1000000,
	CLOCK_EVERY = 64, /* short steps between two reads of the clock */
};

ARRAY_MAP(timer_runs, struct timer_runs, TIMERS, BPF_F_MMAPABLE); /* by enum timers */

/* Count a run of a timer that started at `began`; return its duration. */
INLINE u64 note_run(enum timers timer, u64 began)
{
	struct timer_runs *runs = map_elem(timer_runs, timer);
	u64 spent = bpf_ktime_get_ns() - began;
	u32 class = 0;
	if (!runs)
		return spent;
	for (u32 i = 0; i < RUN_CLASSES - 1; i++)
		class += spent >= (u64)RUN_FIRST_NS << i;
	runs->count += 1;
	runs->spent_ns += spent;
	runs->cpu = bpf_get_smp_processor_id();
	if (spent > runs->longest_ns)
		runs->longest_ns = spent;
	runs->lengths[barrier_var(class) & (RUN_CLASSES - 1)] += 1;
	return spent;
}

INLINE u64 pause_after(u64 spent)
{
	if (spent < PAUSE_MIN_NS)
		return PAUSE_MIN_NS;
	return spent < PAUSE_MAX_NS ? spent : PAUSE_MAX_NS;
}

/* Define a program that sets the callback of the timer in the one element of `map`, a `struct type`, and starts it. The
 * loader runs it once, and again for a newer object: then bpf_timer_init returns EBUSY, which is no error. */
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
