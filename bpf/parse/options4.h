/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPv4 options (RFC 791), as the kernel's input treats them before IPVS sees a packet (IPVS-SEMANTICS 7.1 end). Record
 * route and timestamp get this host's address and time. Packets with malformed options pass to the stack, and
 * source-routed ones are dropped. The walk only notes changes; they are written when the packet is forwarded or
 * answered.
 */
#pragma once
#include "abi/config.h"
#include "ctx/scratch.h"
#include "policy/own_address.h"
#include <linux/ip.h>

enum { OPTIONS_BYTES = 40, HEADER_BUFFER = 64, MS_PER_DAY = 86400000 };

enum options_verdict { OPTIONS_OK, OPTIONS_BROKEN, OPTIONS_SOURCE_ROUTED };

struct options_walk {
	struct options *options;
	u32 at;
	u32 verdict;
};

/* Milliseconds since midnight UT. */
INLINE be32 time_of_day(void)
{
	return bpf_htonl(bpf_ktime_get_tai_ns() / 1000000 % MS_PER_DAY);
}

INLINE u8 option_byte(const struct options *o, u32 at)
{
	return o->bytes[barrier_var(at) & (HEADER_BUFFER - 1)];
}

INLINE void set_option_byte(struct options *o, u32 at, u8 value)
{
	o->bytes[barrier_var(at) & (HEADER_BUFFER - 1)] = value;
	o->changed = 1;
}

INLINE void set_option_word(struct options *o, u32 at, be32 value)
{
	for (int i = 0; i < 4; i++)
		set_option_byte(o, at + i, value >> 8 * i);
}

INLINE be32 option_word(const struct options *o, u32 at)
{
	be32 value = 0;
	for (int i = 0; i < 4; i++)
		value |= (u32)option_byte(o, at + i) << 8 * i;
	return value;
}

INLINE bool note_record_route(struct options *o, u32 at, u32 length)
{
	u32 pointer = option_byte(o, at + 2);
	if (o->route_at || length < 3 || pointer < 4)
		return false;
	o->route_at = at;
	if (pointer > length)
		return true;
	if (pointer + 3 > length)
		return false;
	o->route_address_at = at + pointer - 1;
	set_option_byte(o, at + 2, pointer + 4);
	return true;
}

INLINE bool is_own4(be32 address)
{
	struct address own = {.word[0] = address};
	return has_local_route(&own, false);
}

INLINE bool note_timestamp(struct options *o, u32 at, u32 length)
{
	u32 pointer = option_byte(o, at + 2), flags = option_byte(o, at + 3), kind = flags & 15;
	if (o->stamp_at || length < 4 || pointer < 5)
		return false;
	o->stamp_at = at;
	if (pointer > length) {
		if (kind == IPOPT_TS_PRESPEC)
			return true;
		if (flags >> 4 == 15)
			return false;
		set_option_byte(o, at + 3, flags + 16);
		return true;
	}
	u32 addressed = kind == IPOPT_TS_TSANDADDR || kind == IPOPT_TS_PRESPEC ? 4 : 0;
	if (pointer + 3 + addressed > length)
		return false;
	if (kind != IPOPT_TS_TSONLY && !addressed)
		return true;
	if (kind == IPOPT_TS_PRESPEC && !is_own4(option_word(o, at + pointer - 1)))
		return true;
	if (kind == IPOPT_TS_TSANDADDR)
		o->stamp_address_at = at + pointer - 1;
	o->stamped = 1;
	set_option_word(o, at + pointer - 1 + addressed, time_of_day());
	set_option_byte(o, at + 2, pointer + 4 + addressed);
	return true;
}

static int option_step(u32 index, struct options_walk *walk)
{
	struct options *o = walk->options;
	u32 at = walk->at;
	if (at >= o->size)
		return 1;
	u8 kind = option_byte(o, at);
	if (o->ended || kind == IPOPT_END) {
		o->ended = 1;
		if (kind != IPOPT_END)
			set_option_byte(o, at, IPOPT_END);
	}
	if (o->ended || kind == IPOPT_NOOP) {
		walk->at = at + 1;
		return 0;
	}
	u32 length = option_byte(o, at + 1);
	bool valid = at + 1 < o->size && length >= 2 && at + length <= o->size;
	if (valid && kind == IPOPT_RR)
		valid = note_record_route(o, at, length);
	if (valid && kind == IPOPT_TIMESTAMP)
		valid = note_timestamp(o, at, length);
	if (valid && (kind == IPOPT_LSRR || kind == IPOPT_SSRR)) {
		valid = walk->verdict == OPTIONS_OK && length >= 3 && option_byte(o, at + 2) >= 4;
		walk->verdict = OPTIONS_SOURCE_ROUTED;
	}
	walk->at = at + length;
	if (valid)
		return 0;
	walk->verdict = OPTIONS_BROKEN;
	return 1;
}

