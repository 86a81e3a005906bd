/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Connections: finding, making, refreshing and ending them (IPVS-SEMANTICS 4).
 *
 * A connection's word changes by compare-exchange, and only who wins the exchange moves the counts: they always equal
 * what is in the table. Places and hash elements are reused at once, so the word carries a generation. The fast path
 * alone stores a later tick of expiry, which counts nothing, without an exchange.
 */
#pragma once
#include "slots.h"

INLINE u64 make_word(u32 state, u32 expiry, u16 generation)
{
	return (u64)generation << WORD_GENERATION | (u64)state << WORD_STATE | expiry;
}

INLINE u32 word_state(u64 word)
{
	return word >> WORD_STATE & (STATES - 1);
}

/* Whether a packet of the server's was seen: IPVS's flag NOOUTPUT is gone then, for good (IPVS-SEMANTICS 4.3). */
INLINE bool word_answered(u64 word)
{
	return word >> WORD_ANSWERED & 1;
}

INLINE bool word_dying(u64 word)
{
	return word >> WORD_DYING & 1;
}

/* --- the tables: one for each family --- */

INLINE struct found find_tuple(const union tuple *key, bool six)
{
	struct found found = {};
	if (six) {
		struct connection6 *value = bpf_map_lookup_elem(&connections6, &key->v6);
		if (value)
			found = (struct found){&value->connection, value->slot};
		return found;
	}
	struct key4 words = key4_of(&key->v4);
	struct place4 *place = find_place(words.addresses, words.rest, SIDE_REQUEST, &found.slot);
	if (place)
		found.connection = &place->connection;
	return found;
}

INLINE struct found find_connection(const struct packet *p)
{
	return find_tuple(&p->tuple, p->six);
}

INLINE u64 *connection_word(const struct found *found)
{
	struct connection *c = found->connection;
	return unlikely(found->slot >= first_slot6) && c->method == METHOD_MASQ ? word_of6(found->slot) : &c->word;
}

/* Flags of a destination in the generation in force. */
INLINE u32 destination_flags(const struct destination *d, u32 live)
{
	d = AFTER(d, live);
	u64 newer = READ_ONCE(d->states[0]), older = READ_ONCE(d->states[1]);
	if ((s32)((u32)(older >> 32) - (u32)(newer >> 32)) > 0) {
		u64 swap = newer;
		newer = older;
		older = swap;
	}
	return (s32)(live - (u32)(newer >> 32)) >= 0 ? (u32)newer : (u32)older;
}

INLINE u32 method_in(u32 flags)
{
	return flags >> DESTINATION_METHOD & 15;
}

/* And its weight: half 0 or 1 as the flags (dataplane/versions.py writes both). */
INLINE s32 destination_weight(const struct destination *d, u32 live)
{
	d = AFTER(d, live);
	u32 first = READ_ONCE(d->states[0]) >> 32, second = READ_ONCE(d->states[1]) >> 32;
	bool newer = (s32)(second - first) > 0;
	bool reached = (s32)(live - (newer ? second : first)) >= 0;
	return newer == reached ? d->weights[1] : d->weights[0];
}

/* --- counts and thresholds (IPVS-SEMANTICS 4.8, 6.1) --- */

INLINE u32 *count_of(struct destination *d, u32 state)
{
	if (unlikely(state == STATE_TEMPLATE))
		return &d->persistent;
	return is_active(state) ? &d->active : &d->inactive;
}

/* Bypass connections have no destination, and count nowhere. */
INLINE void bind_count(struct destination *d, u32 state)
{
	if (!d)
		return;
	d = OPAQUE(d); /* no address is computed of it before */
	__sync_fetch_and_add(count_of(d, state), 1);
	if (unlikely(d->upper) && d->active + d->inactive >= d->upper)
		d->overloaded = 1;
}

/* Whether it has room again. */
INLINE void note_release(struct destination *d)
{
	if (likely(!d->overloaded))
		return;
	u64 total = d->active + d->inactive;
	if (d->lower ? total < d->lower : !d->upper || 4 * total < 3 * (u64)d->upper)
		d->overloaded = 0;
}

