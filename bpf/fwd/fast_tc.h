/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path at TC, as fwd/fast.h is that of XDP: plain IPv4 packets of connections that stay in their state, by
 * direct routing and NAT; and packets of no service. Frames may have their payload in pages, and unfinished checksums,
 * which the kernel completes.
 */
#pragma once
#include "fwd/conn.h"
#include "fwd/fast.h"

/* NAT: as in `nat_tc`. Its helpers know unfinished checksums. */
INLINE bool fast_nat_tc(struct __sk_buff *skb, void *data, const struct fast_headers *w, enum nat_side side, be32 to,
			be16 to_port)
{
	bool tcp = fast_protocol(w) == IPPROTO_TCP;
	be32 from = side == NAT_REQUEST ? fast_daddr(w) : fast_saddr(w);
	be16 from_port = side == NAT_REQUEST ? w->ports >> 16 : w->ports;
	u64 difference = (u64)(u32)~from + to, udp = tcp ? 0 : BPF_F_MARK_MANGLED_0;
	u16 *check = data + ETH_HLEN + 10;
	u32 at = ETH_HLEN + IPV4_HLEN + (tcp ? 16 : 6);
	*check = csum_replace(*check, difference);
	WORD_AT(u32, data, ETH_HLEN + (side == NAT_REQUEST ? 16 : 12)) = to;
	WORD_AT(u16, data, ETH_HLEN + IPV4_HLEN + (side == NAT_REQUEST ? 2 : 0)) = to_port;
	difference = (u32)difference + (difference >> 32);
	return !bpf_l4_csum_replace(skb, at, 0, difference, udp | BPF_F_PSEUDO_HDR) &&
	       (from_port == to_port || !bpf_l4_csum_replace(skb, at, from_port, to_port, udp | 2));
}

/* Count, modify and send a packet. Only NAT replaces address and port. */
INLINE int send_tc(struct __sk_buff *skb, const struct fast_headers *w, struct percpu_destination *percpu,
		   enum side side, const struct hop *hop, bool masq, be32 to, be16 to_port)
{
	percpu->others[side] += 1; /* first: who reads now takes none for one of XDP */
	if (side == SIDE_REPLY) {
		percpu->counters.out_packets += 1;
		percpu->counters.out_bytes += w->length;
	} else {
		count_request(percpu, w->length);
	}
	if (unlikely(w->padding) && bpf_skb_change_tail(skb, ETH_HLEN + w->length, 0))
		return drop_fast(tc_ctx(skb), REASON_TRUNCATED);
	void *data = ctx_data(tc_ctx(skb));
	if (data + ETH_HLEN + IPV4_HLEN + UDP_HLEN > ctx_data_end(tc_ctx(skb)))
		return drop_fast(tc_ctx(skb), REASON_TRUNCATED);
	write_macs(data, hop);
	WORD_AT(u32, data, ETH_HLEN + 8) = dec_ttl_word(w);
	if (masq && !fast_nat_tc(skb, data, w, side == SIDE_REPLY ? NAT_REPLY : NAT_REQUEST, to, to_port))
		return drop_fast(tc_ctx(skb), REASON_TRUNCATED);
	return xmit_neigh(skb, hop);
}

