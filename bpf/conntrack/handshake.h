/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Count the handshakes that each destination begins and completes. They show a server that is up, but does not answer.
 *
 * Completed: with NAT by the server's answer, else by the client's ACK, which bypasses no director. A SYN counts as begun
 * only if a client of its network (/24, /64) has completed a handshake before. So a flood of random senders counts
 * nothing. A network has vouchers, and each SYN that counts takes one. A completed handshake returns it, and adds one.
 * So a flood with senders of a known network makes little more failures than the network completes. The fewer vouchers
 * are left, the fewer SYNs count, at random: else the same server of a list would get all of them. Handshakes that
 * complete always count.
 *
 * The flood's cost is one load. `known_prefixes` is shared by all CPUs. Its fields change without atomic operations: a
 * race costs a voucher, or adds one.
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/event.h"
#include "lib/address.h"

enum handshake_limits {
	PREFIX_BITS = 13, /* of KNOWN_PREFIXES */
	PREFIX_TAG = 20, /* the tag begins at this bit of the hash */
	KNOWN_S = 600, /* so long a network is known after a handshake */
	REPLACED_S = 60, /* another one may replace it */
	RENEWED_S = 15, /* without vouchers one SYN counts in this time */
	MOST_VOUCHERS = 4,
};
_Static_assert(1 << PREFIX_BITS == KNOWN_PREFIXES, "known_prefixes");

/* States of a handshake that is not completed. */
#define HANDSHAKE_STATES \
	(1u << STATE_SYN_RECV | 1u << STATE_SYN_SENT | 1u << STATE_SYNACK | 1u << STATE_SCTP_INIT1 | \
	 1u << STATE_SCTP_INIT | 1u << STATE_SCTP_COOKIE_SENT | 1u << STATE_SCTP_COOKIE_REPLIED | \
	 1u << STATE_SCTP_COOKIE_WAIT | 1u << STATE_SCTP_COOKIE | 1u << STATE_SCTP_COOKIE_ECHOED)

/* Return the hash of the client's network; `by_server`: the tuple is that of a reply. */
INLINE u64 prefix_hash(const union tuple *tuple, bool is_ipv6, bool by_server)
{
	const u64 *keys = get_root()->address_keys;
	if (is_ipv6) {
		const be32 *word = by_server ? tuple->v6.daddr.word : tuple->v6.saddr.word;
		return nh_term(word[0] | (u64)word[1] << 32, keys[1]) * keys[0];
	}
	be32 client = by_server ? tuple->v4.daddr : tuple->v4.saddr;
	return (client & bpf_htonl(0xffffff00)) * keys[0];
}

INLINE u32 prefix_tag(u64 hash)
{
	return (u32)(hash >> PREFIX_TAG) | 1;
}

INLINE struct known_prefix *prefix_at(u64 hash)
{
	return map_elem(known_prefixes, hash >> (64 - PREFIX_BITS));
}

/* Whether the handshake of a new connection counts as begun. `state`: its first one. */
VERIFIED_ONCE int take_voucher(const union tuple *tuple, u32 is_ipv6, u32 state, u32 now)
{
	if (!tuple || (state != STATE_SYN_RECV && state != STATE_SCTP_INIT1))
		return false;
	u64 hash = prefix_hash(tuple, is_ipv6, false);
	struct known_prefix *known = prefix_at(hash);
	if (!known || likely(known->tag != prefix_tag(hash)) || now - known->completed > KNOWN_S * ticks_per_second)
		return false;
	u32 left = known->vouchers;
	if (left < MOST_VOUCHERS && bpf_get_prandom_u32() % MOST_VOUCHERS >= left &&
	    now - known->judged < RENEWED_S * ticks_per_second)
		return false;
	if (is_dry())
		return true;
	known->vouchers = left ? left - 1 : 0;
	known->judged = now;
	return true;
}

/* Note that a client's network has completed a handshake; `was_judged`: with a voucher. */
INLINE void give_vouchers(u64 hash, bool was_judged, u32 now)
{
	struct known_prefix *known = prefix_at(hash);
	if (!known)
		return;
	if (likely(known->tag == prefix_tag(hash))) {
		u32 left = known->vouchers + 1 + was_judged;
		known->vouchers = left < MOST_VOUCHERS ? left : MOST_VOUCHERS;
		known->completed = now;
	} else if (!known->tag || now - known->completed > REPLACED_S * ticks_per_second) {
		*known = (struct known_prefix){
			.tag = prefix_tag(hash), .completed = now, .judged = now, .vouchers = MOST_VOUCHERS};
	}
}

/* Count a handshake that begins. */
VERIFIED_ONCE int count_begun(u32 destination)
{
	struct conn_counts *n = conn_counts_of(destination);
	if (n)
		__sync_fetch_and_add(&n->begun, 1);
	return 0;
}

/* What a packet does to the handshake of its connection, and what is known of it. */
enum handshake_step {
	HANDSHAKE_COMPLETED = 1, /* it completes it, which no packet did before */
	HANDSHAKE_OPENED = 2, /* the connection is established */
	HANDSHAKE_JUDGED = 4, /* it counts as begun */
	HANDSHAKE_IPV6 = 8,
	HANDSHAKE_BY_SERVER = 16, /* the packet's tuple is that of a reply */
};

/* Return the first two by the state word before a packet. With NAT the server's answer completes a handshake, if it
 * counts as begun: a server answers a flood, too. Without branches, which the verifier would follow. */
INLINE u32 handshake_step(u64 old, u32 next, u32 is_reply, u32 event)
{
	u32 goes_on = HANDSHAKE_STATES >> (old >> WORD_STATE & (STATES - 1)) & 1;
	u32 opens = (1u << STATE_ESTABLISHED | 1u << STATE_SCTP_ESTABLISHED) >> next & goes_on;
	u32 replies = (1u << EVENT_SYN | 1u << EVENT_INIT_ACK) >> event & is_reply & (u32)(old >> WORD_JUDGED);
	u32 completes = (opens | replies) & goes_on & ~(u32)(old >> WORD_ANSWERED);
	return completes * HANDSHAKE_COMPLETED | opens * HANDSHAKE_OPENED;
}

/* Count a handshake that was completed. `what`: bits of enum handshake_step. Any CPU may complete what another one
 * began. */
VERIFIED_ONCE int note_handshake(const union tuple *tuple, u32 what, u32 destination, u32 now)
{
	struct conn_counts *n = what & HANDSHAKE_COMPLETED ? conn_counts_of(destination) : NULL;
	if (n) {
		__sync_fetch_and_add(&n->begun, !(what & HANDSHAKE_JUDGED));
		__sync_fetch_and_add(&n->completed, 1);
	}
	if (tuple && what & HANDSHAKE_OPENED)
		give_vouchers(prefix_hash(tuple, what & HANDSHAKE_IPV6, what & HANDSHAKE_BY_SERVER),
			      what & HANDSHAKE_JUDGED, now);
	return 0;
}
