/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Templates of SIP calls: a template is for a call of a client or of its network (IPVS-SEMANTICS 5.6).
 *
 * Its tuple has the form of IPv6 for both families. 128 bits of a keyed hash of the Call-ID and the addresses replace
 * the addresses, so two calls have different tuples, also if a client chooses their Call-IDs. The map `calls` has what
 * the hash replaces, for listings and copies.
 */
#pragma once
#include "conntrack/persist.h"
#include "lb/call_id.h"
#include "lib/siphash.h"

enum { CALL_WORDS = sizeof(struct call) / 8, CALL_HEAD = __builtin_offsetof(struct call, id) / 8 };

/* Return the hash of a call. `number` selects one of several hash functions. */
VERIFIED_ONCE u64 hash_call(const struct call *call, u32 number)
{
	const struct root *root = get_root();
	if (!call)
		return 0;
	const u64 *words = (const u64 *)call;
	u32 end = CALL_HEAD + (call->length + 7) / 8;
	struct sip s = sip_begin(root->fallback_key[0] ^ number + 1, root->fallback_key[1]);
#pragma nounroll
	for (u32 i = 0; i < CALL_WORDS; i++) {
		if (i >= barrier_var(end)) /* Linux 6.1 verifies the loop by its comparison with a constant */
			break;
		sip_word(&s, words[i]);
	}
	return sip_end(&s);
}

/* Make a tuple that of a call's template. */
INLINE void call_tuple(struct tuple6 *tuple, const struct call *call, be16 port, u8 protocol)
{
	u64 first = hash_call(call, 0), second = hash_call(call, 1);
	tuple->saddr = (struct address){.word = {first, first >> 32, second, second >> 32}};
	tuple->daddr = (struct address){};
	tuple->sport = 0;
	tuple->dport = port;
	tuple->protocol = protocol;
	tuple->kind = TUPLE_CALL;
	tuple->pad = 0;
}

/* Note what the template's tuple stands for, and make it that of the call. */
INLINE void set_call_tuple(struct scratch *w)
{
	struct call *call = &w->template.call;
	struct tuple6 *six = &w->template.tuple.v6;
	const struct tuple4 *four = &w->template.tuple.v4;
	bool is_ipv6 = w->packet.is_ipv6;
	be16 port = is_ipv6 ? six->dport : four->dport;
	u8 protocol = is_ipv6 ? six->protocol : four->protocol;
	call->family = is_ipv6 ? 6 : 4;
	call->client = is_ipv6 ? six->saddr : (struct address){.word = {four->saddr}};
	call->daddr = is_ipv6 ? six->daddr : (struct address){.word = {four->daddr}};
	call_tuple(six, call, port, protocol);
	w->template.by_call = true;
}

/* Find the Call-ID of a message, and set the tuple of its template. Return false if it has none. */
INLINE bool set_call(struct __sk_buff *skb, struct scratch *w)
{
	if (!read_call_id(skb, w))
		return false;
	template_key(w);
	set_call_tuple(w);
	return true;
}
