/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path, at XDP: plain IPv4 packets of connections that stay in their state, with a known next hop; and packets
 * of no service. It reads headers as words, and modifies nothing before all checks have passed. All other packets take
 * the general path (`receive` in director.bpf.c), which would treat these the same. fast_tc.h is that of TC.
 *
 * It has its own TTL, NAT and IPIP code, which works on words that are already in registers: the shared functions would
 * read the headers again.
 */
#pragma once
#include "conntrack/sync.h"
#include "conntrack/table.h"
#include "ctx/ended.h"
#include "fwd/client_hop.h"
#include "fwd/denied.h"
#include "fwd/ipip.h"
#include "fwd/nat.h"
#include "fwd/send.h"
#include "parse/unfinished.h"

enum { NOT_FAST = -2 /* no verdict of either hook */, VLAN_HLEN = 4, TAGGED_HLEN = ETH_HLEN + VLAN_HLEN };

/* The 802.1Q tag of a frame (prog/tagged.h). A pointer to it is a constant: NULL where frames have none. */
struct vlan_tag {
	u16 vid; /* as received, then of the device that sends */
};

INLINE u32 link_hlen(const struct vlan_tag *tag)
{
	return tag ? TAGGED_HLEN : ETH_HLEN;
}

/* Drop a packet that was counted as forwarded. */
INLINE int drop_fast(struct ctx ctx, u32 reason)
{
	return finish(ctx, drop(ctx.hook, reason) | END_COUNTED);
}

/* Take the tag off. The bytes of both MAC addresses are lost: the fast path writes other ones. */
INLINE bool pop_vlan(struct xdp_md *ctx, const struct vlan_tag *tag)
{
	return !tag || !bpf_xdp_adjust_head(ctx, VLAN_HLEN);
}

/* Return how to reach the hop. A tagged frame leaves by the trunk on which it came, with the tag of the hop's
 * device. */
INLINE enum xmit_mode fast_xmit_mode(const struct hop *hop, u32 input, struct vlan_tag *tag)
{
	if (!tag || likely(hop->ifindex == input))
		return xmit_mode_to(hop, input);
	const struct device *to = on_same_trunk(input, hop->ifindex);
	if (!to)
		return XMIT_NONE;
	tag->vid = to->vid;
	return XMIT_TX;
}

/* The fields of an IPv4 header without options, and the bytes beside it, as words of the frame. */
struct fast_headers {
	u64 first; /* version, IHL, TOS, total length, id, flags, fragment offset */
	u64 addresses; /* saddr, then daddr */
	u64 dmac; /* destination MAC address, and two bytes more */
	u32 ttl_protocol_check; /* TTL, protocol, checksum */
	u32 ports;
	u32 length; /* total length */
	u32 padding; /* bytes of the frame behind the packet */
};

enum { WORD_TOT_LEN = 16, WORD_FRAG_OFF = 16, FIRST_FRAG_OFF = 48, WORD_PROTOCOL = 8, WORD_CHECK = 16 }; /* bit offsets */

/* Bits of `first` that decide: version and header length, fragment offset and "more fragments". */
#define FIRST_FIXED (0xffULL | 0xff3fULL << FIRST_FRAG_OFF)

INLINE u32 fast_tot_len(const struct fast_headers *w)
{
	return w->length;
}

INLINE u8 fast_protocol(const struct fast_headers *w)
{
	return w->ttl_protocol_check >> WORD_PROTOCOL;
}

INLINE be32 fast_saddr(const struct fast_headers *w)
{
	return w->addresses;
}

INLINE be32 fast_daddr(const struct fast_headers *w)
{
	return w->addresses >> 32;
}

/* Below 2^57, because `first` has no fragment offset: so the sum does not lose a carry. */
INLINE u64 header_sum(const struct fast_headers *w)
{
	return w->first + w->ttl_protocol_check + (u32)w->addresses + (w->addresses >> 32);
}

/* Whether the frame's ingress device and MAC address are those of the last packet on the general path. The device may
 * be a port of a bond, or below a VLAN device, which then becomes the input. */
INLINE bool matches_ingress(const struct fast_ingress *ingress, u64 dmac, u32 live, u32 *input,
			     const struct vlan_tag *tag)
{
	u64 difference = (dmac ^ WORD_AT(const u64, ingress->mac, 0)) << 16; /* of six bytes */
	if (unlikely(ingress->live != live) || unlikely(difference))
		return false;
	if (tag) {
		if (!is_on_vlan(ingress->input, *input, tag->vid))
			return false;
		*input = ingress->input;
		return true;
	}
	if (likely(ingress->input == *input))
		return true;
	*input = bond_of(*input);
	return ingress->input == *input;
}

