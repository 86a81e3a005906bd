/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Remove a connection from the table.
 */
#pragma once
#include "conntrack/slots.h"
#include "conntrack/update.h"

INLINE void reply_key6(struct tuple6 *key, const struct tuple6 *request, const struct address *real, be16 port)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = *real;
	key->target = request->source;
	key->source_port = port;
	key->target_port = request->source_port;
	key->protocol = request->protocol;
}

NOINLINE int remove_reverse6(const struct tuple6 *request, const struct destination *d, u32 slot, be16 port)
{
	struct tuple6 key;
	if (!request || !d)
		return 0;
	reply_key6(&key, request, &d->address, port);
	struct reply6 *reply = bpf_map_lookup_elem(&replies6, &key);
	if (reply && reply->slot == slot)
		bpf_map_delete_elem(&replies6, &key);
	return 0;
}

INLINE void remove_reverse(const union tuple *request, bool is_ipv6, const struct destination *d, u32 slot, be16 port)
{
	if (is_ipv6) {
		remove_reverse6(&request->v6, d, slot, port);
		return;
	}
	struct key4 key = reply_key4(&request->v4, d->address.word[0], port);
	unlink_entry(key.addresses, key.rest, slot, SIDE_REPLY);
}

/* Drop a connection's reference to its template. A template that was never assured ends with its last connection, if
 * that was killed. */
INLINE void release_template(u32 slot, bool killed)
{
	struct control *control = control_of(slot);
	struct control *template = control ? control_of(control->template) : NULL;
	if (!template)
		return;
	u32 before = __sync_fetch_and_add(&template->controls, -1);
	if (killed && before == 1 && !template->assured)
		WRITE_ONCE(template->timeout, 0), set_expiry_tick(control->template, ticks() ?: 1);
}

/* EXPIRED: its timeout. KILLED: drop_entry. ORPHAN: its destination was deleted. REPLACED: a new connection takes its
 * tuple; it still counts until that is scheduled. RESTORED: a record has its tuple and another destination. KILLED and
 * ORPHAN may end the template. */
enum end_reason { END_EXPIRED, END_KILLED, END_ORPHAN, END_REPLACED, END_RESTORED };

/* Whether the word that was read belonged to this tuple. If the slot changes hands later, the word's generation
 * differs. */
INLINE bool is_same_conn(const union tuple *tuple, bool is_ipv6, u32 slot)
{
	struct key4 key = key4_of(&tuple->v4);
	return is_ipv6 || has_tuple(slot, key.addresses, key.rest);
}

/* Remove the connection, unless another CPU does. `seen` is the word as last read. */
INLINE bool end_conn(const union tuple *tuple, bool is_ipv6, const struct found *found, u64 *word, u64 seen,
		     struct destination *d, enum end_reason ending)
{
	struct connection copy = *found->connection;
	u32 slot = found->slot;
	if (word_dying(seen) || !is_same_conn(tuple, is_ipv6, slot) ||
	    __sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_DYING) != seen)
		return false;
	if (d && copy.method == METHOD_MASQ)
		remove_reverse(tuple, is_ipv6, d, slot, copy.port);
	if (ending != END_REPLACED)
		uncount_conn(copy.destination, word_state(seen));
	if (unlikely(copy.controlled))
		release_template(slot, ending == END_KILLED || ending == END_ORPHAN);
	remove_conn(tuple, is_ipv6, slot, ending == END_ORPHAN || ending == END_RESTORED ? BY_COMMAND : BY_PACKET);
	return true;
}
