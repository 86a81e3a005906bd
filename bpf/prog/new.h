/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The way of a packet that has no connection, or whose connection may end here: find its service and hand it to the
 * scheduler, or first to STAGE_PERSIST (IPVS-SEMANTICS 2.3 to 2.6). STAGE_CONNECT (connect.h) follows.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/persist.h"
#include "fwd/conn.h"
#include "lb/fwmark.h"
#include "lb/to_scheduler.h"
#include "policy/martian.h"
#include "policy/synflood.h"

/* Whether a packet without a connection may have one made (2.4). */
INLINE bool is_opener(const struct packet *p, const struct settings *settings)
{
	switch (p->protocol) {
	case PROTO_UDP:
		return true;
	case PROTO_TCP:
		return !p->rst && (p->syn || settings->sloppy_tcp);
	case PROTO_SCTP:
		return !p->rst && (p->syn || settings->sloppy_sctp);
	default:
		return false;
	}
}

/* Whether a SYN, or an INIT, may open its connection's ports anew (2.3 step 1). */
INLINE bool reopens(const struct connection *c, u32 state, bool answered, u32 flags,
		    const struct settings *settings)
{
	if (settings->expire_nodest_conn && flags & DESTINATION_QUIESCED)
		return true;
	u32 mode = settings->conn_reuse_mode;
	if (!mode || c->controlled)
		return false;
	if (state == STATE_TIME_WAIT || state == STATE_CLOSE || state == STATE_SCTP_CLOSED)
		return true;
	return mode & 2 && state == STATE_FIN_WAIT && c->method != METHOD_MASQ && !answered;
}

enum existing { EXISTING_NONE, EXISTING_KNOWN, EXISTING_SILENT, EXISTING_DYING, EXISTING_FOR_TC };

/* What becomes of the connection that a packet met: carried on, dropped without a word, or ended. One that ends counts
 * on until its ports have been scheduled anew, as in IPVS, where it goes a moment later; TC alone does that, because
 * XDP could not go back. */
INLINE enum existing settle(struct work *w, const struct found *found, const struct root *root, u32 live, bool probe,
			    enum hook hook)
{
	struct connection *c = found->connection;
	const struct packet *p = &w->packet;
	u64 *word = connection_word(found);
	struct destination *d = LOOKUP(destinations, c->destination);
	if (!word || (!d && c->method != METHOD_BYPASS))
		return EXISTING_DYING;
	u64 seen = READ_ONCE(*word);
	u32 flags = d ? destination_flags(d, live) : DESTINATION_AVAILABLE;
	bool available = flags & DESTINATION_AVAILABLE;
	if (!(p->syn && (probe || reopens(c, word_state(seen), word_answered(seen), flags, &root->settings)))) {
		if (available)
			return EXISTING_KNOWN;
		if (!root->settings.expire_nodest_conn)
			return EXISTING_SILENT;
	}
	if (hook == HOOK_XDP)
		return EXISTING_FOR_TC;
	u32 leaving = c->destination;
	if (!is_made(found->slot) || !end_connection(&p->tuple, p->six, found, word, seen, d, ENDING_LEAVING))
		return EXISTING_DYING;
	w->leaving = leaving;
	w->leaving_state = word_state(seen);
	return EXISTING_NONE;
}

INLINE bool in_stateless_time(const struct service_state *state, u32 now)
{
	return state->stateless_until && (s32)(state->stateless_until - now) > 0;
}

INLINE void note_service(struct work *w, const struct service_match *found)
{
	const struct service_version *v = found->version;
	w->service = found->slot;
	w->service_flags = v->flags;
	w->list = v->list;
	w->count = v->count;
	w->list_version = v->list_version;
	w->edit = v->edit;
	w->edit_position = v->edit_position;
	w->gcd = v->gcd;
	w->max_weight = v->max_weight;
	w->table = v->table;
	w->epoch = v->epoch;
	w->epoch_tick = v->epoch_tick;
	w->scheduler = v->scheduler;
	w->timeout = v->timeout;
	w->netmask = v->netmask;
	w->service_port = to_be16(v->port);
	w->mark = v->mark;
	w->chosen = NOBODY;
	w->template = NO_TEMPLATE;
}

