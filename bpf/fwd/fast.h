/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path: a plain IPv4 packet at XDP whose connection is known and stays in its state, to a destination whose
 * next hop is known; and a packet of no service. It reads the headers in wide words and changes nothing before it is
 * sure. Whatever is otherwise in any way goes, untouched, the way that dispatch.h begins, which would do the same.
 */
#pragma once
#include "conntrack/table4.h"
#include "fwd/ipip.h"
#include "fwd/nat.h"
#include "fwd/send.h"

enum { NOT_FAST = -1, FAST_BYTES = ETHER + IPV4_BYTES + TCP_BYTES };

/* An IPv4 header without options and what follows it, as it lies in the frame. */
struct wide {
	u32 head; /* version, service, length */
	u32 piece; /* number, fragment */
	u32 middle; /* time to live, protocol, checksum */
	be32 source;
	be32 target;
	u32 ports;
	u32 link; /* target's link address */
	u16 link_end;
};

enum { WIDE_LENGTH = 16, WIDE_FRAGMENT = 16, WIDE_PROTOCOL = 8, WIDE_CHECK = 16 }; /* where they begin in those words */

INLINE u32 wide_length(const struct wide *w)
{
	return from_be16(w->head >> WIDE_LENGTH);
}

INLINE u8 wide_protocol(const struct wide *w)
{
	return w->middle >> WIDE_PROTOCOL;
}

INLINE u64 header_words(const struct wide *w)
{
	return (u64)w->head + w->piece + w->middle + w->source + w->target;
}

/* Whether the frame comes in where the lane's last one did on the general path, and is for this host. */
INLINE bool enters(const struct wide *w, const struct entrance *entrance, u64 live, u32 input)
{
	u32 first = w->link ^ WORD_AT(const u32, entrance->mac, 0), last = w->link_end ^ WORD_AT(const u16, entrance->mac, 4);
	return likely(entrance->live == live) && likely(!(first | last | (entrance->input ^ input)));
}

/* No options, no fragment, whole, TCP with ACK alone (and PSH or URG) or UDP. */
INLINE bool is_plain(const void *data, const void *end, struct wide *w)
{
	u32 length = wide_length(w);
	if ((u8)w->head != 0x45 || w->piece >> WIDE_FRAGMENT & 0xff3f || data + ETHER + length > end)
		return false;
	if (wide_protocol(w) == PROTO_TCP) {
		if ((WORD_AT(const u8, data, ETHER + IPV4_BYTES + 13) & 0x17) != 0x10 || length < IPV4_BYTES + TCP_BYTES)
			return false;
	} else if (wide_protocol(w) != PROTO_UDP || length < IPV4_BYTES + UDP_BYTES) {
		return false;
	}
	return is_right(header_words(w));
}

/* UDP without a checksum, which NAT at XDP cannot keep right. */
INLINE bool is_unsummed(struct xdp_md *ctx)
{
	void *data = frame_start(ctx, HOOK_XDP);
	return data + FAST_BYTES > frame_end(ctx, HOOK_XDP) || !WORD_AT(const u16, data, ETHER + IPV4_BYTES + 6);
}

INLINE bool wide_in_bitmap(const u64 *bits, be32 address)
{
	struct address a = {.word[0] = address};
	return in_bitmap(bits, address_hash(&a, false));
}

/* Whether an address is perhaps one for which another director is MASTER. */
INLINE bool may_stand_by(const struct root *root, be32 address)
{
	u64 side = READ_ONCE(root->standby);
	return unlikely(side) && wide_in_bitmap(AFTER(root, side)->standby_bits, address);
}

/* Bits of a connection's word from WORD_STATE on: its state, and that it is not dying; and that a reply was seen. */
enum { STATE_BITS = 0x1ff, ANSWERED_BIT = 1 << (WORD_ANSWERED - WORD_STATE) };

/* The connection goes on as it is, only longer. A plain store may prolong it: should the connection end at this very
 * moment, and its place be another's at once, that one has the time of this one until its own next packet. */