INLINE void release_count(struct destination *d, u32 state)
{
	if (!d)
		return;
	d = OPAQUE(d);
	__sync_fetch_and_add(count_of(d, state), -1);
	note_release(d);
}

/* A connection of one packet comes and goes (4.10). */
INLINE void note_passing(struct destination *d)
{
	if (unlikely(d->upper) && d->active + d->inactive + 1 >= d->upper)
		d->overloaded = 1;
	note_release(d);
}

INLINE void move_count(struct destination *d, u32 from, u32 to)
{
	if (!d || is_active(from) == is_active(to))
		return;
	d = OPAQUE(d);
	__sync_fetch_and_add(is_active(to) ? &d->active : &d->inactive, 1);
	__sync_fetch_and_add(is_active(from) ? &d->active : &d->inactive, -1);
}

/* --- refreshing --- */

/* A connection made under a template proved good: the template is ASSURED (IPVS-SEMANTICS 5.3). */
INLINE void assure(u32 slot)
{
	struct control *mine = control_of(slot);
	struct control *template = mine ? control_of(mine->template) : NULL;
	if (template)
		WRITE_ONCE(template->assured, 1);
}

enum moved { MOVED, MOVED_NOT /* it is being removed */, MOVED_BY_OTHERS /* meanwhile; `old` is what it is now */ };

/* What a packet is to a connection, in one number for `advance_apart`. */
enum { STEP_DIRECTION = 0, STEP_EVENT = 8, STEP_CONTROLLED = 16 };

/* The word after a packet. */
INLINE u64 word_after(u64 old, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u32 seen_from = direction & ~(u32)(old >> (WORD_ANSWERED - 1) & DIRECTION_INPUT_ONLY);
	u32 next = next_state(seen_from, event, word_state(old));
	u32 expiry = now + facts->timeouts[next & (STATES - 1)];
	u64 kept = old & (0xffffULL << WORD_GENERATION | 1ULL << WORD_ANSWERED);
	return kept | (u64)(direction & DIRECTION_OUTPUT) << WORD_ANSWERED | (u64)next << WORD_STATE | expiry;
}

INLINE enum moved advance_once(u64 *word, u64 *old_word, u32 slot, bool controlled, u32 direction, u32 event,
			       struct destination *d, const struct facts *facts, u32 now)
{
	u64 old = *old_word;
	if (unlikely(word_dying(old)))
		return MOVED_NOT;
	u64 new = word_after(old, direction, event, facts, now);
	u32 state = word_state(old), next = word_state(new), expiry = new;
	if (new == old)
		return MOVED;
	u64 seen = __sync_val_compare_and_swap(word, old, new);
	if (unlikely(seen != old)) {
		*old_word = seen;
		return MOVED_BY_OTHERS;
	}
	move_count(d, state, next);
	if (unlikely(controlled) && is_established(next) && state != next)
		assure(slot);
	if ((s32)(expiry - (u32)old) < 0)
		look_at(slot, expiry ?: 1);
	return MOVED;
}

/* `advance` in general. If other CPUs move the connection at the same time: again, at most twice. */
VERIFIED_ONCE int advance_apart(u64 *word, u32 slot, u32 step, struct destination *d, u32 now)
{
	if (!word)
		return MOVED;
	u64 old = READ_ONCE(*word);
	u32 direction = step >> STEP_DIRECTION & (DIRECTIONS - 1), event = step >> STEP_EVENT & (EVENTS - 1);
	bool controlled = step >> STEP_CONTROLLED & 1;
	const struct facts *facts = facts_of(the_root());
	enum moved moved = MOVED_BY_OTHERS;
#pragma nounroll
	for (u32 i = 0; i < 3 && moved == MOVED_BY_OTHERS; i++)
		moved = advance_once(word, &old, slot, controlled, direction, event, d, facts, now);
	return moved;
}

