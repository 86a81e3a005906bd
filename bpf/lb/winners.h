/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Winner trees: the best destination of a long list without a walk, for the schedulers with the flag INDEXED. The best
 * one is the least loaded, or the heaviest.
 *
 * The leaves are the destinations of a list, in its order. Each node names the best of its four children by its list
 * index, so the root names the scheduler's choice. The tree is a heap in an array: the children of node n are 4n + 1 to
 * 4n + 4, and the leaves follow the inner nodes. Nodes have no loads: those of the children are read for each comparison.
 *
 * A CPU that changes a destination's counts or its overload flag then climbs from the leaf to the root. It replaces each
 * node by compare-exchange with the next version, also if the winner stays. So a CPU that has read the children before
 * this change, and has not stored yet, fails. Two exchanges that fail are enough: the CPU that made the second other one
 * has read the node after this climb began, and its children after that.
 *
 * A climb ends early where it has exchanged a node whose winner is, and was, another leaf. After a new connection it does
 * not. Otherwise, a CPU that pauses within its climb would leave its leaf at the root, and all connections would go there.
 *
 * The tree of twos has sums in place of winners: of the weights of the usable destinations below a node.
 *
 * Behind the tree of lblc and lblcr, a bit for each destination tells whether it is idle, and a word counts those bits.
 *
 * The choice is that of the walk, but for climbs that are under way. An edit makes the tree of a new list before it puts
 * that in force (lb/index_list.h). Until both are settled, each destination has a leaf in either list.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"

enum winner_limits {
	ARITY = 4,
	LEVELS = 10, /* of inner nodes above 131,072 leaves: nine, and one to spare */
	IDLE_ATTEMPTS = 3,
	WINNER_VERSION = 32, /* bits of the list index in a node; the version follows. 0: the tree was never made */
};
_Static_assert(1 << LEAF_BITS > 1 << (LIST_CLASSES - 1), "a leaf has the length of its list");

#define LEAF_FIELD(leaf, shift) ((u32)((leaf) >> (shift)) & ((1u << LEAF_BITS) - 1))

/* Return the number of inner nodes above so many leaves: all nodes but the root have a parent with four children. */
INLINE u32 inner_nodes(u32 leaves)
{
	return (u64)(leaves + 1) * 0xaaaaaaab >> 33; /* a third */
}

/* Return a node of a list's tree. Lists have chunks of 2^n members, and half as many nodes are enough. */
INLINE u64 *winner_at(u32 list, u32 node)
{
	return map_elem(winners, list / 2 + node);
}

/* How a scheduler weighs a destination. In numbers, because the verifier would follow each branch. */
struct weighing {
	u64 load_mask; /* lc compares unsigned numbers of 32 bits, others signed ones; 0: only weights count */
	u32 weight_mask; /* 0: every weight counts as 1 */
	u32 inactive_mask; /* 0: only active connections count */
	u8 active_shift;
	u8 more; /* is added to the load */
	u8 idle_less; /* is subtracted again without active connections */
	u8 by_counts; /* 0: counts change nothing but the overload flag */
	u8 sums; /* nodes have sums of weights */
	u8 counts_idle; /* the list counts its idle destinations */
};

#define CONNECTIONS .load_mask = ~0ULL, .weight_mask = ~0U, .inactive_mask = ~0U, .active_shift = 8, .by_counts = 1
#define HEAVIEST {.weight_mask = ~0U, .more = 1}

static const struct weighing weighings[32] = {
	[SCHED_RR] = HEAVIEST, /* rr and wrr search their trees (lb/search.h) */
	[SCHED_WRR] = HEAVIEST,
	[SCHED_LC] = {.load_mask = ~0U, .inactive_mask = ~0U, .active_shift = 8, .by_counts = 1},
	[SCHED_WLC] = {CONNECTIONS},
	[SCHED_SED] = {.load_mask = ~0ULL, .weight_mask = ~0U, .more = 1, .by_counts = 1},
	[SCHED_NQ] = {.load_mask = ~0ULL, .weight_mask = ~0U, .more = 1, .idle_less = 1, .by_counts = 1},
	[SCHED_FO] = HEAVIEST,
	[SCHED_LBLC] = {CONNECTIONS, .counts_idle = 1},
	[SCHED_LBLCR] = {CONNECTIONS, .counts_idle = 1},
	[SCHED_TWOS] = {.weight_mask = ~0U, .sums = 1},
};

INLINE u64 leaf_of(u32 list, u32 pos, u32 count, u32 scheduler)
{
	const struct weighing *how = &weighings[scheduler & 31];
	return (u64)list << LEAF_LIST | (u64)pos << LEAF_POS | (u64)count << LEAF_COUNT |
	       (u64)scheduler << LEAF_SCHEDULER | (u64)how->counts_idle << LEAF_IDLE | (u64)how->sums << LEAF_SUMS |
	       (u64)how->by_counts << LEAF_BY_COUNTS;
}

