/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * ICMP errors to the sender of a request (RFC 792, RFC 4443): the packet itself becomes the error, quoting as much of
 * it as the kernel would (576 bytes in all for IPv4, 1280 for IPv6), from the virtual address.
 */
#pragma once
#include "fwd/send.h"
#include "parse/options4.h"

enum { QUOTE4 = 548, QUOTE6 = 1232, QUOTE_BUFFER = 1280, ICMP_BYTES = 8, ICMP_TTL = 64, ICMP_TOS = 0xc0, TOS_KEPT = 0x1e };

struct error6 {
	struct ipv6 ip;
	struct icmp_header icmp;
} __attribute__((packed));

INLINE bool may_answer(const struct root *root)
{
	struct limiter *limiter = LOOKUP(limiters, 0);
	u32 rate = root->settings.icmp_per_second, second = ticks() / ticks_per_second;
	if (!rate || !limiter)
		return true;
	if (limiter->tick != second) {
		limiter->tick = second;
		limiter->tokens = rate;
	}
	if (!limiter->tokens)
		return false;
	limiter->tokens -= 1;
	return true;
}

VERIFIED_ONCE int wipe_quote(struct copy *copy)
{
	if (copy)
		wipe(copy->bytes, QUOTE_BUFFER);
	return 0;
}

INLINE u32 sum_of_quote(struct copy *copy)
{
	u32 sum = bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, 512, 0);
	sum = bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + 512), 512, sum);
	return bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + 1024), QUOTE_BUFFER - 1024, sum);
}

/* A packet from this machine's other namespaces may carry an unfinished checksum (only the pseudo header's sum), which
 * the sending device completes when the error leaves. Then the error's own checksum must count the completed one. */
INLINE u32 completed(const struct packet *p, const struct copy *copy, u32 quote, u32 sum)
{
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP)
		return sum;
	u32 head = p->l4 - ETHER, at = head + (p->protocol == PROTO_TCP ? 16 : 6);
	if (at + 2 > quote || at > QUOTE_BUFFER - 2 || (head & 3))
		return sum;
	u16 field = *(u16 *)(copy->bytes + at);
	u32 pseudo = bpf_csum_diff(NULL, 0, (be32 *)(copy->bytes + (p->six ? 8 : 12)), p->six ? 32 : 8, 0);
	pseudo = folded((u64)pseudo + to_be16(p->protocol) + to_be16(p->length - head));
	if (pseudo != field)
		return sum;
	u16 header = 0xffff; /* what a right IPv4 header sums to */
	if (p->six && head <= 508)
		header = folded(bpf_csum_diff(NULL, 0, (be32 *)copy->bytes, OPAQUE(head) & 508, 0));
	u16 segment = folded((u64)sum + (u16)~header);
	if (quote == p->length && folded((u64)segment + pseudo) == 0xffff)
		return sum; /* it looks unfinished, but is right */
	u16 complete = ~segment;
	return folded((u64)sum + (u16)~field + complete);
}

/* The source of an error: the virtual address, if it is this host's. To one that only policy routing calls local, for
 * a firewall mark, IPv4's errors find no route, and IPv6's come from the address that routing chooses. */
INLINE bool error_source(struct __sk_buff *skb, struct work *w, struct address *source)
{
	const struct packet *p = &w->packet;
	address_to(source, p);
	struct root *root = the_root();
	if (likely(!facts_of(root)->marks) || delivers(skb, source, p->six))
		return true;
	if (!p->six)
		return false;
	struct address client = p->tuple.v6.source;
	ask_hop(skb, HOOK_TC, &w->hop, &client, true, loopback, NULL);
	if (fib_gives_source && w->hop.verdict != HOP_NO_ROUTE)
		*source = w->hop.source;
	return true;
}

