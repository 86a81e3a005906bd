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
	SEQUENCE_LENGTH = 24, /* of the sequence data of an announced connection */
	ENTRIES = 2, /* of IPv4 in a bucket of the connection table; one of IPv6 takes both */
	GROUP = 8, /* buckets that overflow into each other */
	GROUP_SLOTS = GROUP * ENTRIES,
	TICK_SLOTS = 128, /* slots with one tick in `expiry_ticks`: a page */
	OTHER_GROUPS = 32, /* into which a full group overflows: half of them by the client, half by the whole tuple */
	FIRST_GROUPS = 4, /* of these: a bucket knows whether any others have its connections */
	CLIENT_RULES = 1 << 20, /* of all services */
	RULE_SET_BITS = 64, /* bits of a rule's key before the prefix */
	LIMITED_CLIENTS = 65536, /* whose new connections are limited, at a time */
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

/* What becomes of packets. A received packet ends by exactly one reason that is not a note: ctx/ended.h counts it. Notes
 * are events besides. The build turns each line into one of `reasons.txt`, from which Python, documents and metrics have
 * name, verdict and sentence. */
enum reason {
	REASON_NONE,
	REASON_NO_DESTINATION, /* dropped: its service has no usable destination; the sender gets "port unreachable" */
	REASON_NO_ROUTE, /* dropped: no route to the real server or the client; the client gets "host unreachable" */
	REASON_TTL, /* dropped: its TTL expired; the sender gets "time exceeded" */
	REASON_TOO_BIG, /* dropped: longer than the path MTU, with DF; the sender gets "fragmentation needed" */
	REASON_UNAVAILABLE, /* dropped: the destination of its connection was deleted, but not its service; the connection stays */
	REASON_EXPIRING, /* dropped: its connection is being made or removed by another CPU */
	REASON_TABLE_FULL_STATELESS, /* note: forwarded by a hash without a connection, because the table is full */
	REASON_TABLE_FULL_DROPPED, /* dropped: the connection table is full, and NAT needs a connection */
	REASON_TRUNCATED, /* dropped: shorter than its headers say, or without the header that decides */
	REASON_NOT_LOCAL, /* passed: to a virtual address that is not an address of this host */
	REASON_FRAGMENT_FAILED, /* dropped: it could not be fragmented for the next hop's MTU */
	REASON_NO_HEADROOM, /* dropped: the frame has no headroom for a tunnel header or a tag */
	REASON_MISSED_TAIL_CALL, /* passed: a program of the packet path is missing */
	REASON_ICMP_RATE_LIMITED, /* note: an ICMP error that the rate limit suppressed */
	REASON_LOCAL_REFUSED, /* dropped: a real server or a client on this host that this method cannot reach */
	REASON_SERVER_LOCAL, /* passed: the real server is this host */
	REASON_FRAGMENTED, /* note: a packet that left in fragments */
	REASON_TO_TC, /* note: XDP left the packet to TC, which counts its end */
	REASON_SOURCE_ROUTED, /* dropped: its IP options route it */
	REASON_DROP_PACKET, /* dropped: by sysctl drop_packet */
	REASON_MTU_TOO_SMALL, /* dropped: the path MTU leaves less than IP's minimum inside the tunnel */
	REASON_GSO_UNSUPPORTED, /* dropped: a merged packet (GSO) that cannot be encapsulated */
	REASON_BAD_CHECKSUM, /* dropped: an ICMP error with a wrong checksum about a connection */
	REASON_PATH_MTU_UPDATED, /* dropped: an ICMP error that set the path MTU of a tunnel, as it should */
	REASON_NO_CONNECTION, /* dropped: a NAT server's packet without a connection; nat_icmp_send answers it */
	REASON_GSO_SEGMENTED, /* note: a merged packet (GSO) that left in segments, for a tunnel with a checksum or GUE */
	REASON_REFUSED_TABLE_COPY, /* dropped: the connection table is being copied into one of another size */
	REASON_REFUSED_TABLE_FULL, /* note: no new connection, because there are conn_max */
	REASON_REFUSED_INDEX_FULL, /* note: no new connection, because one port of the client has too many */
	REASON_REFUSED_RACED, /* note: no new connection, because another CPU changed its template */
	REASON_FRAGMENT_QUEUED, /* held: a fragment that waits for the others of its packet */
	REASON_FRAGMENT_DUPLICATE, /* dropped: a fragment that came before */
	REASON_FRAGMENT_OVERLAP, /* dropped: a fragment that overlaps or contradicts others; so are those that wait */
	REASON_FRAGMENT_INVALID, /* dropped: an invalid fragment */
	REASON_FRAGMENT_TIMEOUT, /* note: an incomplete packet was removed, because its other fragments did not come */
	REASON_FRAGMENT_DISPLACED, /* note: an incomplete packet was removed, because a newer one needed its memory */
	REASON_FRAGMENT_TOO_LONG, /* dropped: a fragment of a packet that is too long to reassemble */
	REASON_HALF_OPEN_ENDED, /* note: a half-open connection ended, because newer ones took its share of the table */
	REASON_NO_CALL_ID, /* dropped: a new connection of a service of SIP, without a Call-ID */
	REASON_REFUSED_CALLS_FULL, /* note: no new connection, because there is no space for its Call-ID */
	REASON_FRAGMENT_LOCKED, /* dropped: a fragment whose queue another CPU used for too long */
	REASON_FLOOD_STATELESS, /* note: a SYN of a flood was forwarded by a hash, without a connection */
	REASON_FORWARDED_XDP, /* forwarded: sent to a real server or a client at XDP */
	REASON_FORWARDED_TC, /* forwarded: sent to a real server or a client at TC */
	REASON_NO_SERVICE, /* passed: of no service */
	REASON_NO_FLOW, /* passed: to a service, but of no connection, and it cannot open one */
	REASON_NOT_IP, /* passed: neither IPv4 nor IPv6 */
	REASON_OTHER_HOST, /* passed: a frame for another host, a broadcast or a multicast */
	REASON_TAGGED, /* passed: a frame with a VLAN tag, which its VLAN device receives next */
	REASON_STANDBY, /* passed: to an address of which another director is the master */
	REASON_SPOOFED, /* passed: its saddr is invalid, or does not belong to this device; the stack drops it */
	REASON_REPLY_ROUTED, /* passed: a reply of direct routing or of a tunnel, which the stack routes */
	REASON_REPLY_UNSENT, /* passed: a reply that a router answers with an ICMP error, or cannot route */
	REASON_NO_REPLY_FLOW, /* passed: from the address of a real server, of no connection */
	REASON_ICMP, /* passed: an ICMP message that the stack processes */
	REASON_FRAGMENT, /* passed: a fragment that needs no reassembly here */
	REASON_FTP_DATA, /* passed: FTP data that belong to no connection */
	REASON_UNSUPPORTED, /* passed: with IP options or headers that the stack has to process */
	REASON_LOOKUP_FAILED, /* passed: an element of a map is missing, or the routing table gives no answer */
	REASON_PROBE_REFUSED, /* dropped: a health check through a virtual address whose service was deleted */
	REASON_ERROR_UNSENT, /* dropped: an ICMP error about a tunnel's packet that the client could not get */
	REASON_ICMP_SENT, /* note: an ICMP error was sent to the sender of a dropped packet */
	REASON_ICMP_UNSENT, /* note: an ICMP error to the sender of a dropped packet could not be sent */
	REASON_FRAGMENTS_JOINED, /* note: fragments that waited became a packet, which the last one stands for */
	REASON_SERVICE_UNCOUNTED, /* note: an end was not counted by service, because that table is full */
	REASON_LOG_LOST, /* note: a record of the connection log was lost, because `pylvs log` did not read in time */
	REASON_ICMP_BY_HASH, /* note: an ICMP error about an unknown connection was forwarded, to the server of its client's hash */
	REASON_SYNC_LOST, /* note: an announcement of a connection was lost, because the sync daemon did not read in time */
	REASON_CLIENT_DENIED, /* dropped: a client rule of its service denies its client */
	REASON_CLIENT_LIMITED, /* dropped: its client opens connections faster than a client rule of its service allows */
	REASON_CLIENT_PASSED, /* passed: a client rule of its service leaves it to the stack */
	REASONS = 128,
};

