/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fast path: a plain IPv4 packet at XDP whose connection is known and stays in its state, to a destination whose
 * next hop is known; and a packet of no service. It reads the headers in wide words and changes nothing before it is
 * sure. Whatever is otherwise in any way goes, untouched, the way that dispatch.h begins, which would do the same.
 */
#pragma once
#include "carry.h"

enum { NOT_FAST = -1, FAST_BYTES = ETHER + IPV4_BYTES + TCP_BYTES };

#define WORD_AT(type, base, offset) (*(type *)((void *)(base) + (offset)))

/* An IPv4 header without options and what follows it, as three words and the ports. */
struct wide {
	u64 head; /* version, service, length, number, fragment */
	u64 middle; /* time to live, protocol, checksum, source */
	u32 target;
	u32 ports;
	u32 link; /* target's link address */
	u16 link_end;
	bool unsummed; /* UDP without a checksum, which NAT at XDP cannot keep right */
};

enum { WIDE_TTL = 0, WIDE_PROTOCOL = 8, WIDE_CHECK = 16, WIDE_SOURCE = 32 }; /* bits of `middle` */

INLINE u32 wide_length(const struct wide *w)
{
	return from_be16(w->head >> 16);
}

INLINE u8 wide_protocol(const struct wide *w)
{
	return w->middle >> WIDE_PROTOCOL;
}

INLINE u64 header_words(const struct wide *w)
{
	return (w->head & 0xffffffff) + (w->head >> 32) + (w->middle & 0xffffffff) + (w->middle >> 32) + w->target;
}

INLINE bool right_header_sum(const struct wide *w)
{
	u64 sum = header_words(w);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return (sum & 0xffff) + (sum >> 16) == 0xffff;
}

/* Whether the frame is for this host, by what the next hop's last packet from that device noted (note_quick in carry.h). */
INLINE bool is_for_same_host(const struct wide *w, const struct hop *hop, u32 input)
{
	u32 first = w->link ^ WORD_AT(const u32, hop->own_mac, 0), last = w->link_end ^ WORD_AT(const u16, hop->own_mac, 4);
	return !(first | last | (hop->input ^ input));
}

/* No options, no fragment, whole, TCP with ACK alone (and PSH or URG) or UDP. */
INLINE bool is_plain(const void *data, const void *end, struct wide *w)
{
	u32 length = wide_length(w);
	if ((u8)w->head != 0x45 || w->head >> 48 & 0xff3f || data + ETHER + length > end)
		return false;
	if (wide_protocol(w) == PROTO_TCP) {
		if ((WORD_AT(const u8, data, ETHER + IPV4_BYTES + 13) & 0x17) != 0x10 || length < IPV4_BYTES + TCP_BYTES)
			return false;
	} else if (wide_protocol(w) == PROTO_UDP && length >= IPV4_BYTES + UDP_BYTES) {
		w->unsummed = !WORD_AT(const u16, data, ETHER + IPV4_BYTES + 6);
	} else {
		return false;
	}
	return right_header_sum(w);
}

INLINE bool wide_in_bitmap(const u64 *bits, be32 address)
{
	struct address a = {.word[0] = address};
	return in_bitmap(bits, address_hash(&a, false));
}

/* Whether an address is perhaps one for which another director is MASTER. */
INLINE bool may_stand_by(const struct root *root, be32 address)
{
	return unlikely(root->standby) && wide_in_bitmap(root->standby_bits, address);
}

/* Bits of a connection's word from WORD_STATE on: its state, and that it is not dying; and that a reply was seen. */
enum { STATE_BITS = 0x1ff, ANSWERED_BIT = 1 << (WORD_ANSWERED - WORD_STATE) };

/* The connection goes on as it is, only longer. A plain store may prolong it: should the connection end at this very
 * moment, and its place be another's at once, that one lives at most as much longer as this one would have. */
INLINE bool prolong(u64 *word, u32 bits, u32 expected, u32 expiry)
{
	u64 old = READ_ONCE(*word);
	if (unlikely((old >> WORD_STATE & bits) != expected))
		return false;
	if (likely((u32)old == expiry))
		return true;
	if (unlikely((s32)(expiry - (u32)old) < 0))
		return false;
	WRITE_ONCE(*(u32 *)word, expiry);
	return true;
}

/* A checksum's 16 bits after this sum of differences. */
INLINE u32 summed_anew(u32 check, u64 difference)
{
	u64 sum = (u16)~check + difference;
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~(sum + (sum >> 16));
}

/* One less to live, and the header's checksum with it: the first half of `middle`. */
INLINE u32 aged(const struct wide *w)
{
	u32 check = (u16)(w->middle >> WIDE_CHECK) + (u32)to_be16(0x0100);
	check += check >= 0xffff;
	return ((u32)w->middle & 0xffff) - 1 + (check << WIDE_CHECK);
}

