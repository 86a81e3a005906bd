/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Packet headers. Fields have the kernel's names, except those that maps share. The structures differ from the kernel's
 * in two ways: frames are 2-aligned, and BTF of maps must not have bit-fields.
 */
#pragma once
#include "abi/base.h"
#include "lib/csum.h"
#include "lib/gre_gue.h"
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

enum {
	AF_INET = 2, /* of the C library; no UAPI header has it */
	AF_INET6 = 10,
	IPV4_HLEN = 20,
	IPV6_HLEN = 40,
	TCP_HLEN = 20,
	IP_DF = 0x4000,
	IP_MF = 0x2000,
	IP_OFFSET = 0x1fff,
	PORT_FTP_DATA = 20,
	PORT_FTP = 21,
	PORT_IKE = 500,
	VID_MASK = 0xfff,
};

struct eth_header {
	u8 h_dest[6];
	u8 h_source[6];
	be16 h_proto;
} __attribute__((packed));

struct ipv4_header {
	u8 version_ihl;
	u8 tos;
	be16 tot_len;
	be16 id;
	be16 frag_off;
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 saddr;
	be32 daddr;
} __attribute__((packed, aligned(2)));

struct ipv6_header {
	be32 version_class_flow;
	be16 payload_len;
	u8 nexthdr;
	u8 hop_limit;
	struct address saddr;
	struct address daddr;
} __attribute__((packed, aligned(2)));

struct ports {
	be16 saddr;
	be16 daddr;
};

/* Names of linux/icmp.h, which cannot be included: it includes a header of the C library. */
enum {
	ICMP_DEST_UNREACH = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_HOST_UNREACH = 1, /* this and the next two: codes of ICMP_DEST_UNREACH */
	ICMP_PORT_UNREACH = 3,
	ICMP_FRAG_NEEDED = 4,
};

struct icmp_header {
	u8 type;
	u8 code;
	u16 check;
	be32 rest;
} __attribute__((packed));

struct outer4 {
	struct eth_header ether;
	struct ipv4_header ip;
} __attribute__((packed));

struct outer6 {
	struct eth_header ether;
	struct ipv6_header ip;
} __attribute__((packed));

/* Return the sum of an IPv4 header without options. */
INLINE u16 ipv4_header_sum(const struct ipv4_header *ip)
{
	const u16 *half = (const void *)ip;
	u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	return csum_fold(sum);
}

/* Whether the checksum of an IPv4 header without options is right. In the frame: words on the stack would have to be
 * aligned. */
INLINE bool ipv4_header_is_right(const struct ipv4_header *ip)
{
	u64 first = WORD_AT(const u64, ip, 0), last = WORD_AT(const u64, ip, 12);
	return csum_is_right((first >> 32) + (u32)first + WORD_AT(const u32, ip, 8) + (last >> 32) + (u32)last);
}

/* Protocols whose packets can open a connection. */
INLINE bool has_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* IPsec packets belong to the connection of their key exchange (IPVS-SEMANTICS 4.7). */
INLINE bool is_ipsec(u8 protocol)
{
	return protocol == IPPROTO_AH || protocol == IPPROTO_ESP;
}
