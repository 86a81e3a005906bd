/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_NEW: a packet without a connection, or one that may replace its connection. Find the service, then tail-call the
 * scheduler (IPVS-SEMANTICS 2.3 to 2.6), which tail-calls PROG_CONNECT. PROG_PERSIST comes first for a persistent
 * service, PROG_SIP for one with persistence engine `sip`.
 *
 * PROG_NEW reads packet, and own_tuple with an ICMP error's inner packet. It leaves service, flow and an empty
 * template for all programs until PROG_CONNECT. PROG_PERSIST reads service, and leaves template, perhaps with chosen.
 */
#pragma once
#include "conntrack/end.h"
#include "conntrack/persist.h"
#include "fwd/conn.h"
#include "icmp/error.h"
#include "lb/fallback.h"
#include "lb/fwmark.h"
#include "lb/template.h"
#include "policy/client_limits.h"
#include "policy/martian.h"
#include "policy/synflood.h"

/* Whether the packet may create a connection (2.4). */
INLINE bool is_opener(const struct packet *p, const struct settings *settings)
{
	switch (p->protocol) {
	case IPPROTO_UDP:
		return true;
	case IPPROTO_TCP:
		return !p->rst && (p->syn || settings->sloppy_tcp);
	case IPPROTO_SCTP:
		return !p->rst && (p->syn || settings->sloppy_sctp);
	default:
		return false;
	}
}

/* Whether a SYN or INIT may replace its connection (2.3 step 1). */
INLINE bool reopens(const struct connection *c, u32 state, bool has_reply, u32 flags, const struct settings *settings)
{
	if (settings->expire_nodest_conn && flags & DESTINATION_QUIESCED)
		return true;
	u32 mode = settings->conn_reuse_mode;
	if (!mode || c->flags & CONN_CONTROLLED)
		return false;
	if (state == STATE_TIME_WAIT || state == STATE_CLOSE || state == STATE_SCTP_CLOSED)
		return true;
	return mode & 2 && state == STATE_FIN_WAIT && c->method != METHOD_MASQ && !has_reply;
}

enum conn_verdict { CONN_NONE, CONN_KEEP, CONN_UNAVAILABLE, CONN_DYING, CONN_FOR_TC };

/* Decide about the packet's connection: keep it, drop the packet, or end the connection. An ended one counts until the
 * new one is scheduled, as in IPVS, which removes it a little later. Only TC ends connections here, because XDP cannot
 * undo that. */
INLINE enum conn_verdict decide_conn(struct scratch *w, const struct found *found, const struct root *root, u32 live,
				  bool probe, enum hook hook)
{
	struct connection *c = found->connection;
	const struct packet *p = &w->packet;
	struct destination *d = map_elem(destinations, c->destination);
	if (!d && c->method != METHOD_BYPASS)
		return CONN_DYING;
	u64 seen = READ_ONCE(c->word);
	u32 flags = d ? destination_flags(d, live) : DESTINATION_AVAILABLE;
	if (!(p->syn && (probe || reopens(c, word_state(seen), word_has_reply(seen), flags, &root->settings)))) {
		if (serves_conns(flags, &root->settings))
			return CONN_KEEP;
		if (!root->settings.expire_nodest_conn)
			return CONN_UNAVAILABLE;
	}
	if (hook == HOOK_XDP)
		return CONN_FOR_TC;
	u32 old_destination = c->destination;
	if (!is_complete(found->slot) || !end_conn(&p->tuple, p->is_ipv6, found, seen, END_REPLACED))
		return CONN_DYING;
	w->flow.old_destination = old_destination;
	w->flow.old_state = word_state(seen);
	return CONN_NONE;
}

/* Pass a packet of no service. With firewall marks TC decides again: a filter of tc may have set another mark. */
INLINE int pass_no_service(struct ctx ctx, const struct scratch *w, const struct facts *facts, u32 reason)
{
	return facts->marks ? pass_for(ctx.hook, reason) : pass_decided(ctx, &w->owner, reason);
}

/* Pass a packet while no service has an address of its family. Its connection may still be copied. */
INLINE int pass_unserved(struct ctx ctx, const struct packet *p, u32 now)
{
	return unlikely(may_be_copied(now)) && !p->syn ? drop(ctx.hook, REASON_REFUSED_TABLE_COPY)
						       : pass_for(ctx.hook, REASON_NO_SERVICE);
}

/* Find the service of a packet without a connection, and tail-call what follows. Return a verdict if that is not
 * possible. */
