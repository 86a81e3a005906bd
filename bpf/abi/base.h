/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What all parts of the contract with Python share: limits, states, drop reasons, addresses, values set at load.
 */
#pragma once
#include "lib/bpf.h"

enum limits {
	HASH_BITS = 17, /* of the bitmaps of virtual and real server addresses: 10,000 set a thirteenth of the bits */
	BITMAP_WORDS = 1 << (HASH_BITS - 6),
	ADDRESS_KEYS = 3,
	LINE_TICKS = 64, /* ticks of one element of `expiry_ticks`, four cache lines */
	NOTHING = 0xffffffff,
	PERCPU_CREDITS = 32, /* credits for connections that a CPU reserves for itself */
	DEVICES = 1024, /* XDP finds one by its ifindex modulo this */
	TRANSMITTERS = 4096,
	STANDBY_ADDRESSES = 16384, /* in each of two sets */
	HOPS = 32, /* next hops to clients of NAT, in one element of `client_hops` */
	ROUTE_SETS = 64, /* of routes to clients, in one element of `client_routes` */
	ROUTE_WAYS = 4, /* routes to clients of IPv4 in a set */
	ROUTE_WAYS6 = 2,
	PERCPU_DESTINATIONS = 32, /* in one element of `percpu_destinations` */
	ENGINE_LENGTH = 16,
	CALL_ID_LENGTH = 255, /* bytes of a Call-ID, at most (IP_VS_PEDATA_MAXLEN) */
	LIST_CLASSES = 18, /* sizes of lists: 1, 2, 4 ... 131,072 */
	FIRST_UNPRIVILEGED = 1024, /* default of net.ipv4.ip_unprivileged_port_start */
	MARK_RULES = 1024, /* for firewall marks, in each of two lists */
	PORT_RANGES = 16, /* on each side of one rule */
	COPY_BYTES = 24576, /* the longest payload to fragment plus the longest fragment */
	SH_BUCKETS = 256, /* of sh (IPVS-SEMANTICS 3.13) */
	MAGLEV_SLOTS = 4093, /* of mh, a prime (IPVS-SEMANTICS 3.14) */
	MAGLEV_EMPTY = 0xffff, /* a slot without destination */
	MAGLEV_KEY_1 = 0x9e3779b1, /* multiplier of mh's hash: 2654435761 */
	MAGLEV_KEY_2 = 0x9e37a52c, /* 2654446892 */
	CACHE_MEMBERS = 8, /* of a set, in one element */
	CONN_RECORDS = 512, /* in a batch for restore_conns */
	ENTRIES = 2, /* of IPv4 in a bucket of the connection table; one of IPv6 takes both */
	GROUP = 8, /* buckets that overflow into each other */
	GROUP_SLOTS = GROUP * ENTRIES,
	TICK_SLOTS = 128, /* slots with one tick in `expiry_ticks`: a page */
	OTHER_GROUPS = 32, /* into which a full group overflows: half of them by the client, half by the whole tuple */
	FIRST_GROUPS = 4, /* of these: a bucket knows whether any others have its connections */
	KNOWN_PREFIXES = 8192, /* networks whose clients judge real servers */
};

/* Connection states: TCP's with IPVS's numbers, then the one of UDP, then SCTP's in IPVS's order. TCP and SCTP share
 * NONE. */
enum state {
	STATE_NONE,
	STATE_ESTABLISHED,
	STATE_SYN_SENT,
	STATE_SYN_RECV,
	STATE_FIN_WAIT,
	STATE_TIME_WAIT,
	STATE_CLOSE,
	STATE_CLOSE_WAIT,
	STATE_LAST_ACK,
	STATE_LISTEN,
	STATE_SYNACK,
	STATE_UDP,
	STATE_TEMPLATE,
	STATE_SCTP_INIT1,
	STATE_SCTP_INIT,
	STATE_SCTP_COOKIE_SENT,
	STATE_SCTP_COOKIE_REPLIED,
	STATE_SCTP_COOKIE_WAIT,
	STATE_SCTP_COOKIE,
	STATE_SCTP_COOKIE_ECHOED,
	STATE_SCTP_ESTABLISHED,
	STATE_SCTP_SHUTDOWN_SENT,
	STATE_SCTP_SHUTDOWN_RECEIVED,
	STATE_SCTP_SHUTDOWN_ACK_SENT,
	STATE_SCTP_REJECTED,
	STATE_SCTP_CLOSED,
	/* Unconfirmed: no packet of the client has followed the first one. Listings show the state that comes next. */
	STATE_UDP_FIRST,
	STATE_TCP_FIRST = 28, /* ESTABLISHED without a handshake: sloppy_tcp, or a flow that had no connection */
	STATE_SCTP_FIRST, /* likewise */
	STATES = 32,
};

