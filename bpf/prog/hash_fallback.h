/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The table is full: new connections of direct routing and tunnels go to the destination that a hash of the client
 * picks, the same for every packet and whatever the order of the list (rendezvous hashing). For 900 s after the last
 * such connection began, unknown packets of the service are taken for later packets of one.
 */
#pragma once
#include "fwd/conn.h"

enum { STATELESS_S = 900 };

struct rendezvous {
	struct work *work; /* whose `best` is a destination here, with its score for a load */
	u32 client;
	u32 method;
};

INLINE u32 mixed(u32 x)
{
	x ^= x >> 16;
	x *= 0x7feb352du;
	x ^= x >> 15;
	x *= 0x846ca68bu;
	return x ^ x >> 16;
}

static int rendezvous_step(u32 index, struct rendezvous *r)
{
	struct member *m = LOOKUP(members, r->work->list + index);
	struct destination *d = m ? LOOKUP(destinations, m->destination) : NULL;
	if (!d)
		return 1;
	if (m->weight <= 0 || m->method == METHOD_MASQ)
		return 0;
	u32 key = d->address.word[0] ^ d->address.word[1] ^ d->address.word[2] ^ d->address.word[3] ^ d->port;
	u32 score = mixed(r->client ^ mixed(key));
	if (r->work->best == NOBODY || score > r->work->best_load) {
		r->work->best = m->destination;
		r->work->best_load = score;
		r->method = m->method;
	}
	return 0;
}

INLINE int stage_stateless(void *ctx, enum hook hook)
{
	struct work *w = work_of(hook);
	struct root *root = the_root();
	if (!w)
		return to_stack(hook);
	struct packet *p = &w->packet;
	struct service_state *state = LOOKUP(service_states, w->service);
	u32 now = ticks();
	if (!state)
		return to_stack(hook);
	struct rendezvous r = {.work = w};
	if (p->six) {
		const struct address *a = &p->tuple.v6.source;
		r.client = a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3] ^ p->tuple.v6.source_port;
	} else {
		r.client = p->tuple.v4.source ^ p->tuple.v4.source_port;
	}
	w->best = NOBODY;
	bpf_loop(w->count, rendezvous_step, &r, 0);
	if (w->best == NOBODY)
		return p->syn || p->protocol == PROTO_UDP ? dropped(hook, REASON_TABLE_FULL_DROPPED) : to_stack(hook);
	if (p->syn || p->protocol == PROTO_UDP)
		WRITE_ONCE(state->stateless_until, (now + STATELESS_S * ticks_per_second) ?: 1);
	struct target t = {.index = w->best, .method = r.method, .port = w->port};
	t.destination = LOOKUP(destinations, t.index);
	if (!t.destination)
		return to_stack(hook);
	count(REASON_TABLE_FULL_STATELESS);
	return carry_new(ctx, p, &t, root, now, 0, hook);
}
