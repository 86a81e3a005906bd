/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The internet checksum of a part of the frame, at TC, for director and real server.
 */
#pragma once
#include "lib/csum.h"

enum { SUM_PIECE = 512 };

struct summing {
	struct __sk_buff *skb;
	u8 *buffer; /* of SUM_PIECE bytes */
	u32 at;
	u32 left;
	u32 sum;
};

struct sum_piece {
	u8 bytes[SUM_PIECE];
};

VERIFIED_ONCE int wipe_sum_piece(struct sum_piece *piece)
{
	if (piece)
		wipe(piece, sizeof(*piece));
	return 0;
}

/* A step of bpf_loop: the next piece of the frame. */
static int sum_step(u32 index, struct summing *s)
{
	u32 size = s->left < SUM_PIECE ? s->left : SUM_PIECE;
	if (!size)
		return 1;
	if (size < SUM_PIECE)
		wipe_sum_piece((void *)s->buffer);
	u32 length = OPAQUE(size);
	if (!IS_LENGTH(length, SUM_PIECE) || bpf_skb_load_bytes(s->skb, s->at, s->buffer, length))
		return 1;
	s->sum = bpf_csum_diff(NULL, 0, (be32 *)s->buffer, SUM_PIECE, s->sum);
	s->at += size;
	s->left -= size;
	return 0;
}

/* Sum of `length` bytes of the frame from `at` on. `buffer` has SUM_PIECE bytes. */
INLINE u32 sum_of(struct __sk_buff *skb, u8 *buffer, u32 at, u32 length, u32 sum)
{
	struct summing s = {.skb = skb, .buffer = buffer, .at = at, .left = length, .sum = sum};
	FORGET(s, at, sum);
	bpf_loop(65536 / SUM_PIECE, sum_step, &s, 0);
	return s.sum;
}