INLINE bool prolong(u64 *word, u64 old, u32 expiry)
{
	if (likely((u32)old == expiry))
		return true;
	if (unlikely((s32)(expiry - (u32)old) < 0))
		return false;
	WRITE_ONCE(*(u32 *)word, expiry);
	return true;
}

/* One less to live, and the header's checksum with it, which stands above: one more, and what is carried out. */
INLINE u32 aged(const struct wide *w)
{
	u32 more = 1u << WIDE_CHECK;
	if (unlikely(w->middle >= 0xfffeu << WIDE_CHECK))
		more += more;
	return w->middle - 1 + more;
}

/* Link padding goes, as the kernel cuts it off; false: it cannot. */
INLINE bool cut_padding(struct xdp_md *ctx, u32 length)
{
	u32 there = frame_end(ctx, HOOK_XDP) - frame_start(ctx, HOOK_XDP);
	return likely(there == ETHER + length) || !bpf_xdp_adjust_tail(ctx, (int)(ETHER + length) - (int)there);
}

INLINE int fast_direct(struct xdp_md *ctx, const struct wide *w, const struct hop *hop, enum way way)
{
	void *data = frame_start(ctx, HOOK_XDP);
	if (data + ETHER + IPV4_BYTES > frame_end(ctx, HOOK_XDP))
		return dropped(HOOK_XDP, REASON_SHORT);
	write_links(data, hop);
	WORD_AT(u32, data, ETHER + 8) = aged(w);
	return sent_by(hop, way);
}

/* IP in IP: an outer header in front, as forward/tunnel.h has it. */
INLINE int fast_tunnel(struct xdp_md *ctx, const struct wide *w, const struct lane *lane,
		       const struct settings *settings, enum way way)
{
	const struct hop *hop = &lane->hop;
	if (bpf_xdp_adjust_head(ctx, -IPV4_BYTES))
		return dropped(HOOK_XDP, REASON_NO_HEADROOM);
	void *data = frame_start(ctx, HOOK_XDP);
	if (data + ETHER + 2 * IPV4_BYTES > frame_end(ctx, HOOK_XDP))
		return dropped(HOOK_XDP, REASON_NO_HEADROOM);
	bool df = w->piece >> WIDE_FRAGMENT & to_be16(IPV4_DF) && settings->pmtu_disc;
	u32 piece = df ? (u32)to_be16(IPV4_DF) << WIDE_FRAGMENT : (u16)bpf_get_prandom_u32() ?: 1;
	struct wide outer = {
		.head = 0x45 | outer_tos(w->head >> 8) << 8 | (u32)to_be16(wide_length(w) + IPV4_BYTES) << WIDE_LENGTH,
		.piece = piece,
		.middle = ((u8)w->middle - 1) | PROTO_IPIP << WIDE_PROTOCOL,
		.source = lane->outer_source,
		.target = lane->real,
	};
	outer.middle |= (u32)(u16)~folded(header_words(&outer)) << WIDE_CHECK;
	write_links(data, hop);
	WORD_AT(u16, data, 12) = to_be16(ETHER_IPV4);
	WORD_AT(u64, data, ETHER) = outer.head | (u64)outer.piece << 32;
	WORD_AT(u64, data, ETHER + 8) = outer.middle | (u64)outer.source << 32;
	WORD_AT(u32, data, ETHER + 16) = outer.target;
	WORD_AT(u32, data, ETHER + IPV4_BYTES + 8) = aged(w);
	return sent_by(hop, way);
}