/* Whether the connection stays in its state, which is usual, and now lives longer. */
INLINE bool goes_on(u64 *word, u32 direction, u32 event, const struct facts *facts, u32 now)
{
	u64 old = READ_ONCE(*word), new = word_after(old, direction, event, facts, now);
	if (unlikely(word_dying(old)) || word_state(new) != word_state(old) || (s32)((u32)new - (u32)old) < 0)
		return false;
	return new == old || __sync_val_compare_and_swap(word, old, new) == old;
}

/* Move the connection on by one packet. False if it is being removed. Once a reply was seen, the requests of direct
 * routing and tunnels follow the same table as NAT's. */
INLINE bool advance(u64 *word, u32 slot, bool controlled, u32 direction, u32 event, struct destination *d,
		    const struct facts *facts, u32 now, enum hook hook)
{
	if (hook == HOOK_XDP && likely(goes_on(word, direction, event, facts, now))) /* a call costs there */
		return true;
	u32 step = direction << STEP_DIRECTION | event << STEP_EVENT | (u32)controlled << STEP_CONTROLLED;
	u32 moved = advance_apart(word, slot, step, d, now);
	return likely(moved != MOVED_NOT);
}

/* --- making --- */

enum { QUOTED_LIFE_S = 3 }; /* of a connection that no packet of its own has made (8.4) */

INLINE void reply_key6(struct tuple6 *key, const struct tuple6 *request, const struct address *real, be16 port)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = *real;
	key->target = request->source;
	key->source_port = port;
	key->target_port = request->source_port;
	key->protocol = request->protocol;
}

/* Of the packets that the real server answers with. */
INLINE struct key4 answer_key4(const struct tuple4 *request, be32 real, be16 port)
{
	return (struct key4){real | (u64)request->source << 32,
			     port | (u64)request->source_port << 16 | (u64)request->protocol << 32};
}

/* Room for what finds the connection by its answers: of IPv4 an entry of the index, or NO_ENTRY. The newest connection
 * answers for a real server's packets, as in IPVS (4.1); of IPv6 from now on. */
INLINE u32 begin_reply(const struct packet *p, const struct destination *d, const struct work *w, u32 slot)
{
	if (!p->six) {
		struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], w->port);
		return take_entry(key.addresses, key.rest, slot, SIDE_ANSWER);
	}
	struct tuple6 key;
	reply_key6(&key, &p->tuple.v6, &d->address, w->port);
	struct reply6 value = {.slot = slot, .destination = w->chosen, .address = p->tuple.v6.target,
			       .port = p->tuple.v6.target_port, .controlled = w->template != NO_TEMPLATE};
	return bpf_map_update_elem(&replies6, &key, &value, BPF_ANY) ? NO_ENTRY : 0;
}

INLINE void finish_reply(const struct packet *p, const struct destination *d, be16 port, u32 slot, u32 at)
{
	if (p->six)
		return;
	struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], port);
	publish_answer(key.addresses, key.rest, slot, at);
}

NOINLINE int remove_reply6(const struct tuple6 *request, const struct destination *d, u32 slot, be16 port)
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

INLINE void remove_reply(const union tuple *request, bool six, const struct destination *d, u32 slot, be16 port)
{
	if (six) {
		remove_reply6(&request->v6, d, slot, port);
		return;
	}
	struct key4 key = answer_key4(&request->v4, d->address.word[0], port);
	hide(key.addresses, key.rest, slot, SIDE_ANSWER);
}

/* No connection came of it. Of IPv6 both CPUs may have chosen the same server: its answers are then the winner's, whose
 * entry was overwritten. */
INLINE void undo_reply(const struct packet *p, const struct destination *d, const struct work *w, u32 slot, u32 at)
{
	if (at == NO_ENTRY)
		return;
	if (!p->six) {
		struct key4 key = answer_key4(&p->tuple.v4, d->address.word[0], w->port);
		untake(key.addresses, key.rest, slot, at);
		return;
	}
	struct found winner = find_connection(p);
	struct connection *c = winner.connection;
	if (c && c->method == METHOD_MASQ && c->destination == w->chosen && c->port == w->port)
		begin_reply(p, d, w, winner.slot);
	else
		remove_reply(&p->tuple, true, d, slot, w->port);
}

