/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The internet checksum (RFC 1071), for director and real server.
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

/* Whether a sum that includes its own checksum folds to 0xffff, so is a multiple of 65535. Multiply by the inverse of
 * 65535 modulo 2^64: a multiple gives its quotient, any other number gives more than all quotients. */
INLINE bool csum_is_right(u64 sum)
{
	return sum * 0xfffefffefffeffffULL <= 0x0001000100010001ULL;
}

INLINE u16 csum_replace(u16 check, u64 difference)
{
	return ~csum_fold((u16)~check + difference);
}

/* --- of a part of the frame, at TC --- */

enum { CSUM_CHUNK = 512 };

struct csum_frame_ctx {
	struct __sk_buff *skb;
	u8 *buffer; /* CSUM_CHUNK bytes */
	u32 at;
	u32 left;
	u32 sum;
};

struct csum_chunk {
	u8 bytes[CSUM_CHUNK];
};

VERIFIED_ONCE int zero_csum_chunk(struct csum_chunk *piece)
{
	if (piece)
		memzero(piece, sizeof(*piece));
	return 0;
}

/* Sum the next chunk of the frame; a step of bpf_loop. */
static int csum_step(u32 index, struct csum_frame_ctx *s)
{
	u32 size = s->left < CSUM_CHUNK ? s->left : CSUM_CHUNK;
	if (!size)
		return 1;
	if (size < CSUM_CHUNK)
		zero_csum_chunk((void *)s->buffer);
	u32 length = barrier_var(size);
	if (!IS_LENGTH(length, CSUM_CHUNK) || bpf_skb_load_bytes(s->skb, s->at, s->buffer, length))
		return 1;
	s->sum = bpf_csum_diff(NULL, 0, (be32 *)s->buffer, CSUM_CHUNK, s->sum);
	s->at += size;
	s->left -= size;
	return 0;
}

/* Return the sum of `length` bytes of the frame from `at` on. `buffer` has CSUM_CHUNK bytes. */
INLINE u32 csum_frame(struct __sk_buff *skb, u8 *buffer, u32 at, u32 length, u32 sum)
{
	struct csum_frame_ctx s = {.skb = skb, .buffer = buffer, .at = at, .left = length, .sum = sum};
	FORGET_BOUNDS(s, at, sum);
	bpf_loop(65536 / CSUM_CHUNK, csum_step, &s, 0);
	return s.sum;
}
