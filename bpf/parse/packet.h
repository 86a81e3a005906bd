/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What the path knows of a packet once it is parsed. Addresses and ports stay in network order.
 */
#pragma once
#include "abi/conntrack.h"
#include "ctx/ctx.h"
#include "lib/address.h"
#include "lib/headers.h"

struct packet {
	union tuple tuple; /* saddr to daddr, as received */
	u32 input; /* the device that receives it (ctx_ifindex); 0: this host sends it */
	u32 length; /* of the IP packet, without link padding */
	u16 l4; /* offset of the transport header in the frame */
	u16 slow_flags; /* enum slow_flag: each forces the slow path; struct scratch has the details */
	u8 is_ipv6;
	u8 protocol;
	u8 ttl;
	u8 tos;
	u8 df;
	u8 event; /* enum event */
	u8 syn; /* TCP: SYN; SCTP: the first chunk is INIT */
	u8 rst; /* TCP: RST; SCTP: the first chunk is ABORT */
	u8 l4_complete; /* the transport header is complete */
	u8 no_chunk; /* SCTP: without a chunk */
	u8 no_csum; /* no checksum to update: UDP without one, SCTP, AH, ESP */
	u8 from_host; /* sent by this host: received on lo */
	u8 maybe_vip; /* daddr may be a virtual address */
	u8 maybe_rs; /* saddr may be a NAT real server, a virtual or a local address */
	u8 by_inner; /* enum by_inner */
	u8 no_conn; /* the lookup has just found no connection */
	u8 counted; /* as forwarded (fwd/account.h) */
	u8 pad[3];
};

/* Whether the tuple is that of the packet inside an ICMP error, reversed, and what its service is looked up for. */
enum by_inner {
	BY_OWN_TUPLE,
	BY_INNER_CONNECT, /* to create a connection: schedule_icmp */
	BY_INNER_HASH, /* to forward the error to the server that the scheduler's hash chooses */
};

/* The service of a packet. */
struct owner {
	u32 service; /* its slot plus 1; 0: none is known */
	u32 added; /* generation of the edit that added it */
};

/* Return the device that receives the packet. */
INLINE u32 input_of(struct ctx ctx, const struct packet *p)
{
	return p->input;
}

enum slow_flag {
	SLOW_RECORD_OPTIONS = 1, /* has options to fill in */
	SLOW_REASSEMBLED = 2, /* reassembled from fragments */
	SLOW_FIRST_FRAGMENT = 4, /* first fragment, forwarded like a whole packet */
	SLOW_OPTIONS = 8, /* it has IPv4 options */
	SLOW_STALE_CSUM = 16, /* options were written, the checksum not yet */
};

enum parsed { PARSED_PLAIN, PARSED_SLOW, PARSED_FOREIGN };

/* Accessors for either family. The addresses fill a `struct address` that is zero before. */
INLINE be16 packet_sport(const struct packet *p)
{
	return p->is_ipv6 ? p->tuple.v6.sport : p->tuple.v4.sport;
}

INLINE be16 packet_dport(const struct packet *p)
{
	return p->is_ipv6 ? p->tuple.v6.dport : p->tuple.v4.dport;
}

INLINE be32 packet_daddr4(const struct packet *p)
{
	return p->tuple.v4.daddr;
}

INLINE void tuple_saddr(struct address *to, const union tuple *tuple, bool is_ipv6)
{
	if (is_ipv6)
		*to = tuple->v6.saddr;
	else
		to->word[0] = tuple->v4.saddr;
}

INLINE void tuple_daddr(struct address *to, const union tuple *tuple, bool is_ipv6)
{
	if (is_ipv6)
		*to = tuple->v6.daddr;
	else
		to->word[0] = tuple->v4.daddr;
}

INLINE void packet_saddr(struct address *to, const struct packet *p)
{
	tuple_saddr(to, &p->tuple, p->is_ipv6);
}

INLINE void packet_daddr(struct address *to, const struct packet *p)
{
	tuple_daddr(to, &p->tuple, p->is_ipv6);
}

INLINE bool has_loopback_saddr(const struct packet *p)
{
	struct address saddr = {};
	packet_saddr(&saddr, p);
	return is_loopback_address(&saddr, p->is_ipv6 ? 6 : 4);
}

/* Whether a SYN can be judged before other programs run. It may be for a service, and it is neither from a real server
 * nor for a data connection of FTP. */
INLINE bool may_be_plain_syn(const struct packet *p)
{
	return p->maybe_vip && !p->maybe_rs && !p->rst && p->protocol == IPPROTO_TCP && p->ttl > 1 &&
	       packet_sport(p) != bpf_htons(PORT_FTP_DATA);
}