INLINE int stage_icmp(struct __sk_buff *skb)
{
	struct work *w = work_of(HOOK_TC);
	struct root *root = the_root();
	struct copy *copy = LOOKUP(copies, 0);
	if (!w || !copy)
		return to_stack(HOOK_TC);
	struct packet *p = &w->packet;
	bool six = p->six;
	u32 most = six ? QUOTE6 : QUOTE4, quote = skb->len - ETHER;
	if (!may_answer(root))
		return dropped(HOOK_TC, REASON_ICMP_LIMITED);
	struct address source = {};
	if (!error_source(skb, w, &source))
		return dropped(HOOK_TC, REASON_NO_ROUTE);
	wipe(&w->echo, sizeof(w->echo));
	w->echo.size = six ? IPV6_BYTES : IPV4_BYTES;
	if (p->odd & ODDITY_OPTIONS && (!write_options(skb, w, p->tuple.v4.target) ||
					!echo_options(&w->options, &w->echo, p->tuple.v4.target)))
		return dropped(HOOK_TC, REASON_SHORT);
	if (!six)
		most -= w->echo.size - IPV4_BYTES;
	if (quote > p->length)
		quote = p->length;
	if (quote > most)
		quote = most;
	if (!quote || (skb->len != ETHER + quote && bpf_skb_change_tail(skb, ETHER + quote, 0)))
		return dropped(HOOK_TC, REASON_SHORT);
	wipe_quote(copy);
	u32 quoted = OPAQUE(quote);
	if (!IS_LENGTH(quoted, QUOTE6) || bpf_skb_load_bytes(skb, ETHER, copy->bytes, quoted))
		return dropped(HOOK_TC, REASON_SHORT);
	u32 sum = completed(p, copy, quote, sum_of_quote(copy));
	u32 extra = w->echo.size + ICMP_BYTES;
	if (bpf_skb_adjust_room(skb, extra, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return dropped(HOOK_TC, REASON_NO_HEADROOM);

	struct icmp_header icmp = {.type = w->error_type, .code = w->error_code, .rest = to_be32(w->error_rest)};
	u64 total = (u64)sum + to_be16(w->error_type << 8 | w->error_code) + to_be32(w->error_rest);
	struct address client = {};
	if (six) {
		struct error6 e = {};
		e.ip.version_class_flow = to_be32(0x60000000);
		e.ip.length = to_be16(ICMP_BYTES + quote);
		e.ip.next = PROTO_ICMP6;
		e.ip.hops = ICMP_TTL;
		e.ip.source = source;
		e.ip.target = client = p->tuple.v6.source;
		total += sum_words(&p->tuple.v6.source, 4, false) + sum_words(&source, 4, false);
		total += to_be16(PROTO_ICMP6) + to_be16(ICMP_BYTES + quote);
		icmp.check = ~folded(total);
		e.icmp = icmp;
		if (bpf_skb_store_bytes(skb, ETHER, &e, sizeof(e), 0))
			return dropped(HOOK_TC, REASON_SHORT);
	} else {
		struct ipv4 *ip = (void *)w->echo.bytes;
		u32 size = OPAQUE(w->echo.size);
		ip->version_words = 0x40 | size >> 2;
		ip->tos = ICMP_TOS | (p->tos & TOS_KEPT);
		ip->length = to_be16(extra + quote);
		ip->id = (u16)bpf_get_prandom_u32() ?: 1;
		ip->ttl = ICMP_TTL;
		ip->protocol = PROTO_ICMP;
		ip->source = p->tuple.v4.target;
		ip->target = client.word[0] = p->tuple.v4.source;
		ip->check = ~folded(bpf_csum_diff(NULL, 0, (be32 *)w->echo.bytes, HEADER_BUFFER, 0));
		icmp.check = ~folded(total);
		if (!IS_LENGTH(size, HEADER_BUFFER) || bpf_skb_store_bytes(skb, ETHER, w->echo.bytes, size, 0) ||
		    bpf_skb_store_bytes(skb, ETHER + size, &icmp, sizeof(icmp), 0))
			return dropped(HOOK_TC, REASON_SHORT);
	}
	if (w->chosen != NOBODY && w->method != METHOD_MASQ) { /* IPVS sees it leave as a reply (8.2) */
		struct counters *c = counters_at(w->chosen);
		if (c) {
			c->out_packets += 1;
			c->out_bytes += extra + quote;
		}
	}
	ask_hop(skb, HOOK_TC, &w->hop, &client, six, loopback, NULL);
	if (w->hop.verdict == HOP_LOCAL && p->own)
		return to_stack(HOOK_TC); /* the client is this host itself */
	if (w->hop.verdict == HOP_READY && address_link(skb, &w->hop, HOOK_TC))
		return transmit(skb, &w->hop, six, HOOK_TC);
	if (w->hop.verdict == HOP_UNRESOLVED)
		return transmit_neighbour(skb, &w->hop, six);
	return dropped(HOOK_TC, REASON_NO_ROUTE);
}
