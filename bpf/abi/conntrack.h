/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The part of the contract that is about connections: their tuples, their words, their entries and slots.
 */
#pragma once
#include "abi/base.h"

/* Of a connection. */
enum side { SIDE_REQUEST, SIDE_ANSWER };

struct tuple4 {
	be32 source;
	be32 target;
	be16 source_port;
	be16 target_port;
	u8 protocol;
	u8 kind; /* enum tuple_kind */
	u16 number; /* tells retired templates apart */
} __attribute__((aligned(8))); /* compared in wide words */

struct tuple6 {
	struct address source;
	struct address target;
	be16 source_port;
	be16 target_port;
	u8 protocol;
	u8 kind;
	u16 number;
};

/* A persistence template has the masked client without port, and the virtual address; a retired one, whose
 * destination went, stays listed until its time is up. */
enum tuple_kind { TUPLE_CONNECTION, TUPLE_TEMPLATE, TUPLE_RETIRED };

union tuple {
	struct tuple4 v4;
	struct tuple6 v6;
};

/* The word of a connection, changed by compare-exchange; the tick alone also by a plain store (prolong in fast.h):
 * bits 0-31 tick of expiry, 32-39 state, 40 dying, 41 a reply was seen, 48-63 generation. */
enum word_bits { WORD_STATE = 32, WORD_DYING = 40, WORD_ANSWERED = 41, WORD_GENERATION = 48 };

struct connection {
	u64 word; /* unused for NAT over IPv6, whose two directions share words6 */
	u32 destination;
	be16 port; /* of the real server */
	u8 method;
	u8 controlled; /* made under a template, which its control names */
};

/* A place in the table of IPv4 connections, half a cache line, by slot: bpf/table.h. */
struct place4 {
	struct connection connection;
	struct tuple4 tuple; /* without a target: nobody's */
};

struct connection6 {
	struct connection connection;
	u32 slot;
	u32 pad;
};

/* Of the index: 0, or a slot and a part of its tuple's hash. */
struct bucket {
	u32 entry[ENTRIES];
};

struct table_key {
	u64 seeds[2]; /* of the hash: odd */
	u32 buckets; /* of each half of the index; some more follow for what belongs to full ones */
	u32 slots_mask; /* bits of an entry that name a slot */
};

/* Which of their entries are in force, of so many buckets. */
struct marks {
	u32 of[ENTRIES];
};

/* What persistence keeps of a connection or a template. */
struct control {
	u32 template; /* of a connection: its template's slot */
	u32 controls; /* of a template: connections made under it that live */
	u32 timeout; /* of a template, in ticks */
	u32 assured; /* of a template: one of them was established */
};

struct reply6 { /* what a real server's answer needs */
	u32 slot;
	u32 destination;
	struct address address;
	be16 port;
	u16 controlled;
};

struct registered { /* whose connection a slot of IPv6 is */
	struct tuple6 tuple;
};

struct looks { /* ticks at which the expirer looks at each slot again; 0: free */
	u32 at[LOOKS];
};

struct pool {
	u32 fresh[2]; /* slots of IPv4, and of IPv6, that were ever used */
	u32 capacity; /* connections and templates of both families */
	u32 used; /* of them, with what CPUs keep for themselves; atomic */
	u32 sweep_at; /* where the expirer goes on */
	u32 sweeps; /* rounds it has made */
	u32 purge_at; /* where the search for orphans goes on */
	u32 thin; /* elements of `looks` still to be thinned this second */
	s32 drop_left; /* packets until one is dropped */
	u64 seeds[2]; /* of the hash of IPv4 connections */
};

enum pace_classes { PACE_CLASSES = 16, PACE_FIRST_NS = 15625 /* 1 ms is the sixth doubling */ };

struct pace { /* how long the expirer held its CPU */
	u64 goes;
	u64 spent_ns; /* in all of them */
	u64 longest_ns; /* in one of them; whoever reads may set it to 0 */
	u64 ended; /* connections */
	u64 cpu; /* of the last one */
	u64 lengths[PACE_CLASSES]; /* goes shorter than PACE_FIRST_NS << n; the last: all longer ones */
};

struct free_slots {
	u32 count;
	u32 slots[MAGAZINE];
};

struct bundle {
	u32 slots[BUNDLE];
};

struct magazine {
	u32 generation;
	u32 credits;
	struct free_slots free[2]; /* of IPv4, and of IPv6 */
};

ARRAY_MAP(connections4, struct place4, 2048, BPF_F_MMAPABLE);

ARRAY_MAP(index4, struct bucket, 256, BPF_F_MMAPABLE); /* which aligns its lines */

ARRAY_MAP(marks4, struct marks, 16, BPF_F_MMAPABLE);

HASH_MAP(connections6, struct tuple6, struct connection6, 1024, BPF_F_NO_PREALLOC);

HASH_MAP(replies6, struct tuple6, struct reply6, 1024, BPF_F_NO_PREALLOC);

ARRAY_MAP(words6, u64, 1024, BPF_F_MMAPABLE);

ARRAY_MAP(registry6, struct registered, 1024, 0);

ARRAY_MAP(controls, struct control, 4096, BPF_F_MMAPABLE); /* by slot, of both families */

ARRAY_MAP(looks, struct looks, 320, BPF_F_MMAPABLE);

ARRAY_MAP(pools, struct pool, 1, BPF_F_MMAPABLE);

PERCPU_MAP(magazines, struct magazine, 1);

ARRAY_MAP(orphans_magazine, struct magazine, 1, 0);

STACK_MAP(free_slots4, struct bundle, 64);

STACK_MAP(free_slots6, struct bundle, 64);

const volatile struct table_key table_key4 = {.seeds = {1, 1}, .buckets = 124, .slots_mask = 2047};