/* Drop reasons, and other events; `pylvs show` prints them. */
enum reason {
	REASON_NONE,
	REASON_NO_DESTINATION, /* a service without a usable destination: port unreachable */
	REASON_NO_ROUTE, /* no route to the real server: host unreachable */
	REASON_TTL, /* TTL expired: time exceeded */
	REASON_TOO_BIG, /* longer than the path MTU, with DF: fragmentation needed */
	REASON_UNAVAILABLE, /* its destination was deleted: dropped, connection kept */
	REASON_EXPIRING, /* its connection is being removed: dropped */
	REASON_TABLE_FULL_STATELESS, /* table full: forwarded by a hash, without a connection */
	REASON_TABLE_FULL_DROPPED, /* table full: dropped, because NAT needs a connection */
	REASON_TRUNCATED, /* too short to be scheduled: dropped */
	REASON_NOT_LOCAL, /* a new connection to an address that is not local: passed to the stack */
	REASON_FRAGMENT_FAILED, /* could not be fragmented: dropped */
	REASON_NO_HEADROOM, /* no headroom for a tunnel header */
	REASON_MISSED_TAIL_CALL, /* a tail call failed: passed to the stack */
	REASON_ICMP_RATE_LIMITED, /* an ICMP error suppressed by the rate limit */
	REASON_LOCAL_REFUSED, /* a local real server that this method cannot reach */
	REASON_SERVER_LOCAL, /* the real server is this host: passed to the stack */
	REASON_FRAGMENTED, /* fragmented */
	REASON_TO_TC, /* passed from XDP to TC */
	REASON_SOURCE_ROUTED, /* source-routed: dropped */
	REASON_DROP_PACKET, /* sysctl drop_packet: dropped */
	REASON_MTU_TOO_SMALL, /* the path MTU leaves less than IP's minimum inside the tunnel: dropped */
	REASON_GSO_UNSUPPORTED, /* a GSO packet that cannot be encapsulated: dropped */
	REASON_BAD_CHECKSUM, /* an ICMP error with a wrong checksum about a connection: dropped */
	REASON_PATH_MTU_UPDATED, /* an ICMP error that set the path MTU of a tunnel */
	REASON_NO_CONNECTION, /* a NAT server's packet without a connection: port unreachable (nat_icmp_send) */
	REASON_GSO_SEGMENTED, /* a GSO packet, segmented for a tunnel with a checksum */
	REASON_REFUSED_TABLE_COPY, /* dropped while the connection table is copied into one of another size */
	/* Why there was no connection; what happened to the packet is counted, too. */
	REASON_REFUSED_TABLE_FULL, /* conn_max connections */
	REASON_REFUSED_INDEX_FULL, /* no entry for one more connection of a client's port; `overflow_index` is full */
	REASON_REFUSED_RACED, /* another CPU changed its template */
	REASON_FRAGMENT_QUEUED, /* a fragment, held for reassembly */
	REASON_FRAGMENT_DUPLICATE, /* a duplicate fragment: dropped */
	REASON_FRAGMENT_OVERLAP, /* overlapping or inconsistent fragments: the packet is dropped */
	REASON_FRAGMENT_INVALID, /* an invalid fragment: dropped */
	REASON_FRAGMENT_TIMEOUT, /* the other fragments did not arrive in time */
	REASON_FRAGMENT_DISPLACED, /* an incomplete packet, replaced by a newer one */
	REASON_FRAGMENT_TOO_LONG, /* longer than can be reassembled */
	REASON_HALF_OPEN_ENDED, /* an unfinished handshake, ended because newer ones take its share of the table */
	REASON_NO_CALL_ID, /* a new connection of a service of SIP, without a Call-ID: dropped */
	REASON_REFUSED_CALLS_FULL, /* no space for the Call-ID of another template */
	REASON_FRAGMENT_LOCKED, /* another CPU used the set of its packet for too long: dropped */
	REASON_FLOOD_STATELESS, /* a SYN of a flood: forwarded by a hash, without a connection */
	REASONS = 64,
};

