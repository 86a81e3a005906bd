/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 2: connections, their tuples, state words, entries and slots.
 */
#pragma once
#include "abi/base.h"

/* Whose packets. */
enum side { SIDE_REQUEST, SIDE_REPLY };

struct tuple4 {
	be32 saddr;
	be32 daddr;
	be16 sport;
	be16 dport;
	u8 protocol;
	u8 kind; /* enum tuple_kind */
	u16 marks; /* in the first entry of a bucket: enum rest_bits */
} __attribute__((aligned(8))); /* for comparisons of 8 bytes */

struct tuple6 {
	struct address saddr;
	struct address daddr;
	be16 sport;
	be16 dport;
	u8 protocol;
	u8 kind;
	u16 pad;
} __attribute__((aligned(8)));

/* A persistence template has the masked client without port, and the virtual address. A retired template has lost its
 * destination; it stays listed until its timeout. */
enum tuple_kind {
	TUPLE_CONNECTION,
	TUPLE_TEMPLATE,
	TUPLE_RETIRED,
	TUPLE_CLAIMED, /* an entry that is being filled or freed */
	TUPLE_REPLY, /* to search by a reply of NAT; only `overflow_index` has such tuples */
	TUPLE_SECOND, /* the second half of an entry of IPv6 */
	TUPLE_CALL, /* a template of a SIP call: of either family in the form of IPv6, with a hash for addresses */
	TUPLE_IPV6 = 16, /* added to the kind of an entry of IPv6 */
};

union tuple {
	struct tuple4 v4;
	struct tuple6 v6;
};

/* A connection's state word, changed by compare-exchange. The fast path may also store the expiry tick alone, in bits
 * 0-31. */
enum word_bits {
	WORD_STATE = 32,
	WORD_DYING = 40, /* being removed */
	WORD_SEEN_REPLY = 41, /* a reply was seen */
	WORD_GENERATION = 48,
	WORD_NO_REPLIES = 42, /* a newer connection gets its replies */
	WORD_IN_USE = 43, /* is_proof in conntrack/state.h */
	WORD_KEPT = 7, /* the three bits from WORD_SEEN_REPLY on, which a change of state and a copy of the table keep */
	WORD_JUDGED = 44, /* `begun` counts its handshake */
	WORD_ANSWERED = 45, /* `completed` counts it, too */
};

enum conn_flags {
	CONN_CONTROLLED = 1, /* created under a template, which its `control` names */
	CONN_INDEXED = 2, /* the map `overflow_index` names its slot */
	CONN_CALL = 4, /* a template of a SIP call, whose Call-ID and addresses are in the map `calls` */
	CONN_SYNCED = 8, /* another director announced it */
	CONN_SEQUENCED = 16, /* the map `synced_sequences` has sequence data that it announced */
};

struct connection {
	u64 word;
	u32 destination;
	be16 port; /* of the real server */
	u8 method;
	u8 flags; /* enum conn_flags */
};

/* An entry of IPv4: half a cache line. Its position is the connection's slot (conntrack/table.h). */
struct conn_entry4 {
	struct connection connection;
	struct tuple4 tuple; /* free if protocol and kind are 0 */
};

/* An entry of IPv6: both entries of a bucket, with the words of the first one where IPv4 has them. */
struct conn_entry6 {
	struct connection connection;
	u64 saddr_first;
	be16 sport;
	be16 dport;
	u8 protocol;
	u8 kind; /* with TUPLE_IPV6 */
	u16 marks;
	u64 saddr_last;
	u64 daddr[2];
	u64 second; /* of kind TUPLE_SECOND: the second entry of IPv4 is not free */
};

struct bucket { /* a cache line */
	union {
		struct conn_entry4 entry[ENTRIES];
		struct conn_entry6 entry6;
	};
};

/* IPv4 uses the first two, which are odd; IPv6 uses all. */
enum seed { SEED_CLIENT = 2, SEED_REST = 4, SEED_OTHER, SEEDS = 7 };

struct table_key {
	u64 seeds[SEEDS]; /* of the hashes */
	u32 buckets; /* whole groups */
	u32 pad;
};

