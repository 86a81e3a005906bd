/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SCTP packets (RFC 9260; IPVS-SEMANTICS 2.3, 2.4, 4.6): the first chunk tells what a packet does. At TC alone.
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

/* The head of a chunk at an offset of the frame, if it lies within the packet. */
INLINE bool load_chunk(struct __sk_buff *skb, const struct packet *p, u32 at, struct chunk *chunk)
{
	return at + CHUNK_HLEN <= ETH_HLEN + p->length && !bpf_skb_load_bytes(skb, at, chunk, sizeof(*chunk));
}

/* What the chunk at an offset does to the association: a COOKIE ECHO or ACK gives way to an ABORT right behind it. */
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

/* Common header and first chunk, as far as they are there. Without a chunk the packet opens nothing (`whole` is the
 * header alone: NAT asks for no more). */
INLINE void parse_sctp(struct __sk_buff *skb, struct packet *p, u32 left)
{
	struct chunk first;
	p->l4_complete = left >= SCTP_HLEN;
	p->no_csum = 1;
	if (load_chunk(skb, p, p->l4 + SCTP_HLEN, &first)) {
		p->syn = first.kind == CHUNK_INIT;
		p->rst = first.kind == CHUNK_ABORT;
		/* The kernel's state machine looks for it right behind the IPv6 header, whatever stands there. */
		p->event = chunk_event(skb, p, (p->is_ipv6 ? ETH_HLEN + IPV6_HLEN : p->l4) + SCTP_HLEN);
	} else {
		p->no_chunk = 1;
	}
}
