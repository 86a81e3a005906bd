/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SCTP packets (RFC 9260; IPVS-SEMANTICS 2.3, 2.4, 4.6), at TC alone. The first chunk decides the event.
 */
#pragma once
#include "conntrack/event.h"
#include "lib/headers.h"
#include "parse/packet.h"

enum { SCTP_HLEN = 12, CHUNK_HLEN = 4 };

struct chunk {
	u8 kind;
	u8 flags;
	be16 length;
};

/* Load the header of a chunk, if it lies within the packet. */
INLINE bool load_chunk(struct __sk_buff *skb, const struct packet *p, u32 at, struct chunk *chunk)
{
	return at + CHUNK_HLEN <= ETH_HLEN + p->length && !bpf_skb_load_bytes(skb, at, chunk, sizeof(*chunk));
}

/* Return the event of a chunk. An ABORT right behind a COOKIE ECHO or COOKIE ACK takes precedence, as in IPVS. */
INLINE u8 chunk_event(struct __sk_buff *skb, const struct packet *p, u32 at)
{
	struct chunk chunk, next;
	if (!load_chunk(skb, p, at, &chunk))
		return EVENT_KEEP;
	u32 length = bpf_ntohs(chunk.length);
	if ((chunk.kind == CHUNK_COOKIE_ECHO || chunk.kind == CHUNK_COOKIE_ACK) && length >= CHUNK_HLEN &&
	    load_chunk(skb, p, at + ((length + 3) & ~3u), &next) && next.kind == CHUNK_ABORT)
		return EVENT_ABORT;
	return sctp_event(chunk.kind);
}

/* Parse the common header and the first chunk, as far as present. A packet without a chunk opens no connection.
 * `l4_complete` covers the common header only, because NAT needs no more. */
INLINE void parse_sctp(struct __sk_buff *skb, struct packet *p, u32 left)
{
	struct chunk first;
	p->l4_complete = left >= SCTP_HLEN;
	p->no_csum = 1;
	if (load_chunk(skb, p, p->l4 + SCTP_HLEN, &first)) {
		p->syn = first.kind == CHUNK_INIT;
		p->rst = first.kind == CHUNK_ABORT;
		/* IPVS's state machine reads the chunk right behind the IPv6 header, even if an extension header is
		 * there. */
		p->event = chunk_event(skb, p, (p->is_ipv6 ? ETH_HLEN + IPV6_HLEN : p->l4) + SCTP_HLEN);
	} else {
		p->no_chunk = 1;
	}
}
