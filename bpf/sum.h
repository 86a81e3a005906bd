/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Sums of the internet checksum (RFC 1071), of numbers and of a part of the frame, for director and real server.
 */
#pragma once
#include "helpers.h"

/* Of a sum below 2^48: more words than a frame has. */
INLINE u16 folded(u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* Whether what has its checksum in it sums up to what folds to 0xffff, so is a multiple of 65535. Of a multiple of an odd
 * number, the product with its inverse modulo 2^64 is the quotient; of anything else it is greater than any quotient. */
INLINE bool is_right(u64 sum)
{
	return sum * 0xfffefffefffeffffULL <= 0x0001000100010001ULL;
}

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