INLINE int open_conn(struct ctx ctx, struct scratch *w, const struct root *root, u32 live, u32 now, u32 probe)
{
	struct packet *p = &w->packet;
	const struct facts *facts = facts_in(root, live);
	if (is_ipsec(p->protocol))
		return pass_for(ctx.hook, REASON_NO_FLOW);
	u32 mark = probe;
	if (unlikely(facts->marks) && !probe) {
		if (!find_mark(ctx, w, facts))
			return pass_for(ctx.hook, REASON_NO_SERVICE); /* TC continues with the mark that a filter of tc has set */
		mark = w->marks.mark;
	}
	if (unlikely(!p->l4_complete) || p->no_chunk)
		return is_local_for_mark(ctx, w, mark) ? drop(ctx.hook, REASON_TRUNCATED)
						: pass_for(ctx.hook, REASON_NO_SERVICE);
	bool opens = p->by_inner || is_opener(p, &root->settings);
	struct service_match found;
	u32 slot = service_of_mark(p->is_ipv6, mark, live);
	bool by_mark = slot != NO_SERVICE;
	if (unlikely(probe) && !by_mark)
		/* A health check must not reach another real server than its own. */
		return drop(ctx.hook, REASON_PROBE_REFUSED);
	if (!by_mark)
		slot = service_of_address(p, facts, live);
	if (slot == NO_SERVICE || !load_service(&found, slot, live) || !is_valid_saddr(ctx, p) || !is_valid_daddr(p))
		return unlikely(may_be_copied(now)) && p->maybe_rs && !p->from_host ? drop(ctx.hook, REASON_REFUSED_TABLE_COPY)
										    : pass_no_service(ctx, w, facts, slot == NO_SERVICE
													   ? REASON_NO_SERVICE
													   : REASON_SPOOFED);
	struct service_state *state = map_elem(service_states, found.slot);
	if (!state)
		return pass_to_stack(ctx.hook);
	bool hash_only = ctx.hook == HOOK_TC && p->by_inner == BY_INNER_HASH;
	bool hashes = scheduler_has(found.version->scheduler, HASHES_CLIENT | HASHES_DADDR);
	if (hash_only && (found.version->engine[0] || (!hashes && !in_fallback_time(state, now))))
		return pass_for(ctx.hook, REASON_ICMP);
	note_service(w, &found);
	be16 sport = packet_sport(p);
	be16 dport = packet_dport(p);
	if (!probe && (by_mark ? !is_local_for_mark(ctx, w, mark) : !is_local_daddr(ctx, state, p, now))) {
		return pass_no_service(ctx, w, facts, REASON_NOT_LOCAL);
	}
	if (unlikely(waits_for_copy(now, p->syn)))
		return drop(ctx.hook, REASON_REFUSED_TABLE_COPY);
	w->flow.opens = opens;
	bool one_packet = w->service.flags & SERVICE_ONE_PACKET && p->protocol == IPPROTO_UDP; /* needs no connection */
	w->flow.by_hash = in_fallback_time(state, now) && !one_packet && !(hash_only && hashes);
	if (!opens && !w->flow.by_hash)
		return pass_no_service(ctx, w, facts, REASON_NO_FLOW);
	u32 refused = hash_only || likely(!found.version->client_rules) ? REASON_NONE
									: refused_by_rule(w, found.version->client_rules);
	if (refused == REASON_CLIENT_PASSED)
		return pass_no_service(ctx, w, facts, refused);
	if (unlikely(refused))
		return drop(ctx.hook, refused);
	if (unlikely(root->settings.drop_packet == SYNFLOOD_ON) && opens && !hash_only) {
		if (ctx.hook == HOOK_XDP)
			return pass_to_tc(); /* count each packet once, at TC */
		if (should_drop_packet(&root->settings))
			return drop(ctx.hook, REASON_DROP_PACKET);
	}
	if (sport == bpf_htons(PORT_FTP_DATA))
		return pass_for(ctx.hook, REASON_FTP_DATA);
	if (ctx.hook == HOOK_XDP && p->ttl <= 1)
		return pass_to_tc();
	if (ctx.hook == HOOK_XDP && found.version->flags & SERVICE_ONE_PACKET && p->protocol == IPPROTO_UDP)
		return pass_to_tc(); /* without a connection TC would schedule again if XDP cannot finish */
	if (w->service.flags & SERVICE_PERSISTENT) {
		if (likely(!found.version->engine[0]))
			return tail_call(ctx, PROG_PERSIST);
		return ctx.hook == HOOK_XDP ? pass_to_tc() : tail_call(ctx, PROG_SIP);
	}
	if (!by_mark && found.version->port != bpf_ntohs(dport)) /* port 0 and FTP data need persistence */
		return reject_no_destination(ctx, w);
	return to_scheduler(ctx, w);
}

INLINE int prog_new(struct ctx ctx, struct scratch *w, struct root *root)
{
	struct packet *p = &w->packet;
	u32 live = READ_ONCE(root->live), now = ticks(), probe = probe_mark(ctx, p);
	w->flow.old_destination = NO_INDEX;
	w->flow.half_open_ended = false;
	w->flow.collisions = 0;
	w->flow.client_rules = 0;
	w->flow.slot = 0;
	struct found found = {};
	if (!p->no_conn || p->by_inner)
		found = find_connection(p);
	if (found.connection && p->by_inner)
		return drop(ctx.hook, REASON_EXPIRING); /* another CPU has just created it */
	if (found.connection) {
		switch (decide_conn(w, &found, root, live, probe, ctx.hook)) {
		case CONN_KEEP:
			return fwd_known(ctx, p, &found, root, now);
		case CONN_UNAVAILABLE:
			return drop(ctx.hook, REASON_UNAVAILABLE);
		case CONN_DYING:
			return drop(ctx.hook, REASON_EXPIRING);
		case CONN_FOR_TC:
			return pass_to_tc();
		case CONN_NONE:
			break;
		}
	}

	int verdict = facts_in(root, live)->services[p->is_ipv6] ? open_conn(ctx, w, root, live, now, probe)
								 : pass_unserved(ctx, p, now);
	drop_old_ref(w); /* no tail call succeeded */
	if (ctx.hook == HOOK_TC && unlikely(p->by_inner == BY_INNER_HASH))
		return forward_to_none(ctx.skb, w);
	return verdict;
}

INLINE int prog_persist(struct ctx ctx, struct scratch *w, struct root *root)
{
	w->template.by_call = false;
	template_key(w);
	return by_template(ctx, w, root);
}
