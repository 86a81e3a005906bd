/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The least that a program which forwards does to a frame: swap its MAC addresses. Benchmarks compare with it.
 */
#pragma once
#include "lib/bpf.h"

INLINE bool swap_macs(u16 *mac, void *end)
{
	if ((void *)(mac + 6) > end)
		return false;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		u16 daddr = mac[i];
		mac[i] = mac[i + 3];
		mac[i + 3] = daddr;
	}
	return true;
}
