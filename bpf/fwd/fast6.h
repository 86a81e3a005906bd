/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path of IPv6: as that of IPv4 (fwd/fast.h). It has no words in registers to save, so it changes packets by
 * the functions of the general path.
 */
#pragma once
#include "fwd/fast.h"

struct fast_headers6 {
	struct addresses6 addresses;
	u32 ports;
	u32 length; /* of the IP packet */
	u64 dmac; /* destination MAC address, and two bytes more */
	u8 protocol;
	u8 ttl;
};

INLINE bool has_unfinished_csum6(const struct fast_headers6 *w, const void *ip, u16 check)
{
	return unlikely(is_unfinished(addresses_sum6(ip) + WORD_AT(const u16, ip, 4), w->protocol, check));
}

/* Complete; TCP with ACK, optionally PSH or URG, or UDP; no extension headers; a finished checksum; or a SYN. */
INLINE enum fast_kind fast_kind6(const void *data, const void *end, struct fast_headers6 *w, u32 link)
{
	w->length = bpf_ntohs(WORD_AT(const u16, data, link + 4)) + IPV6_HLEN;
	w->protocol = WORD_AT(const u8, data, link + 6);
	w->ttl = WORD_AT(const u8, data, link + 7);
	w->ports = WORD_AT(const u32, data, link + IPV6_HLEN);
	if (data + link + w->length > end || w->ttl <= 1)
		return NOT_PLAIN;
	u32 l4 = link + IPV6_HLEN;
	if (w->protocol == IPPROTO_TCP) {
		u32 flags = WORD_AT(const u8, data, l4 + 13) & TCP_DECIDES;
		if (unlikely(w->length < IPV6_HLEN + TCP_HLEN))
			return NOT_PLAIN;
		if (unlikely(flags != TCP_ACK))
			return flags == TCP_SYN ? FAST_SYN : NOT_PLAIN;
		return has_unfinished_csum6(w, data + link, WORD_AT(const u16, data, l4 + 16)) ? NOT_PLAIN : FAST_DATA;
	}
	bool is_udp = w->protocol == IPPROTO_UDP && w->length >= IPV6_HLEN + UDP_HLEN;
	return is_udp && !has_unfinished_csum6(w, data + link, WORD_AT(const u16, data, l4 + 6)) ? FAST_DATA : NOT_PLAIN;
}

INLINE u64 fast_rest6(const struct fast_headers6 *w)
{
	return w->ports | (u64)w->protocol << REST_PROTOCOL | REST_IPV6;
}

/* Decrement the hop limit, and write the MAC addresses. */
INLINE bool fast_direct6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct hop *hop)
{
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV6_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return false;
	WORD_AT(u8, data, ETH_HLEN + 7) = w->ttl - 1;
	write_macs(data, hop);
	return true;
}

INLINE int fast_nat6(struct xdp_md *ctx, const struct fast_headers6 *w, enum nat_side side, const struct address *to,
		     be16 to_port, const struct hop *hop, enum xmit_mode mode)
{
	struct packet p = {.is_ipv6 = true, .protocol = w->protocol};
	if (!fast_direct6(ctx, w, hop) || !nat_xdp(ctx, &p, side, to, to_port))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	return xdp_xmit(hop, mode);
}

/* IPIP: IPv6 in either family. */
INLINE int fast_tunnel6(struct xdp_md *ctx, const struct fast_headers6 *w, u32 destination, bool outer_is_ipv6,
			const struct hop *hop, const struct settings *settings, enum xmit_mode mode)
{
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV6_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	struct packet p = {.is_ipv6 = true,
			   .length = w->length,
			   .tos = bpf_ntohs(WORD_AT(u16, data, ETH_HLEN)) >> 4,
			   .ttl = w->ttl,
			   .protocol = w->protocol};
	WORD_AT(u8, data, ETH_HLEN + 7) = w->ttl - 1;
	return fast_encapsulate(ctx, &p, destination, outer_is_ipv6, hop, settings, mode);
}