/* NAT: another target, or another source; both checksums follow. */
INLINE int fast_nat(struct xdp_md *ctx, const struct wide *w, enum nat_side side, be32 to, be16 to_port,
		    const struct hop *hop, enum way way)
{
	void *data = frame_start(ctx, HOOK_XDP), *end = frame_end(ctx, HOOK_XDP);
	bool tcp = wide_protocol(w) == PROTO_TCP;
	u16 *sum = data + ETHER + IPV4_BYTES + (tcp ? 16 : 6);
	if (data + ETHER + IPV4_BYTES + UDP_BYTES > end || (void *)(sum + 1) > end)
		return dropped(HOOK_XDP, REASON_SHORT);
	be32 from = side == NAT_REQUEST ? w->target : w->source;
	be16 from_port = side == NAT_REQUEST ? w->ports >> 16 : w->ports;
	u64 difference = (u64)(u32)~from + to, with_port = difference + (u16)~from_port + to_port;
	u16 anew = checked_anew(*sum, with_port);
	*sum = anew || tcp ? anew : 0xffff;
	u32 life = aged(w);
	WORD_AT(u32, data, ETHER + 8) = (life & 0xffff) | (u32)checked_anew(life >> WIDE_CHECK, difference) << WIDE_CHECK;
	WORD_AT(u32, data, ETHER + (side == NAT_REQUEST ? 16 : 12)) = to;
	WORD_AT(u16, data, ETHER + IPV4_BYTES + (side == NAT_REQUEST ? 2 : 0)) = to_port;
	write_links(data, hop);
	return sent_by(hop, way);
}

INLINE int fast_request(struct xdp_md *ctx, const struct wide *w, const struct root *root, u32 input)
{
	u64 addresses = w->source | (u64)w->target << 32, rest = w->ports | (u64)wide_protocol(w) << 32;
	u32 slot;
	struct place4 *place = find_place(addresses, rest, SIDE_REQUEST, &slot);
	if (unlikely(!place))
		return NOT_FAST;
	struct connection *c = &place->connection;
	u32 index = c->destination, now = ticks(), length = wide_length(w), method = c->method;
	be16 port = c->port;
	u64 live = READ_ONCE(root->live);
	struct lane *lane = lane_of(index);
	if (unlikely(!lane))
		return NOT_FAST;
	lane = OPAQUE(lane);
	const struct hop *hop = &lane->hop;
	if (unlikely(!enters(w, &lane->entrances[SIDE_REQUEST], live, input)) || unlikely(now - hop->stamp >= ticks_per_second))
		return NOT_FAST;
	u32 most = hop->mtu, life = lane->life_tcp;
	if (method == METHOD_TUNNEL)
		most = hop->room;
	u64 word = READ_ONCE(c->word);
	u32 state = word >> WORD_STATE & STATE_BITS;
	if (unlikely(state != STATE_ESTABLISHED)) {
		if (state != STATE_UDP || (method == METHOD_MASQ && is_unsummed(ctx)))
			return NOT_FAST;
		life = lane->life_udp;
	}
	enum way way = way_to(hop, input);
	if (unlikely((u8)w->middle <= 1) || unlikely(length > most) || unlikely(way == WAY_NONE))
		return NOT_FAST;
	if (unlikely(!prolong(&c->word, word, now + life)))
		return NOT_FAST;
	lane->counters.in_packets += 1;
	lane->counters.in_bytes += length;
	if (unlikely(!cut_padding(ctx, length)))
		return dropped(HOOK_XDP, REASON_SHORT);
	if (method == METHOD_ROUTE)
		return fast_direct(ctx, w, hop, way);
	if (method == METHOD_TUNNEL)
		return fast_tunnel(ctx, w, lane, &root->settings, way);
	return fast_nat(ctx, w, NAT_REQUEST, lane->real, port, hop, way);
}

/* The next hop to a client of NAT, if it is known and young: client_hop would give the same. */
INLINE struct hop *known_client_hop(be32 client, be32 source, u32 input, u32 now)
{
	struct address to = {.word[0] = client}, from = {.word[0] = source};
	struct client_hop *slot = LOOKUP(client_hops, index_of_client(&to, &from, false));
	if (unlikely(!slot) || unlikely(slot->family != 4) || unlikely(slot->ifindex != input) ||
	    unlikely(slot->address.word[0] != client) || unlikely(slot->source.word[0] != source) ||
	    unlikely(slot->hop.verdict != HOP_READY) || unlikely(now - slot->hop.stamp >= ticks_per_second))
		return NULL;
	return &slot->hop;
}

