// SPDX-License-Identifier: GPL-2.0 OR MIT
// Print the nanoseconds in which a cache line moves from one processor to another: `transfer CPU CPU ROUNDS`.
// Two threads increment one word in turn; each increment needs the line that the other thread has just written.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static _Alignas(128) atomic_ulong word;
static unsigned long rounds;

struct side {
	int cpu;
	unsigned long parity;
	int failed;
};

static void *increment(void *argument)
{
	struct side *side = argument;
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(side->cpu, &set);
	side->failed = sched_setaffinity(0, sizeof(set), &set);
	for (unsigned long i = 0; i < rounds; i++) {
		while ((atomic_load_explicit(&word, memory_order_acquire) & 1) != side->parity)
			;
		atomic_fetch_add_explicit(&word, 1, memory_order_acq_rel);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	if (count != 4)
		return 2;
	struct side sides[2] = {{atoi(arguments[1]), 0, 0}, {atoi(arguments[2]), 1, 0}};
	struct timespec begin, end;
	pthread_t other;
	rounds = strtoul(arguments[3], NULL, 10);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (pthread_create(&other, NULL, increment, &sides[1]))
		return 1;
	increment(&sides[0]);
	pthread_join(other, NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (sides[0].failed || sides[1].failed)
		return 1;
	double spent = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
	printf("%.1f\n", spent / (2.0 * rounds));
	return 0;
}
