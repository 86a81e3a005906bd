/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * An ICMP error about a connection goes to the other side (IPVS-SEMANTICS 8.2, 8.3). Under NAT its addresses and its
 * quotation are rewritten: the quoted IP header's checksum becomes right again, the quoted transport checksum stays as
 * it was. STAGE_TROUBLE sends it.
 */
#pragma once
#include "fwd/account.h"
#include "icmp/error.h"
#include "parse/options4.h"

INLINE bool put(struct __sk_buff *skb, u32 at, const void *from, u32 bytes)
{
	return !bpf_skb_store_bytes(skb, at, from, bytes, BPF_F_RECOMPUTE_CSUM);
}

/* Write an address of the quotation, and its header's checksum anew. `difference`: what that does to a sum. */
INLINE bool put_quoted_address(struct __sk_buff *skb, const struct work *w, const struct address *to, u64 *difference)
{
	bool server = w->error_side == SIDE_SERVER;
	if (w->packet.six) {
		struct address old, new = *to;
		u32 at = w->quote.at + (server ? 24 : 8);
		if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)))
			return false;
		*difference += sum_words(&old, 4, true) + sum_words(to, 4, false);
		return put(skb, at, &new, sizeof(new));
	}
	u8 header[HEADER_BUFFER] = {};
	u32 size = OPAQUE(w->quote.l4 - w->quote.at);
	if (!IS_LENGTH(size, 60) || bpf_skb_load_bytes(skb, w->quote.at, header, size))
		return false;
	struct ipv4 *ip = (void *)header;
	be32 *address = server ? &ip->target : &ip->source;
	*difference += (u64)(u32)~*address + to->word[0] + (u16)~ip->check;
	*address = to->word[0];
	ip->check = 0;
	ip->check = ~folded(bpf_csum_diff(NULL, 0, (be32 *)header, HEADER_BUFFER, 0));
	*difference += ip->check;
	return put(skb, w->quote.at, header, IPV4_BYTES);
}

INLINE bool put_quoted_port(struct __sk_buff *skb, const struct work *w, be16 port, u64 *difference)
{
	u32 at = w->quote.l4 + (w->error_side == SIDE_SERVER ? 2 : 0);
	be16 old;
	if (bpf_skb_load_bytes(skb, at, &old, 2))
		return false;
	*difference += (u64)(u16)~old + port;
	return put(skb, at, &port, 2);
}

/* The error's own address: its source becomes the virtual one, or its target the real server's. */
INLINE bool put_outer_address(struct __sk_buff *skb, const struct packet *p, bool server, const struct address *to)
{
	struct address new = *to;
	if (p->six)
		return put(skb, ETHER + (server ? 8 : 24), &new, sizeof(new));
	be32 old, at = ETHER + (server ? 12 : 16);
	if (bpf_skb_load_bytes(skb, at, &old, 4) || bpf_l3_csum_replace(skb, ETHER + 10, old, new.word[0], 4))
		return false;
	return put(skb, at, &new.word[0], 4);
}

/* ICMPv6 sums addresses as well: those that the packet has by now. */
INLINE bool pseudo_sum(struct __sk_buff *skb, const struct packet *p, u64 *sum)
{
	struct address ends[2];
	if (bpf_skb_load_bytes(skb, ETHER + 8, ends, sizeof(ends)))
		return false;
	*sum += sum_words(&ends[0], 4, false) + sum_words(&ends[1], 4, false) + to_be16(PROTO_ICMP6) +
		to_be16(p->length + ETHER - p->l4);
	return true;
}

/* `sum` is that of the message as it came. */
INLINE bool translate(struct __sk_buff *skb, struct work *w, const struct destination *d, u16 sum)
{
	struct packet *p = &w->packet;
	bool server = w->error_side == SIDE_SERVER;
	struct address to = server ? w->virtual_address : d->address;
	u16 check;
	if (bpf_skb_load_bytes(skb, p->l4 + 2, &check, 2))
		return false;
	u64 total = (u64)sum + (u16)~check;
	if (!put_quoted_address(skb, w, &to, &total) || !put_outer_address(skb, p, server, &to))
		return false;
	if (has_ports(w->quote.protocol) && !put_quoted_port(skb, w, server ? w->reply_port : w->port, &total))
		return false;
	if (p->six && !pseudo_sum(skb, p, &total))
		return false;
	check = ~folded(total);
	if (p->six && !check)
		check = 0xffff;
	return put(skb, p->l4 + 2, &check, 2);
}

/* An error that passes through has been routed before IPVS sees it: its time to live is one less already. */
INLINE bool age_as_routed(struct __sk_buff *skb, struct packet *p)
{
	if (!age(skb, p, HOOK_TC))
		return false;
	p->ttl -= 1;
	return true;
}

INLINE int stage_error_carry(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	struct copy *copy = LOOKUP(copies, 0);
	if (!w || !copy)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	bool server = w->error_side == SIDE_SERVER, six = p->six, masq = w->method == METHOD_MASQ;
	if (p->quoting) {
		p->tuple = w->outer;
		p->protocol = six ? PROTO_ICMP6 : PROTO_ICMP;
		p->quoting = 0;
	}
	struct destination *d = LOOKUP(destinations, w->chosen);
	if (!d)
		return to_stack(HOOK_TC);
	u16 sum = !six || masq ? message_sum(skb, p, copy) : 0;
	/* IPVS forgets the pseudo header where it checks ICMPv6, so hardly any passes. */
	if ((!six || server) && sum != 0xffff)
		return dropped(HOOK_TC, REASON_BAD_SUM);
	struct counters *c = counters_of(w->chosen, root);
	if (c && server) {
		c->out_packets += 1;
		c->out_bytes += p->length;
	} else if (c) {
		c->in_packets += 1;
		c->in_bytes += p->length;
	}
	if (masq && !translate(skb, w, d, sum))
		return dropped(HOOK_TC, REASON_SHORT);
	if (server && !w->error_passes)
		return to_own_client(skb, p);
	if (!server && w->error_passes && !age_as_routed(skb, p))
		return dropped(HOOK_TC, REASON_SHORT);
	w->replying = server;
	w->state = destination_flags(d, READ_ONCE(root->live));
	return go_on(skb, HOOK_TC, STAGE_TROUBLE);
}
