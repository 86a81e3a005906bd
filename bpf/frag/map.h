/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Boundaries of the fragments of a packet: one bit for each 8 bytes.
 */
#pragma once
#include "ctx/scratch.h"

/* Index of the lowest bit by a de Bruijn sequence, without branches for the verifier. */
static const u8 bit_index[64] = {
	 0,  1,  2, 53,  3,  7, 54, 27,  4, 38, 41,  8, 34, 55, 48, 28,
	62,  5, 39, 46, 44, 42, 22,  9, 24, 35, 59, 56, 49, 18, 29, 11,
	63, 52,  6, 26, 37, 40, 33, 47, 61, 45, 43, 21, 23, 58, 17, 10,
	51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
};

INLINE u32 lowest_bit(u64 bits)
{
	return bit_index[(bits & -bits) * 0x022fdd63cc95386dull >> 58];
}

/* Return the offset of the next fragment after `at`, or `end`. */
VERIFIED_ONCE u32 next_start(const struct frag_map *frags, u32 at, u32 end)
{
	u32 bit = at / 8 + 1;
	if (!frags)
		return end;
	for (u32 i = 0; i < FRAG_WORDS; i++) {
		u32 word = barrier_var(bit) / 64;
		if (word >= FRAG_WORDS)
			break;
		u64 left = frags->starts[word] >> (bit & 63);
		if (left) {
			bit = (bit + lowest_bit(left)) * 8;
			return bit < end ? bit : end;
		}
		bit = (word + 1) * 64;
	}
	return end;
}
