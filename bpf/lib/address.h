/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IP addresses of either family: an IPv4 address is in the first word, and the others are 0.
 */
#pragma once
#include "abi/base.h"

INLINE u32 address_hash(const struct address *address, bool is_ipv6)
{
	u32 folded = address->word[0];
	if (is_ipv6)
		folded ^= address->word[1] ^ address->word[2] ^ address->word[3];
	return (folded * 0x61C88647u) >> (32 - HASH_BITS);
}

INLINE bool in_bitmap(const u64 *bits, u32 hash)
{
	return bits[(hash >> 6) & (BITMAP_WORDS - 1)] >> (hash & 63) & 1;
}

INLINE bool same_address(const struct address *a, const struct address *b, bool is_ipv6)
{
	if (a->word[0] != b->word[0])
		return false;
	return !is_ipv6 || !((a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3]));
}

INLINE u64 address_sum(const struct address *a, int words, bool inverted)
{
	u64 sum = 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (i < words)
			sum += inverted ? ~a->word[i] : a->word[i];
	return sum;
}

INLINE bool is_loopback_address(const struct address *address, u32 family)
{
	if (family == 6)
		return !(address->word[0] | address->word[1] | address->word[2]) && address->word[3] == bpf_htonl(1);
	return bpf_ntohl(address->word[0]) >> 24 == 127;
}
