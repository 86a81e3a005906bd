/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Counters and rates as IPVS's estimator shows them (IPVS-SEMANTICS 9.2, 9.3), without any process. Every two seconds a
 * bpf_timer takes a snapshot of the counters, and moves each average a quarter of the way to the current rate. Fixed
 * point: events << 10, bytes << 5. A round visits the destinations, which pass on what they have counted, and then the
 * services. A service has averages of its own, because those of its destinations are rounded.
 */
#pragma once
#include "abi/config.h"
#include "abi/percpu.h"
#include "lb/destination.h"
#include "lb/service.h"
#include "timers/budget.h"

enum estimate_limits {
	ESTIMATE_SLICE = 1024, /* destinations or services in one run, at most */
	ESTIMATE_CPUS = 512, /* limit of CPUs */
	ESTIMATE_EVERY_NS = 2000000000,
};

struct estimator {
	struct bpf_timer timer;
	u64 began; /* when this round did, in ns */
	u32 next; /* next destination or service */
	u32 services; /* this round has visited all destinations, and visits the services */
};
ARRAY_MAP(estimators, struct estimator, 1, 0);

struct counter_sum {
	u32 slot;
	struct counters counters;
};

static int sum_cpu(u32 cpu, struct counter_sum *s)
{
	struct percpu_destination *percpu = percpu_of_cpu(s->slot, cpu);
	if (!percpu)
		return 1;
	const struct counters *c = &percpu->counters;
	s->counters.connections += c->connections;
	s->counters.in_packets += c->in_packets;
	s->counters.out_packets += c->out_packets;
	s->counters.in_bytes += c->in_bytes;
	s->counters.out_bytes += c->out_bytes;
	return 0;
}

INLINE void move_average(struct estimate *estimate, u32 counter, u64 now)
{
	s64 rate = (now - estimate->last[counter]) << (counter < COUNTED_EVENTS ? 9 : 4);
	estimate->averages[counter] += (rate - estimate->averages[counter]) >> 2;
	estimate->last[counter] = now;
}

struct estimate_ctx {
	u64 until; /* ns */
	u32 first;
	u32 done; /* destinations or services visited */
};

INLINE bool is_estimate_late(const struct estimate_ctx *e)
{
	return (s64)(bpf_ktime_get_ns() - e->until) >= 0;
}

/* Whether to stop after a short step. */
INLINE bool is_slice_late(u32 index, const struct estimate_ctx *e)
{
	return index % CLOCK_EVERY == CLOCK_EVERY - 1 && is_estimate_late(e);
}

/* Return the estimate of a destination's service; NULL if that was deleted: another service may have its slot. */
INLINE struct estimate *service_estimate_of(const struct destination *d, u32 live)
{
	struct service *service = map_elem(services, d->service);
	if (!service)
		return NULL;
	const struct service_version *v = version_in_force(service, live);
	return v->present && v->added == d->service_added ? map_elem(service_estimates, d->service) : NULL;
}

/* A deleted destination keeps its snapshot and its rates (1.8). What it counted since the last round is its
 * service's. */
static int estimate_step(u32 index, struct estimate_ctx *e)
{
	struct counter_sum s = {.slot = e->first + index};
	struct destination *d = map_elem(destinations, s.slot);
	struct estimate *estimate = map_elem(estimates, s.slot);
	if (!d || !estimate)
		return 1;
	e->done = index + 1;
	if (!d->used)
		return is_slice_late(index, e);
	bpf_loop(ESTIMATE_CPUS, sum_cpu, &s, 0);
	u32 live = READ_ONCE(get_root()->live);
	bool available = destination_flags(d, live) & DESTINATION_AVAILABLE;
	struct estimate *service = service_estimate_of(d, live);
	const u64 *now = &s.counters.connections;
#pragma unroll
	for (u32 i = 0; i < COUNTERS; i++) {
		if (service)
			service->passed[i] += now[i] - estimate->passed[i];
		estimate->passed[i] = now[i];
		if (available)
			move_average(estimate, i, now[i]);
	}
	return is_estimate_late(e); /* each has counters of all CPUs */
}

static int estimate_service(u32 index, struct estimate_ctx *e)
{
	struct estimate *estimate = map_elem(service_estimates, e->first + index);
	if (!estimate)
		return 1;
	e->done = index + 1;
#pragma unroll
	for (u32 i = 0; i < COUNTERS; i++)
		move_average(estimate, i, estimate->passed[i]);
	return is_slice_late(index, e);
}

static int estimate(void *map, u32 *key, struct estimator *estimator)
{
	struct book *book = map_elem(books, 0);
	if (!book || !get_root()->settings.run_estimation) {
		bpf_timer_start(&estimator->timer, ESTIMATE_EVERY_NS, 0);
		return 0;
	}
	u64 now = bpf_ktime_get_ns();
	bool services = estimator->services;
	if (!estimator->next && !services)
		estimator->began = now;
	struct estimate_ctx e = {.first = estimator->next, .until = now + RUN_NS};
	u32 top = services ? book->service_top : book->destination_top;
	u32 count = top > e.first ? top - e.first : 0;
	if (count > ESTIMATE_SLICE)
		count = ESTIMATE_SLICE;
	if (services)
		bpf_loop(count, estimate_service, &e, 0);
	else
		bpf_loop(count, estimate_step, &e, 0);
	u64 run_ns = note_run(TIMER_ESTIMATOR, now), spent = now + run_ns - estimator->began;
	bool more = e.done && e.first + e.done < top;
	estimator->next = more ? e.first + e.done : 0;
	estimator->services = more ? services : !services;
	u64 rest = spent < ESTIMATE_EVERY_NS ? ESTIMATE_EVERY_NS - spent : PAUSE_MIN_NS;
	bpf_timer_start(&estimator->timer, more || !services ? pause_after(run_ns) : rest, 0);
	return 0;
}

TIMER_STARTER(start_estimator, estimator, estimators, estimate, ESTIMATE_EVERY_NS)
