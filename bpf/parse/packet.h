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
	u16 odd; /* enum oddity: what only STAGE_TROUBLE does; `work` tells the rest */
	u8 six;
	u8 protocol;
	u8 ttl;
	u8 tos;
	u8 df;
	u8 event; /* enum event */
	u8 syn; /* TCP: SYN; SCTP: the first chunk is INIT */
	u8 rst; /* TCP: RST; SCTP: the first chunk is ABORT */
	u8 whole; /* the transport header is complete */
	u8 cut; /* SCTP: without a chunk */
	u8 no_sum; /* no checksum to be kept right step by step: UDP without one, SCTP, AH, ESP */
	u8 own; /* sent by this host itself: it came in by lo */
	u8 request; /* to what may be a virtual address */
	u8 reply; /* from what may be a NAT real server, a virtual address or one of this host's own */
	u8 quoting; /* the tuple is that of the packet which an ICMP error quotes */
	u8 unknown; /* a moment ago it had no connection */
};

enum oddity {
	ODDITY_RECORD = 1, /* options to write into */
	ODDITY_GATHERED = 2, /* it came in fragments */
	ODDITY_FRAGMENT = 4, /* a first fragment that is handled as if it were all */
	ODDITY_OPTIONS = 8, /* it has IPv4 options */
	ODDITY_STALE = 16, /* they were written, but not yet the checksum */
};

enum parsed { PARSED_PLAIN, PARSED_ODD, PARSED_FOREIGN };

/* A packet's ends, in either family; addresses go into what is zero before. */
INLINE be16 port_from(const struct packet *p)
{
	return p->six ? p->tuple.v6.source_port : p->tuple.v4.source_port;
}

INLINE be16 port_to(const struct packet *p)
{
	return p->six ? p->tuple.v6.target_port : p->tuple.v4.target_port;
}

INLINE void address_from(struct address *to, const struct packet *p)
{
	if (p->six)
		*to = p->tuple.v6.source;
	else
		to->word[0] = p->tuple.v4.source;
}

INLINE void address_to(struct address *to, const struct packet *p)
{
	if (p->six)
		*to = p->tuple.v6.target;
	else
		to->word[0] = p->tuple.v4.target;
}

INLINE bool is_loopback_source(const struct packet *p)
{
	struct address source = {};
	address_from(&source, p);
	return is_loopback_address(&source, p->six ? 6 : 4);
}