/* Likewise for replies of NAT: of the last one on the general path within a second. */
INLINE bool is_reply_ingress(const struct percpu_destination *percpu, u64 dmac, u32 live, u32 *input, u32 now,
			      const struct vlan_tag *tag)
{
	return matches_ingress(&percpu->ingress[SIDE_REPLY], dmac, live, input, tag) &&
	       likely(now - percpu->reply_stamp < ticks_per_second);
}

/* LOCAL too: if the address is not of this host, the general path treats it like ROUTE. */
INLINE bool is_direct(u32 method)
{
	_Static_assert(METHOD_LOCAL & METHOD_ROUTE & 1 && !((METHOD_MASQ | METHOD_TUNNEL) & 1), "direct methods are odd");
	return method & 1;
}

INLINE bool has_unfinished_csum(const struct fast_headers *w, u16 check)
{
	/* The field of the total length, less a header: a difference of lengths is one of fields, modulo 65535. */
	u32 l4_length = (u16)(w->first >> WORD_TOT_LEN) + 0xffff - bpf_htons(IPV4_HLEN);
	return unlikely(is_unfinished((u32)w->addresses + (w->addresses >> 32) + l4_length, fast_protocol(w), check));
}

enum fast_kind { NOT_PLAIN, FAST_DATA, FAST_SYN };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16, TCP_DECIDES = TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK };

/* Set length and padding. Return false if the frame is too short. TC may have the payload in pages. */
INLINE bool fast_length(struct ctx ctx, const void *data, const void *end, struct fast_headers *w, u32 link)
{
	w->length = barrier_var(bpf_ntohs(w->first >> WORD_TOT_LEN)) & 0xffff; /* Linux 6.12 forgets the bound */
	if (ctx.hook == HOOK_XDP) {
		const void *tail = data + link + w->length;
		w->padding = end - tail;
		return tail <= end;
	}
	w->padding = ctx.skb->len - (link + w->length);
	return (s32)w->padding >= 0;
}

/* Without options, no fragment, complete; TCP with ACK, optionally PSH or URG, or UDP; at XDP a finished checksum. Of a
 * SYN without ACK the transport checksum does not matter: it is not sent. */
INLINE enum fast_kind fast_kind(struct ctx ctx, const void *data, const void *end, struct fast_headers *w, u32 link)
{
	w->first = WORD_AT(const u64, data, link);
	if ((w->first & FIRST_FIXED) != 0x45 || !fast_length(ctx, data, end, w, link))
		return NOT_PLAIN;
	w->ttl_protocol_check = WORD_AT(const u32, data, link + 8);
	w->addresses = WORD_AT(const u64, data, link + 12);
	if (!csum_is_right(header_sum(w)))
		return NOT_PLAIN;
	u32 l4 = link + IPV4_HLEN;
	if (fast_protocol(w) == IPPROTO_TCP) {
		u32 flags = WORD_AT(const u8, data, l4 + 13) & TCP_DECIDES;
		if (unlikely(w->length < IPV4_HLEN + TCP_HLEN))
			return NOT_PLAIN;
		if (unlikely(flags != TCP_ACK))
			return flags == TCP_SYN ? FAST_SYN : NOT_PLAIN;
		return ctx.hook == HOOK_XDP && has_unfinished_csum(w, WORD_AT(const u16, data, l4 + 16)) ? NOT_PLAIN
													 : FAST_DATA;
	}
	bool is_udp = fast_protocol(w) == IPPROTO_UDP && w->length >= IPV4_HLEN + UDP_HLEN;
	if (!is_udp || (ctx.hook == HOOK_XDP && has_unfinished_csum(w, WORD_AT(const u16, data, l4 + 6))))
		return NOT_PLAIN;
	return FAST_DATA;
}

/* UDP without a checksum: fast NAT cannot keep the field 0. `l4` is the offset of the transport header. */
INLINE bool has_no_udp_csum(struct ctx ctx, u32 l4)
{
	void *data = ctx_data(ctx);
	return data + l4 + UDP_HLEN > ctx_data_end(ctx) || !WORD_AT(const u16, data, l4 + 6);
}