struct weighed {
	s64 load;
	s64 weight;
};

/* Return the member at a list index, with its counts; NULL if its destination is not usable. */
INLINE struct member *usable_member(u32 list, u32 pos, struct conn_counts **counts)
{
	struct member *member = map_elem(members, list + pos);
	struct conn_counts *n = member ? map_elem(conn_counts, member->destination) : NULL;
	*counts = n;
	return n && member->weight > 0 && !READ_ONCE(n->overloaded) ? member : NULL;
}

/* Weigh the destination at a list index. Return false if it is not usable. */
INLINE bool weigh(u32 list, u32 pos, const struct weighing *how, struct weighed *found)
{
	struct conn_counts *n;
	struct member *member = pos == NOTHING ? NULL : usable_member(list, pos, &n);
	if (!member)
		return false;
	u32 active = READ_ONCE(n->active), inactive = READ_ONCE(n->inactive) & how->inactive_mask;
	u32 idle = 1 - is_nonzero(active);
	s64 load = (s32)((active << (how->active_shift & 31)) + inactive - (idle & how->idle_less));
	found->load = (load & how->load_mask) + how->more;
	found->weight = 1 + ((u32)(member->weight - 1) & how->weight_mask);
	return true;
}

/* Return the weight of the destination at a list index, 0 if it is not usable. */
VERIFIED_ONCE u32 usable_weight(u64 leaf, u32 pos)
{
	struct conn_counts *n;
	struct member *member = pos == NOTHING ? NULL : usable_member(LEAF_FIELD(leaf, LEAF_LIST), pos, &n);
	return member ? member->weight : 0;
}

/* Return the better one of two list indexes, of equals the first in the list; NOTHING if neither is usable. Return the
 * sum of two sums. */
VERIFIED_ONCE u32 better_of(u64 leaf, u32 one, u32 other)
{
	if (leaf >> LEAF_SUMS & 1)
		return one + other;
	const struct weighing *how = &weighings[leaf >> LEAF_SCHEDULER & 31];
	u32 list = LEAF_FIELD(leaf, LEAF_LIST);
	struct weighed a = {}, b = {}; /* Linux 6.1 refuses reads of stack that may be unset */
	bool is_usable = weigh(list, one, how, &a);
	if (!weigh(list, other, how, &b))
		return is_usable ? one : NOTHING;
	if (!is_usable)
		return other;
	s64 first = a.load * b.weight, second = b.load * a.weight;
	return first < second || (first == second && one < other) ? one : other;
}

/* Return the list index that child 1 to 4 of a node stands for, or NOTHING; or its sum. `at`: inner nodes << 32 | the
 * node. */
INLINE u32 child_at(u64 leaf, u64 at, u32 which)
{
	leaf = barrier_var(leaf); /* the compiler would keep the fields of both on the stack of replace_winner */
	at = barrier_var(at);
	u32 inner = at >> 32, child = (u32)at * ARITY + which, pos = child - inner; /* of an inner node: beyond the list */
	u64 *node = child < inner ? winner_at(LEAF_FIELD(leaf, LEAF_LIST), child) : NULL;
	if (node)
		return (u32)READ_ONCE(*node);
	pos = pos < LEAF_FIELD(leaf, LEAF_COUNT) ? pos : NOTHING;
	return unlikely(leaf >> LEAF_SUMS & 1) ? usable_weight(leaf, pos) : pos;
}

enum replaced { WINNER_STAYS, WINNER_CHANGED, WINNER_RACED };

/* Try to bring a node up to date. CHANGED: its parent may have to change, too. RACED: another CPU has replaced it.
 *
 * Linux 6.1 has 512 bytes of stack for this and all that call it, so its frame must not exceed 32. Hence the node is
 * looked up twice, and the children are compared one after the other. */
VERIFIED_ONCE int replace_winner(u64 leaf, u64 at)
{
	u64 *node = winner_at(LEAF_FIELD(leaf, LEAF_LIST), at);
	if (!node)
		return WINNER_STAYS;
	u64 seen = READ_ONCE(*node);
	at = AFTER(at, seen);
	u32 best = child_at(leaf, at, 1);
	best = better_of(leaf, best, child_at(leaf, at, 2));
	best = better_of(leaf, best, child_at(leaf, at, 3));
	best = better_of(leaf, best, child_at(leaf, at, 4));
	node = winner_at(LEAF_FIELD(barrier_var(leaf), LEAF_LIST), at);
	if (!node)
		return WINNER_STAYS;
	u64 next = ((seen >> WINNER_VERSION) + 1) << WINNER_VERSION | best;
	if (unlikely(__sync_val_compare_and_swap(node, seen, next) != seen))
		return WINNER_RACED;
	return (u32)seen != best || best == LEAF_FIELD(leaf, LEAF_POS) ? WINNER_CHANGED : WINNER_STAYS;
}

