/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Rates, as IPVS's estimator computes them (IPVS-SEMANTICS 9.3), without any process. Every two seconds a bpf_timer
 * moves each average a quarter of the way to the current rate. Fixed point: events << 10, bytes << 5.
 */
#pragma once
#include "abi/config.h"
#include "abi/percpu.h"
#include "timers/budget.h"

enum estimate_limits {
	ESTIMATE_SLICE = 1024, /* destinations in one run, at most */
	ESTIMATE_CPUS = 512, /* limit of CPUs */
	ESTIMATE_EVERY_NS = 2000000000,
};

struct estimator {
	struct bpf_timer timer;
	u64 began; /* when this round did, in ns */
	u32 next; /* next destination */
	u32 pad;
};
ARRAY_MAP(estimators, struct estimator, 1, 0);

struct counter_sum {
	u32 slot;
	struct counters counters;
};

static int sum_cpu(u32 cpu, struct counter_sum *s)
{
	struct lane *lane = lane_of_cpu(s->slot, cpu);
	if (!lane)
		return 1;
	const struct counters *c = &lane->counters;
	s->counters.connections += c->connections;
	s->counters.in_packets += c->in_packets;
	s->counters.out_packets += c->out_packets;
	s->counters.in_bytes += c->in_bytes;
	s->counters.out_bytes += c->out_bytes;
	return 0;
}

INLINE void move_average(s64 *average, u64 *last, u64 now, u32 scale)
{
	s64 rate = (now - *last) << scale;
	*average += (rate - *average) >> 2;
	*last = now;
}

struct estimate_ctx {
	u64 until; /* ns */
	u32 first;
	u32 done; /* destinations visited */
};

INLINE bool is_estimate_late(const struct estimate_ctx *e)
{
	return (s64)(bpf_ktime_get_ns() - e->until) >= 0;
}

static int estimate_step(u32 index, struct estimate_ctx *e)
{
	struct counter_sum s = {.slot = e->first + index};
	struct destination *d = map_elem(destinations, s.slot);
	struct estimate *estimate = map_elem(estimates, s.slot);
	if (!d || !estimate)
		return 1;
	e->done = index + 1;
	if (!d->used) /* a short step */
		return index % CLOCK_EVERY == CLOCK_EVERY - 1 && is_estimate_late(e);
	bpf_loop(ESTIMATE_CPUS, sum_cpu, &s, 0);
	move_average(&estimate->averages[0], &estimate->last[0], s.counters.connections, 9);
	move_average(&estimate->averages[1], &estimate->last[1], s.counters.in_packets, 9);
	move_average(&estimate->averages[2], &estimate->last[2], s.counters.out_packets, 9);
	move_average(&estimate->averages[3], &estimate->last[3], s.counters.in_bytes, 4);
	move_average(&estimate->averages[4], &estimate->last[4], s.counters.out_bytes, 4);
	return is_estimate_late(e); /* each has counters of all CPUs */
}

static int estimate(void *map, u32 *key, struct estimator *estimator)
{
	struct book *book = map_elem(books, 0);
	if (!get_root()->settings.run_estimation) {
		bpf_timer_start(&estimator->timer, ESTIMATE_EVERY_NS, 0);
		return 0;
	}
	u64 now = bpf_ktime_get_ns();
	if (!estimator->next)
		estimator->began = now;
	struct estimate_ctx e = {.first = estimator->next, .until = now + RUN_NS};
	u32 top = book ? book->destination_top : 0;
	u32 count = top > e.first ? top - e.first : 0;
	if (count > ESTIMATE_SLICE)
		count = ESTIMATE_SLICE;
	bpf_loop(count, estimate_step, &e, 0);
	u64 run_ns = note_run(TIMER_ESTIMATOR, now), spent = now + run_ns - estimator->began;
	bool more = e.done && e.first + e.done < top;
	estimator->next = more ? e.first + e.done : 0;
	u64 rest = spent < ESTIMATE_EVERY_NS ? ESTIMATE_EVERY_NS - spent : PAUSE_MIN_NS;
	bpf_timer_start(&estimator->timer, more ? pause_after(run_ns) : rest, 0);
	return 0;
}

TIMER_STARTER(start_estimator, estimator, estimators, estimate, ESTIMATE_EVERY_NS)
