/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path of IPv6: requests of direct routing and NAT, and packets of no service. See fwd/fast.h.
 */
#pragma once
#include "fwd/fast.h"

enum { FAST_BYTES6 = ETH_HLEN + IPV6_HLEN + TCP_HLEN };

struct fast_headers6 {
	struct addresses6 addresses;
	u32 ports;
	u32 length; /* of the IP packet */
	u8 protocol;
	u8 ttl;
};

INLINE u32 address_hash6(const u64 *words)
{
	u64 folded = words[0] ^ words[1];
	struct address address = {.word[0] = (u32)folded ^ folded >> 32};
	return address_hash(&address, false);
}

/* Complete; TCP with ACK, optionally PSH or URG, or UDP; no extension headers. */
INLINE bool is_fast6(const void *data, const void *end, struct fast_headers6 *w)
{
	w->length = bpf_ntohs(WORD_AT(const u16, data, ETH_HLEN + 4)) + IPV6_HLEN;
	w->protocol = WORD_AT(const u8, data, ETH_HLEN + 6);
	w->ttl = WORD_AT(const u8, data, ETH_HLEN + 7);
	w->ports = WORD_AT(const u32, data, ETH_HLEN + IPV6_HLEN);
	if (data + ETH_HLEN + w->length > end || w->ttl <= 1)
		return false;
	if (w->protocol == IPPROTO_TCP)
		return (WORD_AT(const u8, data, ETH_HLEN + IPV6_HLEN + 13) & 0x17) == 0x10 &&
		       w->length >= IPV6_HLEN + TCP_HLEN;
	/* UDP without a checksum: NAT at XDP cannot keep the field 0 */
	return w->protocol == IPPROTO_UDP && w->length >= IPV6_HLEN + UDP_HLEN &&
	       WORD_AT(const u16, data, ETH_HLEN + IPV6_HLEN + 6);
}

/* Replace daddr and dport, and update the checksum. */
INLINE bool fast_nat6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct address *real, be16 port)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	bool tcp = w->protocol == IPPROTO_TCP;
	u16 *sum = data + ETH_HLEN + IPV6_HLEN + (tcp ? 16 : 6);
	if (data + ETH_HLEN + IPV6_HLEN + UDP_HLEN > end || (void *)(sum + 1) > end)
		return false;
	struct address *daddr = data + ETH_HLEN + 24;
	u64 difference = address_sum(daddr, 4, true) + address_sum(real, 4, false) + (u16)~(w->ports >> 16) + port;
	u16 new_check = csum_replace(*sum, difference);
	*sum = new_check || tcp ? new_check : 0xffff;
	*daddr = *real;
	WORD_AT(u16, data, ETH_HLEN + IPV6_HLEN + 2) = port;
	return true;
}

INLINE int fast_request6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct root *root, u32 input)
{
	u64 rest = w->ports | (u64)w->protocol << REST_PROTOCOL | REST_IPV6;
	u32 now = ticks();
	struct bucket *bucket = find_entry6(&w->addresses, rest);
	if (unlikely(!bucket))
		return NOT_FAST;
	struct connection *c = &bucket->entry6.connection;
	u32 index = c->destination, method = c->method;
	be16 port = c->port;
	u64 live = READ_ONCE(root->live), word = READ_ONCE(c->word);
	struct lane *lane = lane_of(index);
	struct destination *d = map_elem(destinations, index);
	if (unlikely(!lane) || unlikely(!d) || (method != METHOD_ROUTE && method != METHOD_MASQ))
		return NOT_FAST;
	lane = barrier_var(lane);
	const struct hop *hop = &lane->hop;
	void *data = ctx_data(xdp_ctx(ctx));
	if (unlikely(data + ETH_HLEN > ctx_data_end(xdp_ctx(ctx))))
		return NOT_FAST;
	struct fast_headers link = {.dmac = WORD_AT(u32, data, 0), .dmac_end = WORD_AT(u16, data, 4)};
	if (unlikely(!matches_entrance(&link, &lane->entrances[SIDE_REQUEST], live, input)) ||
	    unlikely(now - hop->stamp >= ticks_per_second))
		return NOT_FAST;
	u32 state = word >> WORD_STATE & STATE_BITS;
	if (unlikely(state != STATE_ESTABLISHED) && state != STATE_UDP)
		return NOT_FAST;
	u32 life = state == STATE_UDP ? lane->life_udp : lane->life_tcp;
	enum xmit_way way = xmit_way_to(hop, input);
	if (unlikely(w->length > hop->mtu) || unlikely(way == XMIT_NONE) ||
	    unlikely(!refresh_expiry(&c->word, word, now + life)))
		return NOT_FAST;
	lane->counters.in_packets += 1;
	lane->counters.in_bytes += w->length;
	if (unlikely(!trim_xdp(ctx, w->length)) || (method == METHOD_MASQ && !fast_nat6(ctx, w, &d->address, port)))
		return drop(HOOK_XDP, REASON_SHORT);
	data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV6_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return drop(HOOK_XDP, REASON_SHORT);
	WORD_AT(u8, data, ETH_HLEN + 7) = w->ttl - 1;
	write_macs(data, hop);
	return xdp_xmit(hop, way);
}

/* Return a verdict, or NOT_FAST. */
INLINE int fast6(struct xdp_md *ctx, const struct root *root)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	if (unlikely(data + FAST_BYTES6 > end) || WORD_AT(const u16, data, 12) != bpf_htons(ETH_P_IPV6))
		return NOT_FAST;
	struct fast_headers6 w = {
		.addresses = {{WORD_AT(u64, data, ETH_HLEN + 8), WORD_AT(u64, data, ETH_HLEN + 16),
			       WORD_AT(u64, data, ETH_HLEN + 24), WORD_AT(u64, data, ETH_HLEN + 32)}},
	};
	u64 side = READ_ONCE(root->standby);
	u32 hash = address_hash6(w.addresses.word + 2);
	if (!in_bitmap(root->vip_bits, hash)) {
		bool foreign = !in_bitmap(root->reply_bits, address_hash6(w.addresses.word)) &&
			       WORD_AT(u8, data, ETH_HLEN + 6) != IPPROTO_ICMPV6;
		return foreign ? (int)XDP_PASS : NOT_FAST;
	}
	if (unlikely(side) && in_bitmap(AFTER(root, side)->standby_bits, hash))
		return NOT_FAST;
	if ((WORD_AT(u8, data, ETH_HLEN) & 0xf0) != 0x60 || !is_fast6(data, end, &w))
		return NOT_FAST;
	return fast_request6(ctx, &w, root, ctx->ingress_ifindex);
}