INLINE int fast_request_tc(struct __sk_buff *skb, const struct fast_headers *w, const struct root *root)
{
	u64 rest = w->ports | (u64)fast_protocol(w) << 32;
	u32 slot, now = ticks();
	struct conn_entry4 *conn = find_entry4(w->addresses, rest, false, &slot);
	if (unlikely(!conn))
		return NOT_FAST;
	struct connection *c = &conn->connection;
	struct percpu_destination *percpu = percpu_of(c->destination);
	u32 method = c->method;
	be16 port = c->port;
	if (unlikely(!percpu) || unlikely(method == METHOD_TUNNEL))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	if (unlikely(!is_fast(percpu, SIDE_REQUEST, READ_ONCE(root->live), now)) ||
	    unlikely(percpu->tc_inputs[SIDE_REQUEST] != skb->ifindex))
		return NOT_FAST;
	u64 word = READ_ONCE(c->word);
	u32 timeout = request_timeout(tc_ctx(skb), method, percpu, word, ETH_HLEN + IPV4_HLEN, root);
	if (unlikely((u8)w->ttl_protocol_check <= 1) || unlikely(!timeout) || unlikely(w->length > percpu->hop.mtu) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	sync_conn(root, slot, SYNC_REQUEST, now);
	return send_tc(skb, w, percpu, SIDE_REQUEST, &percpu->hop, !is_direct(method), percpu->rip, port);
}

/* A reply of a NAT real server. */
INLINE int fast_reply_tc(struct __sk_buff *skb, const struct fast_headers *w, const struct root *root)
{
	u64 rest = w->ports | (u64)fast_protocol(w) << 32;
	u32 slot, now = ticks(), input = skb->ifindex;
	struct conn_entry4 *conn = find_entry4(w->addresses, rest | REST_REPLY, true, &slot);
	if (unlikely(!conn))
		return NOT_FAST;
	struct connection *c = &conn->connection;
	u64 word = READ_ONCE(c->word);
	be32 vip = conn->tuple.daddr, rip = fast_saddr(w);
	be16 port = conn->tuple.dport;
	struct percpu_destination *percpu = percpu_of(c->destination);
	if (unlikely(!percpu))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	if (unlikely(!is_fast(percpu, SIDE_REPLY, READ_ONCE(root->live), now)) ||
	    unlikely(percpu->tc_inputs[SIDE_REPLY] != input) || unlikely(percpu->rip != rip))
		return NOT_FAST;
	const struct hop *hop = known_client_hop4(fast_daddr(w), root->settings.snat_reroute ? vip : rip, input, now);
	if (unlikely(!hop))
		return NOT_FAST;
	u32 timeout = reply_timeout(tc_ctx(skb), c, percpu, word, ETH_HLEN + IPV4_HLEN, root);
	if (unlikely((u8)w->ttl_protocol_check <= 1) || unlikely(w->length > hop->mtu) || unlikely(!timeout) ||
	    unlikely(may_be_standby(root, address_hash4(root->address_keys, vip))) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	return send_tc(skb, w, percpu, SIDE_REPLY, hop, true, vip, port);
}

/* Whether it is a packet of TCP other than data. No branch: the verifier would follow both. */
INLINE bool is_other_tcp(u32 protocol, u32 flags)
{
	return barrier_var((1 - is_nonzero(protocol ^ IPPROTO_TCP)) & is_nonzero((flags & TCP_DECIDES) ^ TCP_ACK));
}

/* IPv6: packets of no service only. The caller has checked that the addresses are there. */
INLINE int fast_tc6(struct ctx ctx, const void *data, const struct root *root)
{
	const u64 *keys = root->address_keys;
	const u64 *addresses = data + ETH_HLEN + 8;
	if (in_bitmap(root->vip_bits, address_hash6(keys, addresses[2], addresses[3])) ||
	    in_bitmap(root->reply_bits, address_hash6(keys, addresses[0], addresses[1])) ||
	    WORD_AT(const u8, data, ETH_HLEN + 6) == IPPROTO_ICMPV6)
		return NOT_FAST;
	return finish_plain(ctx, PLAIN_NO_SERVICE);
}

/* Return a verdict, or NOT_FAST. */
INLINE int fast_tc(struct __sk_buff *skb, const struct root *root)
{
	_Static_assert(IPV4_HLEN + TCP_HLEN >= IPV6_HLEN, "one check of the length for both families");
	struct ctx ctx = tc_ctx(skb);
	void *data = ctx_data(ctx), *end = ctx_data_end(ctx);
	if (unlikely(data + ETH_HLEN + IPV4_HLEN + TCP_HLEN > end) || unlikely(skb->ifindex == loopback))
		return NOT_FAST;
	be16 type = WORD_AT(const u16, data, ETH_HLEN - 2);
	if (type != bpf_htons(ETH_P_IP))
		return type == bpf_htons(ETH_P_IPV6) ? fast_tc6(ctx, data, root) : NOT_FAST;
	if (is_other_tcp(WORD_AT(u8, data, ETH_HLEN + 9), WORD_AT(u8, data, ETH_HLEN + IPV4_HLEN + 13)))
		return NOT_FAST; /* first, because each SYN of a flood pays for what comes before */
	u32 hash = address_hash4(root->address_keys, WORD_AT(u32, data, ETH_HLEN + 16));
	bool request = in_bitmap(root->vip_bits, hash);
	if (!request && !in_bitmap(root->reply_bits, address_hash4(root->address_keys, WORD_AT(u32, data, ETH_HLEN + 12))))
		return WORD_AT(u8, data, ETH_HLEN + 9) == IPPROTO_ICMP ? NOT_FAST : finish_plain(ctx, PLAIN_NO_SERVICE);
	struct fast_headers w = {};
	if (unlikely(skb->gso_size) || fast_kind(ctx, data, end, &w, ETH_HLEN) != FAST_DATA ||
	    unlikely(may_be_standby(root, hash)) || is_only_backup(root))
		return NOT_FAST;
	w.ports = WORD_AT(u32, data, ETH_HLEN + IPV4_HLEN);
	return request ? fast_request_tc(skb, &w, root) : fast_reply_tc(skb, &w, root);
}