/* Whether another director may be master of the address with this hash: checks the Bloom filter only. */
INLINE bool may_be_standby(const struct root *root, u32 hash)
{
	u64 side = READ_ONCE(root->standby);
	return unlikely(side) && in_bitmap(AFTER(root, side)->standby_bits, hash);
}

/* Bits of the state word from WORD_STATE on: the state and the dying bit; that a reply was seen; that it was in use. */
enum {
	STATE_BITS = 0x1ff,
	REPLIED_BIT = 1 << (WORD_SEEN_REPLY - WORD_STATE),
	USED_BIT = 1 << (WORD_IN_USE - WORD_STATE),
};

/* Refresh the expiry by a plain store; it may race with removal. If another connection gets the slot at this moment, it
 * has a wrong expiry until its next packet. The harm is bounded by one timeout. */
INLINE bool refresh_expiry(u64 *word, u64 old, u32 expiry)
{
	if (likely((u32)old == expiry))
		return true;
	if (unlikely((s32)(expiry - (u32)old) < 0))
		return false;
	WRITE_ONCE(*(u32 *)word, expiry);
	return true;
}

/* Return the timeout of a connection that a RST closed, though it was in use. Its packets keep this state. */
INLINE u32 closed_timeout(const struct root *root)
{
	return facts_of(root)->timeouts[STATE_CLOSE];
}

/* Return the timeout of a request's connection, in a state that the request keeps; 0: the general path decides. */
INLINE u32 request_timeout(struct ctx ctx, u32 method, const struct percpu_destination *percpu, u64 word, u32 l4,
			const struct root *root)
{
	u32 state = word >> WORD_STATE & STATE_BITS;
	if (likely(state == STATE_ESTABLISHED))
		return percpu->timeout_tcp;
	if (state == STATE_UDP)
		return method == METHOD_MASQ && has_no_udp_csum(ctx, l4) ? 0 : percpu->timeout_udp;
	return state == STATE_CLOSE && word >> WORD_IN_USE & 1 ? closed_timeout(root) : 0;
}

/* Likewise of a reply's connection. The general path sets the bits, and assures the template by a UDP reply. */
INLINE u32 reply_timeout(struct ctx ctx, const struct connection *c, const struct percpu_destination *percpu,
			 u64 word, u32 l4, const struct root *root)
{
	u32 state = word >> WORD_STATE & (STATE_BITS | REPLIED_BIT | USED_BIT);
	if (likely(state == (STATE_ESTABLISHED | REPLIED_BIT | USED_BIT)))
		return percpu->timeout_tcp;
	if (state == (STATE_CLOSE | REPLIED_BIT | USED_BIT))
		return closed_timeout(root);
	bool is_steady = state == (STATE_UDP | REPLIED_BIT) && !(c->flags & CONN_CONTROLLED);
	return is_steady && !has_no_udp_csum(ctx, l4) ? percpu->timeout_udp : 0;
}

/* Decrement the TTL. The checksum above it grows by one, with its carry. */
INLINE u32 dec_ttl_word(const struct fast_headers *w)
{
	u32 more = 1u << WORD_CHECK;
	if (unlikely(w->ttl_protocol_check >= 0xfffeu << WORD_CHECK))
		more += more;
	return w->ttl_protocol_check - 1 + more;
}

INLINE int fast_direct(struct xdp_md *ctx, const struct fast_headers *w, const struct hop *hop, enum xmit_mode mode)
{
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV4_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	write_macs(data, hop);
	WORD_AT(u32, data, ETH_HLEN + 8) = dec_ttl_word(w);
	return xdp_xmit(hop, mode);
}

/* Prepend the outer header of a tunnel where either header is of IPv6. The TTL was decremented before. */
INLINE int fast_encapsulate(struct xdp_md *ctx, const struct packet *p, u32 destination, bool outer_is_ipv6,
			    const struct hop *hop, const struct settings *settings, enum xmit_mode mode)
{
	const struct destination *d = map_elem(destinations, destination);
	if (!d || bpf_xdp_adjust_head(ctx, outer_is_ipv6 ? -IPV6_HLEN : -IPV4_HLEN) ||
	    !encapsulate_xdp(ctx, p, d, hop, outer_is_ipv6, settings->pmtu_disc))
		return drop_fast(xdp_ctx(ctx), REASON_NO_HEADROOM);
	return xdp_xmit(hop, mode);
}