/* The header is in `o->bytes`, with zeroes behind it. */
INLINE enum options_verdict walk_options(struct options *o)
{
	struct options_walk walk = {.options = o, .at = IPV4_HLEN};
	o->changed = o->ended = o->stamped = 0;
	o->route_at = o->route_address_at = o->stamp_at = o->stamp_address_at = 0;
	FORGET_BOUNDS(walk, at, verdict);
	bpf_loop(OPTIONS_BYTES, option_step, &walk, 0);
	return walk.verdict;
}

INLINE bool sum_options(struct __sk_buff *skb, struct scratch *w)
{
	struct ipv4_header *ip = (void *)w->options.bytes;
	if (!(w->packet.slow_flags & SLOW_STALE_CSUM))
		return true;
	w->packet.slow_flags &= ~SLOW_STALE_CSUM;
	ip->check = 0;
	ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (be32 *)w->options.bytes, HEADER_BUFFER, 0));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, ip, IPV4_HLEN, 0);
}

/* Write the noted changes and this host's address. Call once, before anything else in the header changes. Like the
 * kernel, keep the old checksum until the packet leaves, because ICMP errors quote it. A reassembled packet's checksum
 * the kernel has already computed. */
INLINE bool write_options(struct __sk_buff *skb, struct scratch *w, be32 own)
{
	struct options *o = &w->options;
	u32 size = barrier_var(o->size);
	if (!(w->packet.slow_flags & SLOW_RECORD_OPTIONS))
		return true;
	w->packet.slow_flags = (w->packet.slow_flags & ~SLOW_RECORD_OPTIONS) | SLOW_STALE_CSUM;
	if (o->route_address_at)
		set_option_word(o, o->route_address_at, own);
	if (o->stamp_address_at)
		set_option_word(o, o->stamp_address_at, own);
	if (!IS_LENGTH(size, HEADER_BUFFER) || bpf_skb_store_bytes(skb, ETH_HLEN, o->bytes, size, 0))
		return false;
	return !(w->packet.slow_flags & SLOW_REASSEMBLED) || sum_options(skb, w);
}

/* --- options of an ICMP error to the sender --- */

struct options_echo {
	const struct options *from;
	struct options *to;
	u32 from_at;
};

static int echo_step(u32 index, struct options_echo *e)
{
	set_option_byte(e->to, e->to->size + index, option_byte(e->from, e->from_at + index));
	return 0;
}

/* Append a copy of an option; return its offset. */
INLINE u32 echo_option(const struct options *from, struct options *to, u32 at)
{
	struct options_echo e = {.from = from, .to = to, .from_at = at};
	u32 length = option_byte(from, at + 1), went = to->size;
	if (length > OPTIONS_BYTES)
		length = OPTIONS_BYTES;
	bpf_loop(length, echo_step, &e, 0);
	to->size += length;
	return went;
}

INLINE bool echo_route(const struct options *from, struct options *to, be32 own)
{
	u32 at = echo_option(from, to, from->route_at), length = option_byte(to, at + 1),
	    pointer = option_byte(to, at + 2);
	if (!from->route_address_at || pointer > length)
		return true;
	if (pointer + 3 > length)
		return false;
	set_option_word(to, at + pointer - 1, own);
	set_option_byte(to, at + 2, pointer + 4);
	return true;
}

INLINE bool echo_stamp(const struct options *from, struct options *to, be32 own)
{
	u32 at = echo_option(from, to, from->stamp_at), length = option_byte(to, at + 1),
	    pointer = option_byte(to, at + 2);
	bool named = (option_byte(to, at + 3) & 15) == IPOPT_TS_PRESPEC;
	if (pointer > length)
		return true;
	if (from->stamp_address_at) {
		if (pointer + 3 > length)
			return false;
		set_option_word(to, at + pointer - 1, own);
		pointer += 4;
	}
	if (from->stamped) {
		if (pointer + 3 > length)
			return false;
		if (named && pointer + 7 <= length && is_own4(option_word(to, at + pointer - 1)))
			pointer += 4;
		else if (named)
			return true;
		set_option_word(to, at + pointer - 1, time_of_day());
		pointer += 4;
	}
	set_option_byte(to, at + 2, pointer);
	return true;
}

/* Build the options of an ICMP error about the packet whose options are in `from`: `to->size` bytes, IPv4 header
 * included. Return false where the kernel sends no error. */
INLINE bool echo_options(const struct options *from, struct options *to, be32 own)
{
	memzero(to, sizeof(*to));
	to->size = IPV4_HLEN;
	if (from->route_at && !echo_route(from, to, own))
		return false;
	if (from->stamp_at && !echo_stamp(from, to, own))
		return false;
	to->size = (to->size + 3) & ~3u;
	return true;
}
