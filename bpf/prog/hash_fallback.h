/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * PROG_HASH_FALLBACK: with a full table, new connections of direct routing and tunnels go to a destination by a hash of
 * the client. Rendezvous hashing gives the same destination for each packet, whatever the order of the list. Until 900
 * s after the last such connection, packets without a connection take this path, too.
 */
#pragma once
#include "fwd/conn.h"

enum { STATELESS_S = 900 };

struct rendezvous {
	struct scratch *w; /* `best` and `best_load` hold the best destination and its score */
	u32 client;
	u32 method;
};

INLINE u32 hash32(u32 x)
{
	x ^= x >> 16;
	x *= 0x7feb352du;
	x ^= x >> 15;
	x *= 0x846ca68bu;
	return x ^ x >> 16;
}

static int rendezvous_step(u32 index, struct rendezvous *r)
{
	struct member *m = map_elem(members, r->w->list + index);
	struct destination *d = m ? map_elem(destinations, m->destination) : NULL;
	if (!d)
		return 1;
	if (m->weight <= 0 || m->method == METHOD_MASQ)
		return 0;
	u32 key = d->address.word[0] ^ d->address.word[1] ^ d->address.word[2] ^ d->address.word[3] ^ d->port;
	u32 score = hash32(r->client ^ hash32(key));
	if (r->w->best == NO_INDEX || score > r->w->best_load) {
		r->w->best = m->destination;
		r->w->best_load = score;
		r->method = m->method;
	}
	return 0;
}

INLINE int prog_hash_fallback(struct ctx ctx)
{
	struct scratch *w = scratch_of(ctx.hook);
	struct root *root = get_root();
	if (!w)
		return pass_to_stack(ctx.hook);
	struct packet *p = &w->packet;
	struct service_state *state = map_elem(service_states, w->service);
	u32 now = ticks();
	if (!state)
		return pass_to_stack(ctx.hook);
	struct rendezvous r = {.w = w};
	if (p->is_ipv6) {
		const struct address *a = &p->tuple.v6.saddr;
		r.client = a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3] ^ p->tuple.v6.sport;
	} else {
		r.client = p->tuple.v4.saddr ^ p->tuple.v4.sport;
	}
	w->best = NO_INDEX;
	bpf_loop(w->count, rendezvous_step, &r, 0);
	if (w->best == NO_INDEX)
		return p->syn || p->protocol == IPPROTO_UDP ? drop(ctx.hook, REASON_TABLE_FULL_DROPPED)
							    : pass_to_stack(ctx.hook);
	if (p->syn || p->protocol == IPPROTO_UDP)
		WRITE_ONCE(state->stateless_until, (now + STATELESS_S * ticks_per_second) ?: 1);
	struct real_server t = {.index = w->best, .method = r.method, .port = w->port};
	t.destination = map_elem(destinations, t.index);
	if (!t.destination)
		return pass_to_stack(ctx.hook);
	count(REASON_TABLE_FULL_STATELESS);
	return fwd_new(ctx, p, &t, root, now, 0);
}