/* IPv4 in IPv6. */
INLINE int fast_tunnel_4in6(struct xdp_md *ctx, const struct fast_headers *w, u32 destination, const struct hop *hop,
			    const struct settings *settings, enum xmit_mode mode)
{
	struct packet p = {
		.length = fast_tot_len(w), .tos = w->first >> 8, .ttl = w->ttl_protocol_check};
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + IPV4_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	WORD_AT(u32, data, ETH_HLEN + 8) = dec_ttl_word(w);
	return fast_encapsulate(ctx, &p, destination, true, hop, settings, mode);
}

/* IPv4 in IPv4: prepend an outer header, as fwd/ipip.h does. */
INLINE int fast_tunnel(struct xdp_md *ctx, const struct fast_headers *w, const struct percpu_destination *percpu,
		       const struct settings *settings, enum xmit_mode mode)
{
	const struct hop *hop = &percpu->hop;
	if (bpf_xdp_adjust_head(ctx, -IPV4_HLEN))
		return drop_fast(xdp_ctx(ctx), REASON_NO_HEADROOM);
	void *data = ctx_data(xdp_ctx(ctx));
	if (data + ETH_HLEN + 2 * IPV4_HLEN > ctx_data_end(xdp_ctx(ctx)))
		return drop_fast(xdp_ctx(ctx), REASON_NO_HEADROOM);
	bool df = w->first >> FIRST_FRAG_OFF & bpf_htons(IP_DF) && settings->pmtu_disc;
	u32 id_frag = df ? (u32)bpf_htons(IP_DF) << WORD_FRAG_OFF : (u16)bpf_get_prandom_u32() ?: 1;
	u32 version_tos_len = 0x45 | outer_tos(w->first >> 8) << 8 |
			      (u32)bpf_htons(fast_tot_len(w) + IPV4_HLEN) << WORD_TOT_LEN;
	u32 ttl_protocol_check = ((u8)w->ttl_protocol_check - 1) | IPPROTO_IPIP << WORD_PROTOCOL;
	be32 saddr = hop->saddr.word[0], daddr = percpu->rip;
	u64 sum = (u64)version_tos_len + id_frag + ttl_protocol_check + saddr + daddr;
	ttl_protocol_check |= (u32)(u16)~csum_fold(sum) << WORD_CHECK;
	write_macs(data, hop);
	WORD_AT(u16, data, 12) = bpf_htons(ETH_P_IP);
	WORD_AT(u64, data, ETH_HLEN) = version_tos_len | (u64)id_frag << 32;
	WORD_AT(u64, data, ETH_HLEN + 8) = ttl_protocol_check | (u64)saddr << 32;
	WORD_AT(u32, data, ETH_HLEN + 16) = daddr;
	WORD_AT(u32, data, ETH_HLEN + IPV4_HLEN + 8) = dec_ttl_word(w);
	return xdp_xmit(hop, mode);
}

/* NAT: replace daddr and dport, or saddr and sport; update both checksums. */
INLINE int fast_nat(struct xdp_md *ctx, const struct fast_headers *w, enum nat_side side, be32 to, be16 to_port,
		    const struct hop *hop, enum xmit_mode mode)
{
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	bool tcp = fast_protocol(w) == IPPROTO_TCP;
	u16 *sum = data + ETH_HLEN + IPV4_HLEN + (tcp ? 16 : 6);
	if (data + ETH_HLEN + IPV4_HLEN + UDP_HLEN > end || (void *)(sum + 1) > end)
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	be32 from = side == NAT_REQUEST ? fast_daddr(w) : fast_saddr(w);
	be16 from_port = side == NAT_REQUEST ? w->ports >> 16 : w->ports;
	u64 difference = (u64)(u32)~from + to, with_port = difference + (u16)~from_port + to_port;
	u16 new_check = csum_replace(*sum, with_port);
	*sum = new_check || tcp ? new_check : 0xffff;
	u32 ttl_word = dec_ttl_word(w);
	WORD_AT(u32, data, ETH_HLEN + 8) = (ttl_word & 0xffff) | (u32)csum_replace(ttl_word >> WORD_CHECK, difference)
								     << WORD_CHECK;
	WORD_AT(u32, data, ETH_HLEN + (side == NAT_REQUEST ? 16 : 12)) = to;
	WORD_AT(u16, data, ETH_HLEN + IPV4_HLEN + (side == NAT_REQUEST ? 2 : 0)) = to_port;
	write_macs(data, hop);
	return xdp_xmit(hop, mode);
}