/* What is known of the connections under a template. */
enum assurance {
	ASSURED = 1, /* one was established, or UDP had a reply (IPVS-SEMANTICS 5.3) */
	CONFIRMED = 2, /* a client of UDP sent more than one packet; listings do not show it */
};

/* Persistence data of a connection or a template, by slot. */
struct control {
	u32 template; /* of a connection: its template's slot */
	u32 controls; /* of a template: live connections under it */
	u32 timeout; /* of a template, in ticks */
	u32 assured; /* of a template: 0, or enum assurance */
};

/* What a connection table counts of a destination, by the destination's slot. Each has a cache line of its own, because
 * every CPU that makes or ends connections writes it, and packets of connections read the destination. */
struct conn_counts {
	u32 active; /* atomic, like the next two */
	u32 inactive;
	u32 persistent; /* templates */
	u32 overloaded;
	u32 upper; /* thresholds */
	u32 lower;
	u32 idle_s; /* CLOCK_BOOTTIME seconds: when the last connection, template or cache entry of it went; 0: never */
	u32 pad;
	u64 begun; /* handshakes (conntrack/handshake.h), atomic like the next one */
	u64 completed;
	u64 leaves[2]; /* in the winner trees of the list in force, and of the one that an edit prepares; 0: none */
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct conn_counts) == 64, "a cache line");

/* A network of clients of which a handshake was completed: /24 of IPv4, /64 of IPv6. A quarter of a cache line. */
struct known_prefix {
	u32 tag; /* of its hash; 0: none */
	u32 completed; /* tick of the latest one */
	u32 judged; /* tick of the latest one that `begun` counts */
	u32 vouchers; /* so many may fail */
};

/* A connection or a template in a form that no layout of the table decides. Python writes a batch of them, and
 * restore_conns inserts them: into a table of another size, or of another build. */
struct conn_record {
	union tuple tuple;
	u32 destination;
	u32 expiry; /* tick */
	u32 was_expiry; /* as restored before; with another one, packets have changed the connection since */
	u32 template; /* slot in this table; 0: none */
	u32 timeout; /* of a template, in ticks */
	u32 slot; /* result, in this table; 0: the table is full */
	be16 port;
	u8 method;
	u8 state;
	u8 was_state;
	u8 family; /* 4 or 6; 0: the batch ends */
	u8 kept; /* WORD_KEPT of its state word */
	u8 assured; /* of a template, or of the connection's template */
	u8 is_call; /* with CONN_CALL; Python copies the element of `calls` */
	u8 has_ended; /* it is no longer in the former table */
	u8 synced; /* CONN_SYNCED and CONN_SEQUENCED of its flags; Python copies the element of `synced_sequences` */
};

/* What a template of a SIP call stands for. */
struct call {
	struct address client; /* masked */
	struct address daddr; /* the virtual address, or a firewall mark */
	u32 family; /* 4 or 6 */
	u32 length; /* of the Call-ID */
	u8 id[CALL_ID_LENGTH + 1]; /* zeros follow */
} __attribute__((aligned(8)));

/* Sequence data that another director announced of a connection. pylvs has no protocol helper that changes sequence
 * numbers: it announces them again. */
struct synced_sequence {
	u8 flags; /* OUT_SEQ and IN_SEQ of IPVS's flags, less the lower 8 bits */
	u8 pad[7];
	u8 data[SEQUENCE_LENGTH];
};

enum sync_limits {
	SYNC_RECORDS = 512, /* in a batch for store_synced */
	SYNC_CALLS = 16, /* with a Call-ID, in a batch */
	SYNC_WAKE_BYTES = 1 << 16, /* unread bytes at which the reader is woken */
};

/* What became of a record. EXPIRING: another CPU is ending the connection; the next announcement succeeds. */
enum sync_result {
	SYNC_NONE,
	SYNC_CREATED,
	SYNC_UPDATED,
	SYNC_REPLACED, /* its connection to another real server ended */
	SYNC_IGNORED, /* inactive, and its connection has another real server now */
	SYNC_EXPIRING,
	SYNC_FULL, /* the connection table has no space */
	SYNC_NEWER, /* of a whole table, and this director knows the connection better */
};

