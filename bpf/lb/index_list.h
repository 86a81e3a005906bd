/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The part of an edit that makes and settles winner trees (lb/winners.h). It runs under the lock of edits.
 *
 * A tree is made from its last inner node to the root, so that each node follows its children. While it is made, packets
 * change counts, and climb from each destination that has its leaf. The same exchanges keep the order. So it is with the
 * bits of idle destinations: they begin as 0, before a destination has its leaf. Recovery makes trees again that packets
 * keep already; then the bits stay.
 */
#pragma once
#include "ctx/ctx.h"
#include "lb/winners.h"

enum { INDEX_REQUEST_OFFSET = 16 }; /* of struct index_request: behind the Ethernet header */

static int index_member_step(u32 pos, struct index_request *r)
{
	struct member *member = map_elem(members, r->list + pos);
	struct conn_counts *n = member ? map_elem(conn_counts, member->destination) : NULL;
	u64 leaf = leaf_of(r->list, pos, r->count, r->scheduler);
	if (!n)
		return 0;
	if (r->step == INDEX_PREPARE) {
		/* An exchange is a full barrier: a CPU that has not seen the leaf has changed its counts before. */
		__sync_lock_test_and_set(&n->leaves[1], leaf);
		follow_idle(leaf);
	} else if (r->step == INDEX_ADOPT) {
		WRITE_ONCE(n->leaves[0], leaf);
		__sync_lock_test_and_set(&n->leaves[1], 0); /* not before the other store (follow_load) */
	} else if (n->leaves[0] && LEAF_FIELD(n->leaves[0], LEAF_LIST) == r->list) {
		WRITE_ONCE(n->leaves[0], 0);
	}
	return 0;
}

/* Whether packets keep the tree. */
INLINE bool is_kept(const struct index_request *r)
{
	struct member *member = map_elem(members, r->list);
	struct conn_counts *n = member ? map_elem(conn_counts, member->destination) : NULL;
	u64 leaf = leaf_of(r->list, 0, r->count, r->scheduler);
	return n && (n->leaves[0] == leaf || n->leaves[1] == leaf);
}

static int clear_idle_step(u32 index, struct index_request *r)
{
	u64 *word = idle_word(r->list, r->count, index);
	if (word)
		WRITE_ONCE(*word, 0);
	return 0;
}

static int index_node_step(u32 index, struct index_request *r)
{
	u32 inner = inner_nodes(r->count);
	update_winner(leaf_of(r->list, 0, r->count, r->scheduler), (u64)inner << 32 | (inner - 1 - index));
	return 0;
}

/* Python runs this at each step of an edit (dataplane/scheduler_tables.py). */
SEC("tc")
int index_list(struct __sk_buff *skb)
{
	void *data = ctx_data(tc_ctx(skb)), *end = ctx_data_end(tc_ctx(skb));
	const struct index_request *asked = data + INDEX_REQUEST_OFFSET;
	if ((void *)(asked + 1) > end)
		return 0;
	struct index_request r = *asked;
	if (r.step == INDEX_PREPARE && !is_kept(&r))
		bpf_loop(1 + (r.count + 63) / 64, clear_idle_step, &r, 0);
	bpf_loop(r.count, index_member_step, &r, 0);
	if (r.step == INDEX_PREPARE)
		bpf_loop(inner_nodes(r.count), index_node_step, &r, 0);
	return 0;
}