/* How a received packet ends: the verdict of its reason. Forwarded ones are counted by destination. */
enum end { END_PASSED, END_DROPPED, END_HELD, END_FORWARDED, ENDS = END_FORWARDED };

struct address { /* IPv4: in the first word */
	be32 word[4];
};

/* Copies of the programs: those of devices; those of a session of `pylvs trace`; those of `pylvs trace --synthetic`, which
 * write to no map that others read. */
enum variant { VARIANT_LIVE, VARIANT_TRACE, VARIANT_DRY };

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

/* Whether the program only tells what it would do. */
INLINE bool is_dry(void)
{
	return variant == VARIANT_DRY;
}

int trace_reason(u32 reason);
int trace_end(u32 verdict);
int trace_service(const struct service_version *v);
int trace_server(u32 destination, u32 method, u32 port, u32 choice);
int trace_state(u32 state, u32 created);
int trace_load(u32 load, u32 candidates);
int trace_rejected(u32 reason);

/* Whether a reason is that of the packet that the CPU processes. */
INLINE bool is_of_packet(u32 reason)
{
	return reason != REASON_TO_TC && reason != REASON_HALF_OPEN_ENDED && reason != REASON_PATH_MTU_UPDATED &&
	       reason != REASON_FRAGMENT_TIMEOUT && reason != REASON_FRAGMENT_DISPLACED;
}

PERCPU_MAP(reasons, u64, REASONS);

VERIFIED_ONCE int count_reason(u32 reason)
{
	u64 *counter = map_elem(reasons, reason);
	if (counter)
		*counter += 1;
	return 0;
}

/* Inlined, because the stacks of nested functions add up, and end at 512 bytes. */
INLINE void count(u32 reason)
{
	count_reason(reason);
	if (is_traced() && is_of_packet(reason))
		trace_reason(reason);
}