/* The way of a packet without a connection: to a stage that goes on with it; what returns is a verdict. */
INLINE int open_anew(void *ctx, struct work *w, const struct root *root, u32 live, u32 now, u32 probe, enum hook hook)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_in(root, live);
	if (is_ipsec(p->protocol))
		return to_stack(hook);
	u32 mark = probe;
	if (unlikely(facts->marks) && !probe) {
		if (!find_mark(ctx, w, facts, hook))
			return to_stack(hook); /* XDP: the TC program sees what a filter of tc marked */
		mark = w->seen.mark;
	}
	if (unlikely(!p->whole) || p->cut) /* with firewall marks, packets that pass through come this way, too */
		return facts->marks && !holds_for_mark(ctx, w, mark, hook) ? to_stack(hook) : dropped(hook, REASON_SHORT);
	bool opens = p->quoting || is_opener(p, &root->settings);
	struct service_match found;
	u32 slot = service_of_mark(p->six, mark, live);
	bool by_mark = slot != NO_SERVICE;
	if (unlikely(probe) && !by_mark)
		return dropped(hook, REASON_NO_DESTINATION); /* never to whichever server the address's service chooses */
	if (!by_mark)
		slot = service_of_address(p, facts, live);
	if (slot == NO_SERVICE || !match(&found, slot, live) || !believable(ctx, p, hook))
		return to_stack(hook);
	struct service_state *state = LOOKUP(service_states, found.slot);
	if (!state)
		return to_stack(hook);
	note_service(w, &found);
	be16 source_port = port_from(p);
	be16 target_port = port_to(p);
	if (!probe && (by_mark ? !holds_for_mark(ctx, w, mark, hook) : !holds_target(ctx, state, p, now, hook))) {
		if (opens)
			count(REASON_NOT_LOCAL);
		return to_stack(hook);
	}
	if (!opens) {
		if (!in_stateless_time(state, now))
			return to_stack(hook);
		leave(w);
		return go_on(ctx, hook, STAGE_STATELESS);
	}
	if (unlikely(root->settings.drop_packet == DEFENCE_ON)) {
		if (hook == HOOK_XDP)
			return to_tc(); /* the count goes on once for each packet */
		if (in_turn_to_drop(&root->settings))
			return dropped(hook, REASON_DEFENCE);
	}
	if (source_port == to_be16(PORT_FTP_DATA))
		return to_stack(hook);
	if (hook == HOOK_XDP && p->ttl <= 1)
		return to_tc();
	if (hook == HOOK_XDP && found.version->flags & SERVICE_ONE_PACKET && p->protocol == PROTO_UDP)
		return to_tc(); /* no connection remembers the choice if XDP then cannot finish */
	if (w->service_flags & SERVICE_PERSISTENT)
		return go_on(ctx, hook, STAGE_PERSIST);
	if (!by_mark && found.version->port != from_be16(target_port)) /* of all ports, or FTP's: only with persistence */
		return refuse(ctx, w, hook);
	return to_scheduler(ctx, w, hook);
}

INLINE int stage_new(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	if (!w)
		return to_stack(hook);
	struct packet *p = &w->packet;
	u32 live = READ_ONCE(root->live), now = ticks(), probe = probe_mark(ctx, p, hook);
	if (!facts_in(root, live)->services[p->six])
		return to_stack(hook); /* no service of this family: IPVS takes no part */

	w->leaving = NOBODY;
	struct found found = {};
	if (!p->unknown || p->quoting)
		found = find_connection(p);
	if (found.connection && p->quoting)
		return dropped(hook, REASON_DYING); /* made just now, on another CPU */
	if (found.connection) {
		switch (settle(w, &found, root, live, probe, hook)) {
		case EXISTING_KNOWN:
			return carry_known(ctx, p, &found, root, now, hook);
		case EXISTING_SILENT:
			return dropped(hook, REASON_UNAVAILABLE);
		case EXISTING_DYING:
			return dropped(hook, REASON_DYING);
		case EXISTING_FOR_TC:
			return to_tc();
		case EXISTING_NONE:
			break;
		}
	}

	int verdict = open_anew(ctx, w, root, live, now, probe, hook);
	leave(w); /* no stage went on */
	return verdict;
}

INLINE int stage_persist(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	if (!w)
		return to_stack(hook);
	template_key(w);
	struct found found = find_template(w);
	struct connection *template = found.connection;
	if (template) {
		struct destination *d = LOOKUP(destinations, template->destination);
		u32 flags = d ? destination_flags(d, READ_ONCE(root->live)) : 0;
		if (flags & DESTINATION_AVAILABLE &&
		    !(flags & DESTINATION_QUIESCED && root->settings.expire_quiescent_template)) {
			/* Handed to TC afterwards, its SYN would end there what it had opened here. */
			if (hook == HOOK_XDP && root->settings.expire_nodest_conn && flags & DESTINATION_QUIESCED)
				return to_tc();
			w->chosen = template->destination;
			w->template = found.slot;
			w->method = method_in(flags);
			return go_on(ctx, hook, STAGE_CONNECT);
		}
		retire_template(w, &found);
	}
	return to_scheduler(ctx, w, hook);
}