/* Put a new connection to the chosen destination into the table, in the state that its first packet makes. */
INLINE enum made make_connection(struct work *w, struct destination *d, const struct root *root, u32 now)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_of(root);
	bool masq = d && w->method == METHOD_MASQ, controlled = w->template != NO_TEMPLATE;
	struct connection c = {.destination = w->chosen, .port = w->port, .method = w->method, .controlled = controlled};
	struct found new = {.connection = &c};
	enum made made = reserve(&p->tuple, p->six, &new);
	if (unlikely(made != MADE))
		return made;
	u32 slot = new.slot, state = STATE_UDP, at = NO_ENTRY;
	if (p->protocol != PROTO_UDP)
		state = next_state(direction_in(&root->settings, masq || !d ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY),
				   p->event, STATE_NONE);
	u32 life = p->quoting ? QUOTED_LIFE_S * ticks_per_second : facts->timeouts[state & (STATES - 1)];
	u32 expiry = now + life;
	c.word |= make_word(state, expiry, 0);
	struct control *control = controlled ? control_of(slot) : NULL;
	if (control)
		*control = (struct control){.template = w->template};
	bind_count(d, state);
	if (masq) {
		u64 *shared = p->six ? word_of6(slot) : NULL;
		if (shared)
			WRITE_ONCE(*shared, c.word);
		at = begin_reply(p, d, w, slot);
		if (unlikely(at == NO_ENTRY)) {
			give_up(p->six, slot, false);
			made = MADE_FULL;
		}
	}
	if (likely(made == MADE))
		made = publish(&p->tuple, p->six, &new);
	if (likely(made == MADE)) {
		if (masq)
			finish_reply(p, d, w->port, slot, at);
		look_at(slot, expiry ?: 1); /* last: who looks for connections by their slots begins there */
		if (controlled && is_established(state)) /* sloppy_tcp, sloppy_sctp */
			assure(slot);
		return MADE;
	}
	if (masq)
		undo_reply(p, d, w, slot, at);
	release_count(d, word_state(c.word));
	return made;
}

/* --- ending --- */

/* The template lets go of one connection. One whose last connection was killed, and that was never assured, ends. */
INLINE void release_template(u32 slot, bool killed)
{
	struct control *mine = control_of(slot);
	struct control *template = mine ? control_of(mine->template) : NULL;
	if (!template)
		return;
	u32 before = __sync_fetch_and_add(&template->controls, -1);
	if (killed && before == 1 && !template->assured)
		WRITE_ONCE(template->timeout, 0), look_at(mine->template, ticks() ?: 1);
}

/* Aged; killed, which may end its template, too, for its destination's sake or not; or leaving: it counts on until its
 * ports are scheduled anew. */
enum ending { ENDING_AGED, ENDING_KILLED, ENDING_ORPHANED, ENDING_LEAVING };

/* The word that was seen was this tuple's: its generation will tell if it no longer is. */
INLINE bool is_still(const union tuple *tuple, bool six, u32 slot)
{
	struct key4 key = key4_of(&tuple->v4);
	return six || has_tuple(slot, key.addresses, key.rest);
}

/* Take the connection out of the table, if nobody else does. `word` is as it was last seen. */
INLINE bool end_connection(const union tuple *tuple, bool six, const struct found *found, u64 *word, u64 seen,
			   struct destination *d, enum ending ending)
{
	struct connection copy = *found->connection;
	u32 slot = found->slot;
	if (word_dying(seen) || !is_still(tuple, six, slot) ||
	    __sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_DYING) != seen)
		return false;
	if (d && copy.method == METHOD_MASQ)
		remove_reply(tuple, six, d, slot, copy.port);
	if (ending != ENDING_LEAVING)
		release_count(d, word_state(seen));
	if (unlikely(copy.controlled))
		release_template(slot, ending != ENDING_AGED && ending != ENDING_LEAVING);
	take_out(tuple, six, slot, ending == ENDING_ORPHANED);
	return true;
}