INLINE void write_links(void *data, const struct hop *hop)
{
	WORD_AT(u64, data, 0) = WORD_AT(const u64, hop->target_mac, 0);
	WORD_AT(u32, data, 8) = WORD_AT(const u32, hop->target_mac, 8);
}

/* Link padding goes, as the kernel cuts it off; false: it cannot. */
INLINE bool cut_padding(struct xdp_md *ctx, u32 length)
{
	u32 there = frame_end(ctx, HOOK_XDP) - frame_start(ctx, HOOK_XDP);
	return likely(there == ETHER + length) || !bpf_xdp_adjust_tail(ctx, (int)(ETHER + length) - (int)there);
}

/* How XDP sends to a hop: out of the device that the packet came in by, out of another that is proven able, or not. */
enum way { WAY_BACK, WAY_ACROSS, WAY_NONE };

INLINE enum way way_to(const struct hop *hop, u32 input)
{
	u32 ifindex = hop->ifindex;
	if (likely(ifindex == input))
		return WAY_BACK;
	return bpf_map_lookup_elem(&transmitters, &ifindex) ? WAY_ACROSS : WAY_NONE;
}

INLINE int sent_by(const struct hop *hop, enum way way)
{
	return likely(way == WAY_BACK) ? (int)XDP_TX : (int)bpf_redirect_map(&transmitters, hop->ifindex, 0);
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
INLINE int fast_tunnel(struct xdp_md *ctx, const struct wide *w, const struct hop *hop,
		       const struct settings *settings, enum way way)
{
	if (bpf_xdp_adjust_head(ctx, -IPV4_BYTES))
		return dropped(HOOK_XDP, REASON_NO_HEADROOM);
	void *data = frame_start(ctx, HOOK_XDP);
	if (data + ETHER + 2 * IPV4_BYTES > frame_end(ctx, HOOK_XDP))
		return dropped(HOOK_XDP, REASON_NO_HEADROOM);
	bool df = w->head >> 48 & to_be16(IPV4_DF) && settings->pmtu_disc;
	u64 number = df ? (u64)to_be16(IPV4_DF) << 16 : (u64)((u16)bpf_get_prandom_u32() ?: 1);
	struct wide outer = {
		.head = 0x45 | (u64)outer_tos(w->head >> 8) << 8 | (u64)to_be16(wide_length(w) + IPV4_BYTES) << 16 |
			number << 32,
		.middle = ((u8)w->middle - 1) | PROTO_IPIP << WIDE_PROTOCOL |
			  (u64)hop->outer_source << WIDE_SOURCE,
		.target = hop->real,
	};
	outer.middle |= (u64)summed_anew(0xffff, header_words(&outer)) << WIDE_CHECK;
	write_links(data, hop);
	WORD_AT(u16, data, 12) = to_be16(ETHER_IPV4);
	WORD_AT(u64, data, ETHER) = outer.head;
	WORD_AT(u64, data, ETHER + 8) = outer.middle;
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
	be32 from = side == NAT_REQUEST ? w->target : w->middle >> WIDE_SOURCE;
	be16 from_port = side == NAT_REQUEST ? w->ports >> 16 : w->ports;
	u64 difference = (u64)(u32)~from + to, with_port = difference + (u16)~from_port + to_port;
	u32 anew = summed_anew(*sum, with_port);
	*sum = anew || tcp ? anew : 0xffff;
	u32 life = aged(w);
	WORD_AT(u32, data, ETHER + 8) = (life & 0xffff) | summed_anew(life >> WIDE_CHECK, difference) << WIDE_CHECK;
	WORD_AT(u32, data, ETHER + (side == NAT_REQUEST ? 16 : 12)) = to;
	WORD_AT(u16, data, ETHER + IPV4_BYTES + (side == NAT_REQUEST ? 2 : 0)) = to_port;
	write_links(data, hop);
	return sent_by(hop, way);
}

INLINE int fast_request(struct xdp_md *ctx, const struct wide *w, const struct root *root, u32 input)
{
	u8 protocol = wide_protocol(w);
	u64 addresses = w->middle >> WIDE_SOURCE | (u64)w->target << 32, rest = w->ports | (u64)protocol << 32;
	struct place4 *place = find_place(addresses, rest);
	if (unlikely(!place))
		return NOT_FAST;
	struct connection *c = &OPAQUE(place)->connection;
	u32 index = c->destination, now = ticks(), length = wide_length(w), method = c->method;
	be16 port = c->port;
	u64 live = READ_ONCE(root->live);
	struct hop *hop = LOOKUP(hops, index);
	if (unlikely(!hop) || unlikely(hop->quick != live) || unlikely(now - hop->stamp >= ticks_per_second) ||
	    unlikely(!is_for_same_host(w, hop, input)))
		return NOT_FAST;
	u32 most = hop->mtu, state = STATE_ESTABLISHED, life = hop->life_tcp;
	if (method == METHOD_TUNNEL)
		most = hop->room;
	if (unlikely(protocol != PROTO_TCP)) {
		if (method == METHOD_MASQ && w->unsummed)
			return NOT_FAST;
		state = STATE_UDP;
		life = hop->life_udp;
	}
	enum way way = way_to(hop, input);
	if (unlikely((u8)w->middle <= 1) || unlikely(length > most) || unlikely(way == WAY_NONE))
		return NOT_FAST;
	struct counters *counters = LOOKUP(statistics, index);
	if (unlikely(!counters) || unlikely(!prolong(&c->word, STATE_BITS, state, now + life)))
		return NOT_FAST;
	counters->in_packets += 1;
	counters->in_bytes += length;
	if (unlikely(!cut_padding(ctx, length)))
		return dropped(HOOK_XDP, REASON_SHORT);
	if (method == METHOD_ROUTE)
		return fast_direct(ctx, w, hop, way);
	if (method == METHOD_TUNNEL)
		return fast_tunnel(ctx, w, hop, &root->settings, way);
	return fast_nat(ctx, w, NAT_REQUEST, hop->real, port, hop, way);
}

/* The next hop to a client of NAT, if it is known and young: client_hop would give the same. */
INLINE struct hop *known_client_hop(be32 client, be32 source, u32 input, u32 now)
{
	struct address a = {.word[0] = client};
	struct client_hop *slot = LOOKUP(client_hops, (address_hash(&a, false) ^ source >> 24) & (HOP_SLOTS - 1));
	if (unlikely(!slot) || unlikely(slot->family != 4) || unlikely(slot->ifindex != input) ||
	    unlikely(slot->address.word[0] != client) || unlikely(slot->source.word[0] != source) ||
	    unlikely(slot->hop.verdict != HOP_READY) || unlikely(now - slot->hop.stamp >= ticks_per_second))
		return NULL;
	return &slot->hop;
}

/* An answer of a NAT real server. */
INLINE int fast_answer(struct xdp_md *ctx, const struct wide *w, const struct root *root, u32 input)
{
	bool tcp = wide_protocol(w) == PROTO_TCP;
	u64 key[2] = {w->middle >> WIDE_SOURCE | (u64)w->target << 32, w->ports | (u64)wide_protocol(w) << 32};
	struct reply4 *found = bpf_map_lookup_elem(&replies4, key);
	if (unlikely(!found) || (!tcp && (w->unsummed || found->controlled))) /* UDP assures its template */
		return NOT_FAST;
	struct place4 *place = LOOKUP(connections4, found->slot);
	u32 index = found->destination, now = ticks(), length = wide_length(w);
	be32 virtual = found->address;
	be16 port = found->port;
	u64 live = READ_ONCE(root->live);
	const struct facts *facts = &root->facts[live & 1];
	struct hop *hop = known_client_hop(w->target, root->settings.snat_reroute ? virtual : w->middle >> WIDE_SOURCE,
					   input, now);
	struct destination *d = LOOKUP(destinations, index);
	struct counters *counters = LOOKUP(statistics, index);
	if (unlikely(!place) || unlikely(!hop) || unlikely(!d) || unlikely(!counters) || unlikely(!facts->services[0]))
		return NOT_FAST;
	enum way way = way_to(hop, input);
	if (unlikely((u8)w->middle <= 1) || unlikely(length > hop->mtu) || unlikely(way == WAY_NONE) ||
	    unlikely(!(destination_flags(d, live) & DESTINATION_AVAILABLE)) || unlikely(may_stand_by(root, virtual)))
		return NOT_FAST;
	u32 state = tcp ? STATE_ESTABLISHED : STATE_UDP;
	if (unlikely(!prolong(&OPAQUE(place)->connection.word, STATE_BITS | ANSWERED_BIT, state | ANSWERED_BIT,
			      now + facts->timeouts[state])))
		return NOT_FAST;
	counters->out_packets += 1;
	counters->out_bytes += length;
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
	struct wide w = {.head = WORD_AT(u64, data, ETHER), .middle = WORD_AT(u64, data, ETHER + 8),
			 .target = WORD_AT(u32, data, ETHER + 16), .ports = WORD_AT(u32, data, ETHER + 20)};
	bool request = wide_in_bitmap(root->vip_bits, w.target);
	if (!request && !wide_in_bitmap(root->reply_bits, w.middle >> WIDE_SOURCE))
		return wide_protocol(&w) == PROTO_ICMP ? NOT_FAST : (int)XDP_PASS;
	u32 input = ctx->ingress_ifindex;
	if (unlikely(!is_plain(data, end, &w)) || unlikely(may_stand_by(root, w.target)))
		return NOT_FAST;
	if (!request)
		return is_for_this_host(data, input) ? fast_answer(ctx, &w, root, input) : NOT_FAST;
	w.link = WORD_AT(u32, data, 0);
	w.link_end = WORD_AT(u16, data, 4);
	return fast_request(ctx, &w, root, input);
}
