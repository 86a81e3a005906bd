/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Headers of GRE (RFC 2784) and GUE (draft-ietf-intarea-gue), for director and real server.
 */
#pragma once
#include "lib/bpf.h"

enum {
	UDP_HLEN = 8,
	GRE_HLEN = 4,
	GRE_CSUM_LEN = 4,
	GRE_FLAG_CSUM = 0x8000,
	GUE_HLEN = 4,
	GUE_WORDS = 31,
	GUE_PRIVATE = 1,
	GUE_REMCSUM_WORDS = 2,
};

#define GUE_REMCSUM 0x80000000u /* of private_flags */

struct udp {
	be16 saddr;
	be16 daddr;
	be16 length;
	u16 check;
} __attribute__((packed, aligned(2)));

struct gre {
	be16 flags;
	be16 protocol;
	u16 check; /* this and the next field: with GRE_FLAG_CSUM */
	u16 reserved;
} __attribute__((packed, aligned(2)));

struct gue {
	struct udp udp;
	u8 version_control_words; /* length of the options in words: the bits of GUE_WORDS */
	u8 protocol;
	be16 flags;
	be32 private_flags; /* this and the next two fields: with GUE_PRIVATE */
	be16 sum_start;
	be16 sum_at;
} __attribute__((packed, aligned(2)));