/* A connection or a template that another director announced. Python writes a batch of them, and store_synced inserts
 * them. */
struct sync_record {
	union tuple tuple; /* of the template of a SIP call: as without the call */
	struct address server;
	u32 destination; /* NO_INDEX: a bypass */
	u32 expiry; /* tick */
	u32 timeout; /* of a template, in ticks */
	u32 packets; /* of the client, as far as they decide when it is announced again */
	u32 call; /* number of its element in `sync_calls`, plus 1; 0: none */
	be16 port; /* of the real server */
	u8 method;
	u8 state;
	u8 family; /* 4 or 6; 0: the batch ends */
	u8 assured; /* of a template */
	u8 inactive; /* it does not replace a connection to another real server */
	u8 result; /* enum sync_result */
	struct synced_sequence sequence; /* flags 0: none */
	u32 refreshed; /* of one of a whole table: when a packet last refreshed it there, an odd tick; 0: just now */
};

/* What decides when a connection or template is announced again. Its element exists only while a process reads. Both
 * words have the generation of the connection's state word in bits 48-63. */
struct sync_count {
	u64 packets; /* bits 0-31: of the client */
	u64 sent; /* enum sync_sent */
};

/* Bits of `sent`. Bits 0-31: the tick at which the announced connection ends. */
enum sync_sent {
	SENT_STATE = 32, /* enum state, or 0 */
	SENT_RETRIES = 40,
	SENT_ANY = 44, /* it was announced */
	SENT_REPEATS = 45, /* of a template: how often in this tick, less one */
	SENT_GENERATION = 48,
};

/* A connection or a template as the ring has it, which Python reads. */
struct sync_event {
	union tuple tuple;
	struct address server; /* zero without a destination */
	u32 slot;
	u32 timeout; /* ticks */
	u32 mark;
	be16 port; /* of the real server */
	u8 family; /* 4 or 6 */
	u8 server_family;
	u8 method;
	u8 state;
	u8 flags; /* enum conn_flags */
	u8 has_reply;
	u8 assured; /* of a template */
	u8 pad[3];
};

/* Events of the connection log: all but the first one are reasons of ends. */
enum conn_event_kind { CONN_OPENED, CONN_EXPIRED, CONN_KILLED, CONN_ORPHAN, CONN_REPLACED };

/* A record of the connection log, which Python reads. */
struct conn_event {
	u64 time_ns; /* CLOCK_BOOTTIME */
	union tuple tuple;
	struct address server; /* zero without a destination */
	u32 mark; /* of the service, or 0 */
	be16 port; /* of the real server */
	u8 event; /* enum conn_event_kind */
	u8 family; /* 4 or 6 */
	u8 server_family;
	u8 method;
	u8 state;
	u8 pad[5];
};

enum { LOG_BYTES = 1 << 20 };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LOG_BYTES);
} conn_log SEC(".maps");

/* A position in the ring of half-open connections. */
struct half_open {
	u32 slot; /* 0: none, and closed if `lap` is the position's own */
	u16 generation; /* of its state word */
	u16 lap; /* of the number with which it was filled or closed */
};

/* The ring of half-open connections. Positions have numbers, which only increase. */
struct half_open_ring {
	u32 first; /* of the oldest batch */
	u32 end; /* behind the newest batch */
	u32 made; /* half-open connections, but for those that restore_conns inserted */
	u32 stays; /* connections with a reserved share, since enough of them ended */
	u32 halvings; /* of the reserved share */
} __attribute__((aligned(64)));

/* What a CPU has of that ring. */
struct half_open_queue {
	u32 next; /* position to fill */
	u32 end; /* of its batch */
	u32 oldest; /* next connection to end, of batches that it took out */
	u32 oldest_end;
	u32 made; /* half-open connections */
	u32 stays; /* of those that it took out */
	u32 ended;
	u16 lap; /* of ring->made, when it took them */
	u16 halvings;
	u32 tick;
	u32 ended_in_tick; /* connections that it ended in this tick, each with its cost */
	u32 flooded_until; /* tick; 0: it was never flooded */
	u32 pad;
};

/* Ticks at which the expiry timer visits TICK_SLOTS slots; 0: never. */
struct expiry_line {
	u32 at[LINE_TICKS];
};

