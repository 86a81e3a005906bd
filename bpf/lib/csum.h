/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The internet checksum (RFC 1071) of numbers.
 */
#pragma once
#include "lib/bpf.h"

/* Fold a sum below 2^48, which is more 16-bit words than a frame has. */
INLINE u16 csum_fold(u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* Whether a sum that includes its own checksum folds to 0xffff, so is a multiple of 65535. The product of a multiple
 * of an odd number with that number's inverse modulo 2^64 is the quotient; for any other number it exceeds all
 * quotients. */
INLINE bool csum_is_right(u64 sum)
{
	return sum * 0xfffefffefffeffffULL <= 0x0001000100010001ULL;
}

INLINE u16 csum_replace(u16 check, u64 difference)
{
	return ~csum_fold((u16)~check + difference);
}
