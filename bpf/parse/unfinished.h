/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Unfinished transport checksums (CHECKSUM_PARTIAL): the sender left the field at the sum of the pseudo header, and the
 * sending device completes it. Virtual machines, containers and the kernel's GRO send such packets. TC has the kernel's
 * note of that, and the redirect keeps it. XDP has no such note, and frames that it sends leave as they are. So XDP
 * passes them to TC.
 *
 * The field itself tells them: a finished checksum has this value in one packet of 65,535, and TC forwards that one,
 * too.
 */
#pragma once
#include "lib/csum.h"
#include "lib/headers.h"

/* `addresses` is the sum of both addresses, `rest` of the protocol and the length of the transport header and payload,
 * `check` the field. All are in network order. */
INLINE bool is_unfinished(u64 addresses, u32 rest, u16 check)
{
	return csum_is_right(addresses + rest + (u16)~check);
}

INLINE u32 pseudo_rest(u8 protocol, u32 l4_length)
{
	return bpf_htons(protocol) + bpf_htons(l4_length);
}

/* Sum 64-bit words. */
INLINE u64 words_sum(const u64 *words, u32 count)
{
	u64 sum = 0;
#pragma unroll
	for (u32 i = 0; i < 4; i++) {
		if (i >= count)
			break;
		u64 word = words[i];
		word = barrier_var(word); /* one load */
		sum += (u32)word + (word >> 32);
	}
	return sum;
}