INLINE int fast_request6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct root *root, u32 input,
			 struct vlan_tag *tag)
{
	u32 now = ticks();
	u32 slot;
	struct bucket *bucket = find_entry6(&w->addresses, fast_rest6(w), false, &slot);
	if (unlikely(!bucket))
		return NOT_FAST;
	struct connection *c = &bucket->entry6.connection;
	u32 index = c->destination, method = c->method;
	be16 port = c->port;
	u64 live = READ_ONCE(root->live), word = READ_ONCE(c->word);
	struct percpu_destination *percpu = percpu_of(index);
	if (unlikely(!percpu))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	const struct hop *hop = &percpu->hop;
	const struct fast_ingress *ingress = &percpu->ingress[SIDE_REQUEST];
	if (unlikely(!matches_ingress(ingress, w->dmac, live, &input, tag)) ||
	    unlikely(now - hop->stamp >= ticks_per_second))
		return NOT_FAST;
	bool outer_is_ipv6 = ingress->family == 6;
	u32 max = max_len(method, 0, outer_is_ipv6, hop->mtu);
	u32 timeout = request_timeout(xdp_ctx(ctx), method, percpu, word, link_hlen(tag) + IPV6_HLEN, root);
	enum xmit_mode mode = fast_xmit_mode(hop, input, tag);
	if (unlikely(w->length > max) || unlikely(mode == XMIT_NONE) || unlikely(!timeout) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	percpu->counters.in_packets += 1;
	percpu->counters.in_bytes += w->length;
	sync_conn(root, slot, SYNC_REQUEST, now);
	if (unlikely(!pop_vlan(ctx, tag)) || unlikely(!trim_xdp(ctx, w->length)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	if (method == METHOD_TUNNEL)
		return fast_tunnel6(ctx, w, index, outer_is_ipv6, hop, &root->settings, mode);
	if (is_direct(method))
		return fast_direct6(ctx, w, hop) ? xdp_xmit(hop, mode) : drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	const struct destination *d = map_elem(destinations, index);
	return d ? fast_nat6(ctx, w, NAT_REQUEST, &d->address, port, hop, mode) : drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
}

/* Return the cached next hop to a client of NAT, if it is young: client_hop would return the same. */
INLINE struct hop *known_client_hop6(const struct address *client, const struct address *saddr, u32 input, u32 now)
{
	u64 key[3];
	set_route_key6(key, client, saddr);
	struct client_route6 *route = find_client_route6(key, now);
	return likely(route) ? ready_hop(route->hop, route->version, input) : NULL;
}

/* A reply of a NAT real server. */
INLINE int fast_reply6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct root *root, u32 input,
		       struct vlan_tag *tag)
{
	u32 now = ticks();
	u32 slot;
	struct bucket *bucket = find_entry6(&w->addresses, fast_rest6(w) | REST_REPLY, true, &slot);
	if (unlikely(!bucket))
		return NOT_FAST;
	struct connection *c = &bucket->entry6.connection;
	u64 live = READ_ONCE(root->live), word = READ_ONCE(c->word);
	const u64 *words = bucket->entry6.daddr;
	struct address vip = {.word = {words[0], words[0] >> 32, words[1], words[1] >> 32}};
	be16 port = bucket->entry6.dport;
	const struct address *rip = (const void *)&w->addresses.word[0], *client = (const void *)&w->addresses.word[2];
	struct percpu_destination *percpu = percpu_of(c->destination);
	const struct destination *d = map_elem(destinations, c->destination);
	if (unlikely(!percpu) || unlikely(!d))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	if (unlikely(!is_reply_ingress(percpu, w->dmac, live, &input, now, tag)) ||
	    unlikely(!same_address(&d->address, rip, true)))
		return NOT_FAST;
	const struct hop *hop = known_client_hop6(client, root->settings.snat_reroute ? &vip : rip, input, now);
	if (unlikely(!hop))
		return NOT_FAST;
	u32 timeout = reply_timeout(xdp_ctx(ctx), c, percpu, word, link_hlen(tag) + IPV6_HLEN, root);
	enum xmit_mode mode = fast_xmit_mode(hop, input, tag);
	if (unlikely(w->length > hop->mtu) || unlikely(mode == XMIT_NONE) ||
	    unlikely(may_be_standby(root, address_hash(root->address_keys, &vip, true))) || unlikely(!timeout) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	percpu->counters.out_packets += 1;
	percpu->counters.out_bytes += w->length;
	if (unlikely(!pop_vlan(ctx, tag)) || unlikely(!trim_xdp(ctx, w->length)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	return fast_nat6(ctx, w, NAT_REPLY, &vip, port, hop, mode);
}

/* A SYN without ACK to a virtual address: drop it if a client rule denies it. */
INLINE int fast_syn6(struct xdp_md *ctx, const struct fast_headers6 *w, const struct root *root, u32 hash)
{
	const u64 *words = w->addresses.word;
	struct syn syn = {.client = {words[0], words[1]},
			  .address = {words[2], words[3]},
			  .hash = hash,
			  .port = w->ports >> 16 | DENYING_IPV6,
			  .input = ctx->ingress_ifindex,
			  .sport = w->ports};
	if (in_bitmap(root->reply_bits, address_hash6(root->address_keys, words[0], words[1])))
		return NOT_FAST;
	struct denying_service *row = denied_at_xdp(&syn, w->dmac, w->ttl, root);
	u32 slot;
	if (!row || find_entry6(&w->addresses, fast_rest6(w), false, &slot))
		return NOT_FAST;
	row->denied += 1;
	return XDP_DROP;
}

/* Return a verdict, or NOT_FAST. */
INLINE int fast6(struct xdp_md *ctx, const struct root *root, struct vlan_tag *tag)
{
	u32 link = link_hlen(tag);
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	if (unlikely(data + link + IPV6_HLEN + TCP_HLEN > end) ||
	    WORD_AT(const u16, data, link - 2) != bpf_htons(ETH_P_IPV6))
		return NOT_FAST;
	struct fast_headers6 w = {
		.addresses = {{WORD_AT(u64, data, link + 8), WORD_AT(u64, data, link + 16),
			       WORD_AT(u64, data, link + 24), WORD_AT(u64, data, link + 32)}},
		.dmac = WORD_AT(u64, data, 0),
	};
	u32 hash = address_hash6(root->address_keys, w.addresses.word[2], w.addresses.word[3]);
	bool request = in_bitmap(root->vip_bits, hash);
	if (!request && !in_bitmap(root->reply_bits,
				    address_hash6(root->address_keys, w.addresses.word[0], w.addresses.word[1])))
		return WORD_AT(u8, data, link + 6) == IPPROTO_ICMPV6 ? NOT_FAST : (int)XDP_PASS;
	if (unlikely(may_be_standby(root, hash)) || (WORD_AT(u8, data, link) & 0xf0) != 0x60)
		return NOT_FAST;
	enum fast_kind kind = fast_kind6(data, end, &w, link);
	if (unlikely(kind != FAST_DATA))
		return kind == FAST_SYN && request && !tag ? fast_syn6(ctx, &w, root, hash) : NOT_FAST;
	if (is_only_backup(root))
		return NOT_FAST;
	u32 input = ctx->ingress_ifindex;
	return request ? fast_request6(ctx, &w, root, input, tag) : fast_reply6(ctx, &w, root, input, tag);
}