/* An answer of a NAT real server. */
INLINE int fast_answer(struct xdp_md *ctx, const struct wide *w, const struct root *root, u32 input)
{
	u64 addresses = w->source | (u64)w->target << 32, rest = w->ports | (u64)wide_protocol(w) << 32;
	u32 slot;
	struct place4 *place = find_place(addresses, rest, SIDE_ANSWER, &slot);
	if (unlikely(!place))
		return NOT_FAST;
	struct connection *c = &place->connection;
	u64 word = READ_ONCE(c->word);
	u32 now = ticks(), length = wide_length(w), state = word >> WORD_STATE & (STATE_BITS | ANSWERED_BIT);
	be32 virtual = place->tuple.target, real = w->source;
	be16 port = place->tuple.target_port;
	struct lane *lane = lane_of(c->destination);
	if (unlikely(!lane))
		return NOT_FAST;
	lane = OPAQUE(lane);
	const struct entrance *entrance = &lane->entrances[SIDE_ANSWER];
	if (unlikely(!enters(w, entrance, READ_ONCE(root->live), input)) || unlikely(lane->real != real) ||
	    unlikely(now - entrance->stamp >= ticks_per_second))
		return NOT_FAST;
	const struct hop *hop = known_client_hop(w->target, root->settings.snat_reroute ? virtual : real, input, now);
	if (unlikely(!hop))
		return NOT_FAST;
	enum way way = way_to(hop, input);
	if (unlikely((u8)w->middle <= 1) || unlikely(length > hop->mtu) || unlikely(way == WAY_NONE) ||
	    unlikely(may_stand_by(root, virtual)))
		return NOT_FAST;
	u32 life = lane->life_tcp;
	if (unlikely(state != (STATE_ESTABLISHED | ANSWERED_BIT))) {
		if (state != (STATE_UDP | ANSWERED_BIT) || c->controlled || is_unsummed(ctx)) /* UDP assures its template */
			return NOT_FAST;
		life = lane->life_udp;
	}
	if (unlikely(!prolong(&c->word, word, now + life)))
		return NOT_FAST;
	lane->counters.out_packets += 1;
	lane->counters.out_bytes += length;
	if (unlikely(!cut_padding(ctx, length)))
		return dropped(HOOK_XDP, REASON_SHORT);
	return fast_nat(ctx, w, NAT_REPLY, virtual, port, hop, way);
}

/* A verdict, or NOT_FAST. */
INLINE int fast(struct xdp_md *ctx, const struct root *root)
{
	void *data = frame_start(ctx, HOOK_XDP), *end = frame_end(ctx, HOOK_XDP);
	if (unlikely(data + FAST_BYTES > end) || WORD_AT(const u16, data, 12) != to_be16(ETHER_IPV4))
		return NOT_FAST;
	struct wide w = {.source = WORD_AT(u32, data, ETHER + 12), .target = WORD_AT(u32, data, ETHER + 16)};
	bool request = wide_in_bitmap(root->vip_bits, w.target);
	if (!request && !wide_in_bitmap(root->reply_bits, w.source))
		return WORD_AT(u8, data, ETHER + 9) == PROTO_ICMP ? NOT_FAST : (int)XDP_PASS;
	barrier(); /* few registers: no word is read before it is needed */
	w.head = WORD_AT(u32, data, ETHER);
	w.piece = WORD_AT(u32, data, ETHER + 4);
	w.middle = WORD_AT(u32, data, ETHER + 8);
	w.ports = WORD_AT(u32, data, ETHER + 20);
	u32 input = ctx->ingress_ifindex;
	if (unlikely(!is_plain(data, end, &w)) || unlikely(may_stand_by(root, w.target)))
		return NOT_FAST;
	w.link = WORD_AT(u32, data, 0);
	w.link_end = WORD_AT(u16, data, 4);
	return request ? fast_request(ctx, &w, root, input) : fast_answer(ctx, &w, root, input);
}