struct pool {
	u32 capacity; /* limit of connections and templates */
	u32 used; /* credits in use, including those that CPUs reserve; atomic */
	u32 sweep_at; /* next element for the expiry timer */
	u32 sweeps; /* rounds of the expiry timer */
	u32 purge_at; /* next slot for the search for orphans */
	u32 drop_entry_left; /* pieces of LINE_TICKS slots that drop_entry still visits in this second */
	s32 drop_left; /* packets until drop_packet drops one */
	u32 copy_until; /* a copy of another table is under way until this tick; 0: none */
	u64 seeds[SEEDS]; /* of the hashes */
};

enum timers { TIMER_EXPIRY, TIMER_ESTIMATOR, TIMER_LBLC_CACHE, TIMERS };

enum run_classes { RUN_CLASSES = 16, RUN_FIRST_NS = 12500 /* 0.1 ms is the fourth class */ };

struct timer_runs { /* run time of a timer */
	u64 count;
	u64 spent_ns; /* total */
	u64 longest_ns; /* of one run; a reader may reset it to 0 */
	u64 ended; /* connections, by the expiry timer */
	u64 cpu; /* of the last run */
	u64 lengths[RUN_CLASSES]; /* runs shorter than RUN_FIRST_NS << n; the last class: all others */
};

struct percpu_credits {
	u32 generation;
	u32 credits;
};

ARRAY_MAP(connections, struct bucket, 1032, BPF_F_MMAPABLE); /* BPF_F_MMAPABLE aligns the buckets to cache lines */

HASH_MAP(overflow_index, u64, u32, 1024, BPF_F_NO_PREALLOC); /* slots, by hashes of requests and of replies of NAT */

HASH_MAP(calls, u32, struct call, 1024, BPF_F_NO_PREALLOC); /* by slot */

ARRAY_MAP(controls, struct control, 4096, BPF_F_MMAPABLE); /* by slot */

ARRAY_MAP(half_opens, struct half_open, 64, 0);

ARRAY_MAP(half_open_rings, struct half_open_ring, 1, BPF_F_MMAPABLE);

PERCPU_MAP(half_open_queues, struct half_open_queue, 1);

ARRAY_MAP(commands_half_opens, struct half_open_queue, 1, 0); /* of restore_conns */

/* Half-open connections: the sum over all CPUs. One CPU may make what another one ends. */
PERCPU_MAP(half_open_counts, u64, 1);

ARRAY_MAP(conn_records, struct conn_record, CONN_RECORDS, BPF_F_MMAPABLE);

HASH_MAP(synced_sequences, u32, struct synced_sequence, 1024, BPF_F_NO_PREALLOC); /* by slot */

ARRAY_MAP(sync_records, struct sync_record, SYNC_RECORDS, BPF_F_MMAPABLE);

ARRAY_MAP(sync_calls, struct call, SYNC_CALLS, BPF_F_MMAPABLE);

/* Element 0 of both is there while a process announces connections: Python makes it. */
struct sync_counts {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	/* Sizes, no types: Linux 6.1 compares types, and Python makes the map without them. */
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(struct sync_count));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct sync_counts);
} sync_counts SEC(".maps"); /* by slot */

struct sync_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct sync_ring);
} sync_rings SEC(".maps"); /* of struct sync_event */

ARRAY_MAP(conn_counts, struct conn_counts, 64, BPF_F_MMAPABLE);

/* Nodes of winner trees: version << 32 | list index. They compare the counts of this table (lb/winners.h). */
ARRAY_MAP(winners, u64, 64, 0);

ARRAY_MAP(known_prefixes, struct known_prefix, KNOWN_PREFIXES, 0);

ARRAY_MAP(expiry_ticks, struct expiry_line, 320, BPF_F_MMAPABLE);

ARRAY_MAP(pools, struct pool, 1, BPF_F_MMAPABLE);

PERCPU_MAP(percpu_credits, struct percpu_credits, 1);

ARRAY_MAP(commands_credits, struct percpu_credits, 1, 0); /* of programs that commands run */

const volatile struct table_key table_key = {.seeds = {1, 1}, .buckets = 512};
