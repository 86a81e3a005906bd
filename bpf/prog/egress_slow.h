/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_EGRESS_SLOW: replies of a real server on this host by DR or TUN that the plain parser cannot parse: ICMP errors,
 * SCTP, IPsec, options, fragments. They count, and set the connection's state; nothing is modified.
 *
 * Reads packet alone, and leaves nothing but that, for another run of itself.
 */
#pragma once
#include "conntrack/reply.h"
#include "icmp/error.h"
#include "icmp/inner.h"
#include "parse/slow.h"

enum { FIRST_FRAGMENT = 1 }; /* `frag_off` of struct frag_header: offset 0, more follow */

/* IPVS counts the datagram before the stack fragments it. Only UDP's header has its length. */
INLINE void set_whole_length(struct __sk_buff *skb, struct packet *p)
{
	be16 length;
	if (p->protocol != IPPROTO_UDP || bpf_skb_load_bytes(skb, p->l4 + 4, &length, 2))
		return;
	p->length = p->l4 - ETH_HLEN + bpf_ntohs(length);
	if (p->is_ipv6)
		p->length -= sizeof(struct extension);
}

/* Count an ICMP error about a request: a closed port, for example (8.2). */
INLINE void note_error(struct __sk_buff *skb, struct scratch *w, const struct root *root)
{
	struct packet *p = &w->packet;
	bool is_ipv6 = p->is_ipv6;
	struct icmp_inner *q = &w->received.inner;
	u8 type;
	if (!bpf_skb_load_bytes(skb, p->l4, &type, 1) && is_error(type, is_ipv6) &&
	    parse_inner(skb, q, p->l4 + sizeof(struct icmp_header), ETH_HLEN + p->length, is_ipv6) && q->known &&
	    !inner_is_standby(q, is_ipv6, root) && find_from_plain_server(w))
		account_available(tc_ctx(skb), w->chosen.destination, SIDE_REPLY, p, root);
}

INLINE void note_reply(struct __sk_buff *skb, struct packet *p, const struct root *root)
{
	struct reply_conn a;
	if (parse_slow_transport(skb, p) != PARSE_DONE)
		return;
	if (p->slow_flags & SLOW_FIRST_FRAGMENT)
		set_whole_length(skb, p);
	if (find_reply(&a, p) && !a.masq && !reply_is_standby(&a, p, root))
		update_reply(&a, p, root, ticks(), tc_ctx(skb));
}

INLINE int prog_egress_slow(struct __sk_buff *skb, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	enum slow_result result = p->is_ipv6 ? parse_slow6(skb, w) : parse_slow4(skb, w);
	if (result == PARSE_FRAGMENT && w->fragment.frag_off == FIRST_FRAGMENT) {
		p->slow_flags |= SLOW_FIRST_FRAGMENT; /* parse behind the fragment header */
		return tail_call(tc_ctx(skb), PROG_EGRESS_SLOW);
	}
	if (result == PARSE_DONE && is_icmp(p))
		note_error(skb, w, root);
	else if (result == PARSE_DONE && (has_ports(p->protocol) || is_ipsec(p->protocol)))
		note_reply(skb, p, root);
	return pass_sent(REASON_UNSUPPORTED);
}