struct address { /* IPv4: in the first word */
	be32 word[4];
};

/* Copies of the programs: those of devices, and those of a session of `pylvs trace`. */
enum variant { VARIANT_LIVE, VARIANT_TRACE };

/* set when the object is loaded */
const volatile u32 variant = VARIANT_LIVE;
const volatile u32 tick_shift = 5; /* a tick is 2^tick_shift jiffies, about an eighth of a second */
const volatile u32 ticks_per_second = 8;
const volatile u32 minute = 480; /* one minute in ticks */
const volatile u32 confirm_ticks = 128; /* in a period XDP lets the kernel send one packet to each neighbour */
const volatile u32 hop_slots = HOPS; /* next hops to clients of NAT, per CPU */
const volatile u32 route_sets = ROUTE_SETS; /* per CPU */
const volatile u32 half_opens_shift = 6; /* the ring of half-open connections has 2^half_opens_shift positions */
const volatile u32 half_opens_batch = 1; /* of them, that a CPU takes at once; a power of two */
const volatile u32 loopback = 1; /* ifindex of lo */
const volatile u32 decided_word = 0; /* metadata of packets that XDP passes for good; random */
const volatile u32 tunnel_secret = 0; /* key of the hash that chooses GUE's source ports */
const volatile u32 fib_gives_saddr = 0; /* bpf_fib_lookup has BPF_FIB_LOOKUP_SRC (Linux 6.7) */
const volatile u32 fib_takes_mark = 0; /* bpf_fib_lookup has BPF_FIB_LOOKUP_MARK (Linux 6.10) */

INLINE u32 ticks(void)
{
	return (u32)(bpf_jiffies64() >> tick_shift);
}

/* --- tracing (trace/record.h). The verifier removes what `is_traced` guards from the programs of devices. --- */

enum trace_verdict {
	TRACE_PASSED, /* to the stack */
	TRACE_FORWARDED,
	TRACE_DROPPED,
	TRACE_HELD, /* a fragment, until the others come */
	TRACE_TO_TC, /* from XDP, unmodified */
	TRACE_REJECTED, /* an ICMP error was sent to its sender instead */
};

/* Why the packet has its real server. */
enum trace_choice {
	TRACE_NO_CHOICE,
	TRACE_EXISTING_CONNECTION,
	TRACE_TEMPLATE, /* of a persistent service */
	TRACE_SCHEDULER,
	TRACE_HASH_FALLBACK, /* of a flow without a connection */
	TRACE_STATELESS, /* a SYN without a connection, by the choice that is remembered for its client */
	TRACE_REPLY, /* it comes from the real server */
	TRACE_RELATED, /* an ICMP error about a connection */
	TRACE_BYPASS,
	TRACE_CALL, /* of a SIP message */
};

struct service_version;

INLINE bool is_traced(void)
{
	return variant != VARIANT_LIVE;
}

int trace_reason(u32 reason);
int trace_end(u32 verdict);
int trace_service(const struct service_version *v);
int trace_server(u32 destination, u32 method, u32 port, u32 choice);
int trace_state(u32 state, u32 created);
int trace_load(u32 load, u32 candidates);
int trace_rejected(void);

/* Whether a reason is that of the packet that the CPU processes. */
INLINE bool is_of_packet(u32 reason)
{
	return reason != REASON_TO_TC && reason != REASON_HALF_OPEN_ENDED && reason != REASON_PATH_MTU_UPDATED &&
	       reason != REASON_FRAGMENT_TIMEOUT && reason != REASON_FRAGMENT_DISPLACED;
}

PERCPU_MAP(reasons, u64, REASONS);

VERIFIED_ONCE int count(u32 reason)
{
	u64 *counter = map_elem(reasons, reason);
	if (counter)
		*counter += 1;
	if (is_traced() && is_of_packet(reason))
		trace_reason(reason);
	return 0;
}
