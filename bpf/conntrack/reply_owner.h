/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Which connection gets a NAT server's packets, if several have the same reply tuple (IPVS-SEMANTICS 4.1).
 */
#pragma once
#include "conntrack/entry.h"
#include "conntrack/table.h"

/* Mark a connection whose replies a newer one gets. If the slot changes hands before the exchange, the word has another
 * generation. */
VERIFIED_ONCE int lose_replies(const struct key *reply, u32 slot)
{
	struct conn_entry4 *conn = conn_at(slot);
	if (!conn || !reply)
		return 0;
	u64 *word = &conn->connection.word;
#pragma nounroll
	for (u32 i = 0; i < 4; i++) { /* packets may change the word */
		u64 seen = READ_ONCE(*word);
		if (seen & 1ULL << WORD_DYING || !match_slot(AFTER((u64)slot, seen), reply))
			return 0;
		if (__sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_NO_REPLIES) == seen)
			return 0;
	}
	return 0;
}

/* Return the replies with this tuple to a connection that lost them, because the newer one has ended. Return a slot if
 * some connection gets them now. A connection that another CPU makes at the same time loses this one's, or is found. */
VERIFIED_ONCE u32 regain_replies(const union tuple *reply, u32 is_ipv6)
{
	struct key key = {};
	if (!reply)
		return 0;
	set_reply_key(&key, reply, is_ipv6);
	u64 *marks = marks_at(home_of(&key));
	if (!marks)
		return 0;
	key.rest |= 1ULL << REST_ANY_OWNER;
	u32 slot = search_all(&key, READ_ONCE(*marks), 0);
	struct conn_entry4 *conn = slot ? conn_at(slot) : NULL;
	if (!conn)
		return 0;
	u64 *word = &conn->connection.word, seen = READ_ONCE(*word);
	if (is_dry() || word_dying(seen) || !match_slot(AFTER((u64)slot, seen), &key) ||
	    __sync_val_compare_and_swap(word, seen, seen & ~(1ULL << WORD_NO_REPLIES)) != seen)
		return 0;
	key.rest &= ~(1ULL << REST_ANY_OWNER);
	if (search_all(&key, READ_ONCE(*marks), slot))
		lose_replies(&key, slot);
	return slot;
}

enum clash { CLASH_GONE, CLASH_LOSES, CLASH_WINS };

/* Decide whether another connection gets the replies. An older one loses them (4.1). Of two that two CPUs make at once,
 * the one with the greater slot gets them, or the one that `overflow_index` names. An entry that another CPU has made
 * for the same request is no rival: that CPU withdraws it. It is in force before and behind the comparison, so it is
 * that entry. */
VERIFIED_ONCE int resolve_clash(const struct key *request, const struct key *reply, u32 slot, u32 other)
{
	struct conn_entry4 *own = conn_at(slot), *its = conn_at(other);
	if (!own || !its || !request || !reply)
		return CLASH_GONE;
	u64 *word = &its->connection.word, seen = READ_ONCE(*word);
	if (is_complete(other))
		return CLASH_LOSES;
	if (!match_slot(other, reply))
		return CLASH_GONE;
	if (match_slot(other, request))
		return CLASH_LOSES;
	if (!match_slot(other, reply) || (READ_ONCE(*word) ^ seen) >> WORD_GENERATION)
		return CLASH_GONE;
	bool indexed = own->connection.flags & its->connection.flags & CONN_INDEXED;
	return (unlikely(indexed) ? search_index(reply) == other : other > slot) ? CLASH_WINS : CLASH_LOSES;
}

enum { CLASHES = 32 }; /* that a connection meets: those of other CPUs, and entries that they withdraw */

/* Publish a NAT connection for its server's packets. Of all connections with the same reply tuple one gets them. Each
 * of two that come at once may find the other, and both mark the same one. A CPU that has finished has marked its rival
 * before, so the rival finds its own mark. */
VERIFIED_ONCE int publish_reply(const struct key *request, const struct address *real, u32 port, u32 slot)
{
	struct key key;
	if (!request || !real)
		return 0;
	set_server_key(&key, request, real, port);
	u64 *word = marks_at(home_of(&key));
#pragma nounroll
	for (u32 i = 0; i < CLASHES && word; i++) {
		u32 other = search_all(&key, READ_ONCE(*word), slot);
		if (likely(!other))
			break;
		u64 clash = resolve_clash(request, &key, slot, other);
		if (!match_slot(AFTER((u64)slot, clash), &key)) /* it has lost them */
			break;
		if (clash != CLASH_GONE)
			lose_replies(&key, clash == CLASH_WINS ? slot : other);
	}
	return 0;
}
