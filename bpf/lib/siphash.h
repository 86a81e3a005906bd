/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SipHash-1-3, a keyed hash: a sender without the key cannot choose inputs with given results.
 */
#pragma once
#include "lib/bpf.h"

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

struct sip {
	u64 v0, v1, v2, v3;
};

INLINE struct sip sip_begin(u64 first, u64 second)
{
	return (struct sip){first ^ 0x736f6d6570736575ULL, second ^ 0x646f72616e646f6dULL,
			    first ^ 0x6c7967656e657261ULL, second ^ 0x7465646279746573ULL};
}

INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTATE(s->v1, 13) ^ s->v0;
	s->v0 = ROTATE(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTATE(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTATE(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTATE(s->v1, 17) ^ s->v2;
	s->v2 = ROTATE(s->v2, 32);
}

INLINE void sip_word(struct sip *s, u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

INLINE u64 sip_end(struct sip *s)
{
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}