INLINE void count_request(struct percpu_destination *percpu, u32 length)
{
	percpu->counters.in_packets += 1;
	percpu->counters.in_bytes += length;
}

INLINE int fast_request(struct xdp_md *ctx, void *data, const struct fast_headers *w, const struct root *root, u32 input,
			struct vlan_tag *tag)
{
	u64 addresses = w->addresses, rest = w->ports | (u64)fast_protocol(w) << 32;
	u32 slot;
	struct conn_entry4 *conn = find_entry4(addresses, rest, false, &slot);
	if (unlikely(!conn))
		return NOT_FAST;
	struct connection *c = &conn->connection;
	u32 index = c->destination, length = w->length;
	struct percpu_destination *percpu = percpu_of(index);
	if (unlikely(!percpu))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	const struct hop *hop = &percpu->hop;
	const struct fast_ingress *ingress = &percpu->ingress[SIDE_REQUEST];
	if (unlikely(!matches_ingress(ingress, w->dmac, READ_ONCE(root->live), &input, tag)))
		return NOT_FAST;
	u32 now = ticks(), method = c->method;
	if (unlikely(now - hop->stamp >= ticks_per_second))
		return NOT_FAST;
	u64 word = READ_ONCE(c->word);
	u32 timeout = request_timeout(xdp_ctx(ctx), method, percpu, word, link_hlen(tag) + IPV4_HLEN, root);
	if (unlikely((u8)w->ttl_protocol_check <= 1) || unlikely(!timeout))
		return NOT_FAST;
	if (!tag && likely(is_direct(method)) && likely(hop->ifindex == input) && likely(!w->padding)) {
		if (unlikely(length > hop->mtu) || unlikely(!refresh_expiry(&c->word, word, now + timeout)))
			return NOT_FAST;
		count_request(percpu, length);
		sync_conn(root, slot, SYNC_REQUEST, now);
		write_macs(data, hop);
		WORD_AT(u32, data, ETH_HLEN + 8) = dec_ttl_word(w);
		return XDP_TX;
	}
	be16 port = c->port;
	bool outer_is_ipv6 = ingress->family == 6;
	u32 max = max_len(method, 0, outer_is_ipv6, hop->mtu);
	enum xmit_mode mode = fast_xmit_mode(hop, input, tag);
	if (unlikely(length > max) || unlikely(mode == XMIT_NONE) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	count_request(percpu, length);
	sync_conn(root, slot, SYNC_REQUEST, now);
	if (unlikely(!pop_vlan(ctx, tag)) || unlikely(!trim_xdp(ctx, length)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	if (is_direct(method))
		return fast_direct(ctx, w, hop, mode);
	if (method == METHOD_TUNNEL && outer_is_ipv6)
		return fast_tunnel_4in6(ctx, w, index, hop, &root->settings, mode);
	if (method == METHOD_TUNNEL)
		return fast_tunnel(ctx, w, percpu, &root->settings, mode);
	return fast_nat(ctx, w, NAT_REQUEST, percpu->rip, port, hop, mode);
}

/* Return the next hop of a route to a client of NAT, if it is in force and XDP can use it. */
INLINE struct hop *ready_hop(u32 hop, u16 version, u32 input)
{
	struct client_hop *slot = client_hop_at(hop);
	return likely(slot) && likely((u16)slot->version == version) && likely(slot->ifindex == input) &&
			       likely(slot->hop.verdict == HOP_READY) ?
		       &slot->hop :
		       NULL;
}

/* Return the cached next hop to a client of NAT, if it is young: client_hop would return the same. */
INLINE struct hop *known_client_hop4(be32 client, be32 saddr, u32 input, u32 now)
{
	struct client_route *route = find_client_route(client, saddr, now);
	return likely(route) ? ready_hop(route->hop, route->version, input) : NULL;
}

/* A reply of a NAT real server. */
INLINE int fast_reply(struct xdp_md *ctx, const struct fast_headers *w, const struct root *root, u32 input,
		      struct vlan_tag *tag)
{
	u64 addresses = w->addresses, rest = w->ports | (u64)fast_protocol(w) << 32;
	u32 slot;
	struct conn_entry4 *conn = find_entry4(addresses, rest | REST_REPLY, true, &slot);
	if (unlikely(!conn))
		return NOT_FAST;
	struct connection *c = &conn->connection;
	u64 word = READ_ONCE(c->word);
	u32 now = ticks(), length = fast_tot_len(w);
	be32 vip = conn->tuple.daddr, rip = fast_saddr(w);
	be16 port = conn->tuple.dport;
	struct percpu_destination *percpu = percpu_of(c->destination);
	if (unlikely(!percpu))
		return NOT_FAST;
	percpu = barrier_var(percpu);
	if (unlikely(!is_reply_ingress(percpu, w->dmac, READ_ONCE(root->live), &input, now, tag)) ||
	    unlikely(percpu->rip != rip))
		return NOT_FAST;
	const struct hop *hop = known_client_hop4(fast_daddr(w), root->settings.snat_reroute ? vip : rip, input, now);
	if (unlikely(!hop))
		return NOT_FAST;
	u32 timeout = reply_timeout(xdp_ctx(ctx), c, percpu, word, link_hlen(tag) + IPV4_HLEN, root);
	enum xmit_mode mode = fast_xmit_mode(hop, input, tag);
	if (unlikely((u8)w->ttl_protocol_check <= 1) || unlikely(length > hop->mtu) || unlikely(mode == XMIT_NONE) ||
	    unlikely(may_be_standby(root, address_hash4(root->address_keys, vip))) || unlikely(!timeout) ||
	    unlikely(!refresh_expiry(&c->word, word, now + timeout)))
		return NOT_FAST;
	percpu->counters.out_packets += 1;
	percpu->counters.out_bytes += length;
	if (unlikely(!pop_vlan(ctx, tag)) || unlikely(!trim_xdp(ctx, length)))
		return drop_fast(xdp_ctx(ctx), REASON_TRUNCATED);
	return fast_nat(ctx, w, NAT_REPLY, vip, port, hop, mode);
}

/* A SYN without ACK to a virtual address: drop it if a client rule denies it. */
INLINE int fast_syn(struct xdp_md *ctx, const struct fast_headers *w, const struct root *root, u32 hash)
{
	struct syn syn = {.client = {fast_saddr(w)},
			  .address = {fast_daddr(w)},
			  .hash = hash,
			  .port = w->ports >> 16,
			  .input = ctx->ingress_ifindex,
			  .sport = w->ports};
	if (in_bitmap(root->reply_bits, address_hash4(root->address_keys, fast_saddr(w))))
		return NOT_FAST;
	struct denying_service *row = denied_at_xdp(&syn, w->dmac, (u8)w->ttl_protocol_check, root);
	u32 slot;
	if (!row || find_entry4(w->addresses, w->ports | (u64)IPPROTO_TCP << REST_PROTOCOL, false, &slot))
		return NOT_FAST;
	row->denied += 1;
	return XDP_DROP;
}

/* Return a verdict, or NOT_FAST. */
INLINE int fast(struct xdp_md *ctx, const struct root *root, struct vlan_tag *tag)
{
	u32 link = link_hlen(tag);
	void *data = ctx_data(xdp_ctx(ctx)), *end = ctx_data_end(xdp_ctx(ctx));
	if (unlikely(data + link + IPV4_HLEN + TCP_HLEN > end) ||
	    WORD_AT(const u16, data, link - 2) != bpf_htons(ETH_P_IP))
		return NOT_FAST;
	u32 hash = address_hash4(root->address_keys, WORD_AT(u32, data, link + 16));
	bool request = in_bitmap(root->vip_bits, hash);
	if (!request && !in_bitmap(root->reply_bits, address_hash4(root->address_keys, WORD_AT(u32, data, link + 12))))
		return WORD_AT(u8, data, link + 9) == IPPROTO_ICMP ? NOT_FAST : (int)XDP_PASS;
	barrier(); /* limits register pressure: words are read when they are needed */
	struct fast_headers w = {};
	enum fast_kind kind = fast_kind(xdp_ctx(ctx), data, end, &w, link);
	if (unlikely(kind == NOT_PLAIN) || unlikely(may_be_standby(root, hash)))
		return NOT_FAST;
	w.ports = WORD_AT(u32, data, link + 20);
	w.dmac = WORD_AT(u64, data, 0);
	if (unlikely(kind == FAST_SYN))
		return request && !tag ? fast_syn(ctx, &w, root, hash) : NOT_FAST;
	u32 input = ctx->ingress_ifindex;
	if (is_only_backup(root))
		return NOT_FAST;
	return request ? fast_request(ctx, data, &w, root, input, tag) : fast_reply(ctx, &w, root, input, tag);
}
