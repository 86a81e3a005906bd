/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IP addresses of either family: an IPv4 address is in the first word, and the others are 0.
 */
#pragma once
#include "abi/base.h"

/* A term of the sum NH (RFC 4418, 5.2.2). */
INLINE u64 nh_term(u64 word, u64 secret)
{
	return (u64)((u32)word + (u32)secret) * ((u32)(word >> 32) + (u32)(secret >> 32));
}

/* Return the bit of an address in the bitmaps: multiply-shift with a secret factor, of the sum NH of an IPv6 address.
 * A sender without the secrets cannot choose addresses of the same bit. `address_bit` in Python computes it, too. */
INLINE u32 address_hash4(const u64 *keys, be32 address)
{
	return address * keys[0] >> (64 - HASH_BITS);
}

INLINE u32 address_hash6(const u64 *keys, u64 first, u64 last)
{
	return (nh_term(first, keys[1]) + nh_term(last, keys[2])) * keys[0] >> (64 - HASH_BITS);
}

INLINE u32 address_hash(const u64 *keys, const struct address *address, bool is_ipv6)
{
	const u32 *word = address->word;
	return is_ipv6 ? address_hash6(keys, word[0] | (u64)word[1] << 32, word[2] | (u64)word[3] << 32)
		       : address_hash4(keys, word[0]);
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

/* Clear the bits of an address behind a netmask of IPv4, or behind the first `netmask` bits. */
INLINE void mask_client(struct address *client, u32 netmask, bool is_ipv6)
{
	if (!is_ipv6) {
		client->word[0] &= bpf_htonl(netmask);
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		s32 bits = (s32)netmask - 32 * i;
		if (bits <= 0)
			client->word[i] = 0;
		else if (bits < 32)
			client->word[i] &= bpf_htonl(~0u << (32 - bits));
	}
}
