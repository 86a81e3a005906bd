/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What the path knows of a packet once it is parsed. Addresses and ports stay in network order.
 */
#pragma once
#include "abi/conntrack.h"
#include "lib/address.h"

struct packet {
	union tuple tuple; /* source to target, as it came */
	u32 length; /* of the IP packet */
	u16 l4; /* offset of the transport header in the frame */
	u16 slow_flags; /* enum oddity: what only PROG_FWD_SLOW does; `work` tells the rest */
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
	u8 no_csum; /* no checksum to be kept right step by step: UDP without one, SCTP, AH, ESP */
	u8 from_host; /* sent by this host itself: it came in by lo */
	u8 maybe_vip; /* to what may be a virtual address */
	u8 maybe_rs; /* from what may be a NAT real server, a virtual address or one of this host's own */
	u8 by_inner; /* the tuple is that of the packet which an ICMP error quotes */
	u8 no_conn; /* a moment ago it had no connection */
};

enum slow_flag {
	SLOW_RECORD_OPTIONS = 1, /* options to write into */
	SLOW_REASSEMBLED = 2, /* it came in fragments */
	SLOW_FIRST_FRAGMENT = 4, /* a first fragment that is handled as if it were all */
	SLOW_OPTIONS = 8, /* it has IPv4 options */
	SLOW_STALE_CSUM = 16, /* they were written, but not yet the checksum */
};

enum parsed { PARSED_PLAIN, PARSED_SLOW, PARSED_FOREIGN };

/* A packet's ends, in either family; addresses go into what is zero before. */
INLINE be16 packet_sport(const struct packet *p)
{
	return p->is_ipv6 ? p->tuple.v6.source_port : p->tuple.v4.source_port;
}

INLINE be16 packet_dport(const struct packet *p)
{
	return p->is_ipv6 ? p->tuple.v6.target_port : p->tuple.v4.target_port;
}

INLINE void packet_saddr(struct address *to, const struct packet *p)
{
	if (p->is_ipv6)
		*to = p->tuple.v6.source;
	else
		to->word[0] = p->tuple.v4.source;
}

INLINE void packet_daddr(struct address *to, const struct packet *p)
{
	if (p->is_ipv6)
		*to = p->tuple.v6.target;
	else
		to->word[0] = p->tuple.v4.target;
}

INLINE bool is_loopback_source(const struct packet *p)
{
	struct address saddr = {};
	packet_saddr(&saddr, p);
	return is_loopback_address(&saddr, p->is_ipv6 ? 6 : 4);
}
