/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The headers of frames. Fields have the kernel's names; they lie 2-aligned, as frames do, and have no bit-fields.
 */
#pragma once
#include "abi/base.h"
#include "lib/csum.h"

enum numbers {
	ETHER = 14,
	ETHER_IPV4 = 0x0800,
	ETHER_IPV6 = 0x86dd,
	PROTO_ICMP = 1,
	PROTO_IPIP = 4,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_IPV6 = 41,
	PROTO_FRAGMENT = 44,
	PROTO_GRE = 47,
	PROTO_ESP = 50,
	PROTO_AH = 51,
	PROTO_ICMP6 = 58,
	PROTO_SCTP = 132,
	FAMILY_V4 = 2, /* AF_INET */
	FAMILY_V6 = 10,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	TCP_BYTES = 20,
	UDP_BYTES = 8,
	IPV4_DF = 0x4000,
	IPV4_MF = 0x2000,
	IPV4_OFFSET = 0x1fff,
	PORT_FTP_DATA = 20,
	PORT_FTP = 21,
	PORT_IKE = 500,
};

enum { GRE_BYTES = 4, GRE_SUM_BYTES = 4, GUE_BYTES = 4, REMCSUM_BYTES = 8 };

struct ether {
	u8 target[6];
	u8 source[6];
	be16 kind;
} __attribute__((packed));

struct ipv4 {
	u8 version_words;
	u8 tos;
	be16 length;
	be16 id;
	be16 fragment;
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 source;
	be32 target;
} __attribute__((packed, aligned(2)));

struct ipv6 {
	be32 version_class_flow;
	be16 length;
	u8 next;
	u8 hops;
	struct address source;
	struct address target;
} __attribute__((packed, aligned(2)));

struct ports {
	be16 source;
	be16 target;
};

struct udp {
	be16 source;
	be16 target;
	be16 length;
	u16 check;
} __attribute__((packed, aligned(2)));

enum { GRE_SUM_PRESENT = 0x8000, GUE_PRIVATE = 1, GUE_REMCSUM = 0x80000000, GUE_OPTION_WORDS = 2 };

struct gre {
	be16 flags;
	be16 protocol;
	u16 check; /* with GRE_SUM_PRESENT, as what follows */
	u16 reserved;
} __attribute__((packed, aligned(2)));

struct gue {
	struct udp udp;
	u8 version_control_words;
	u8 protocol;
	be16 flags;
	be32 private_flags; /* with GUE_PRIVATE, as what follows */
	be16 sum_start;
	be16 sum_at;
} __attribute__((packed, aligned(2)));

struct icmp_header {
	u8 type;
	u8 code;
	u16 check;
	be32 rest;
} __attribute__((packed));

struct outer4 {
	struct ether ether;
	struct ipv4 ip;
} __attribute__((packed));

struct outer6 {
	struct ether ether;
	struct ipv6 ip;
} __attribute__((packed));

/* Sum of an IPv4 header without options; 0xffff when its checksum is right. */
INLINE u16 header_sum(const struct ipv4 *ip)
{
	const u16 *half = (const void *)ip;
	u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	return folded(sum);
}

/* Protocols whose first packet may open a connection. */
INLINE bool has_ports(u8 protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP;
}

/* IPsec, which rides on the connection of its key exchange (IPVS-SEMANTICS 4.7). */
INLINE bool is_ipsec(u8 protocol)
{
	return protocol == PROTO_AH || protocol == PROTO_ESP;
}