/* Bring a node up to date. Return whether its parent may have to change. */
INLINE bool update_winner(u64 leaf, u64 at)
{
	u32 done = replace_winner(leaf, at);
	if (unlikely(done == WINNER_RACED))
		done = replace_winner(leaf, at);
	return done != WINNER_STAYS;
}

/* Bring the nodes above a leaf up to date; `to_root`: all of them. */
INLINE void climb(u64 leaf, bool to_root)
{
	u32 inner = inner_nodes(LEAF_FIELD(leaf, LEAF_COUNT)), node = inner + LEAF_FIELD(leaf, LEAF_POS);
#pragma nounroll
	for (u32 level = 0; level < LEVELS && node; level++) {
		node = (node - 1) / ARITY;
		if (!update_winner(leaf, (u64)inner << 32 | node) && !to_root)
			break;
	}
}

/* --- idle destinations --- */

/* Return a word behind a list's tree: 0 is the number of idle destinations, the following ones have the bits. A tree
 * needs less than its half of the nodes: a third of a list's length, and a 64th for the bits. */
INLINE u64 *idle_word(u32 list, u32 count, u32 number)
{
	return winner_at(list, inner_nodes(count) + number);
}

/* Return 1 if a destination has fewer active connections than half of its weight, else 0. */
INLINE u64 is_idle(const struct member *member, const struct conn_counts *n)
{
	s64 more = 2 * (s64)(s32)READ_ONCE(n->active) - member->weight;
	return (u64)barrier_var(more) >> 63; /* the verifier would follow a branch */
}

/* If the list counts idle destinations, bring the bit of one up to date, and the number of bits. It ends when the bit is
 * right: another CPU may have changed the counts or another bit. */
VERIFIED_ONCE int follow_idle(u64 leaf)
{
	u32 list = LEAF_FIELD(leaf, LEAF_LIST), count = LEAF_FIELD(leaf, LEAF_COUNT), pos = LEAF_FIELD(leaf, LEAF_POS);
	u32 shift = pos % 64;
	if (!(leaf >> LEAF_IDLE & 1))
		return 0;
	struct member *member = map_elem(members, list + pos);
	if (!member)
		return 0;
	struct conn_counts *n = map_elem(conn_counts, member->destination);
	if (!n)
		return 0;
	u64 *word = idle_word(list, count, 1 + pos / 64);
	if (!word)
		return 0;
	u64 *idle = idle_word(list, count, 0);
	if (!idle)
		return 0;
#pragma nounroll
	for (u32 attempt = 0; attempt < IDLE_ATTEMPTS; attempt++) {
		u64 seen = READ_ONCE(*word), change = (seen >> shift & 1) ^ is_idle(member, AFTER(n, seen));
		if (!change)
			break;
		if (__sync_val_compare_and_swap(word, seen, seen ^ change << shift) == seen)
			__sync_fetch_and_add(idle, 1 - 2 * (s64)(seen >> shift & 1));
	}
	return 0;
}

/* Let the winners follow a destination whose counts have changed, or also its flag. Call it after an atomic operation
 * that has returned a value, because that orders the loads. The next leaf is loaded first: if an edit has just moved it
 * to the place of the present one, it is found there. Inlined, because functions may nest eight deep. */
INLINE void follow_load(struct conn_counts *n, bool to_root, bool also_flag)
{
	u64 seen = READ_ONCE(n->leaves[1]);
	n = AFTER(n, seen);
	seen |= READ_ONCE(n->leaves[0]);
	if (likely(!seen) || !(also_flag || seen >> LEAF_BY_COUNTS))
		return;
#pragma nounroll
	for (u32 half = 0; half < 2; half++) { /* loaded again: Linux 6.1 has too little stack to keep both */
		u64 leaf = READ_ONCE(n->leaves[1 - half]);
		n = AFTER(n, leaf);
		if (leaf) {
			follow_idle(leaf);
			climb(leaf, to_root);
		}
	}
}

/* Return the root of a list's tree: its version, and the winner or sum; 0 if the list has no tree. */
INLINE u64 root_winner(u32 list, u32 count)
{
	u64 *root = count > WALKED ? winner_at(list, 0) : NULL;
	u64 seen = root ? READ_ONCE(*root) : 0;
	return seen >> WINNER_VERSION ? seen : 0;
}
