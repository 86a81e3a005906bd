/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * What the other parts of the contract with Python share: numbers, addresses, values set at load, drop reasons.
 */
#pragma once
#include "lib/bpf.h"

enum abi { ABI_NUMBER = 2 };

enum limits {
	HASH_BITS = 13, /* of the bitmaps of virtual and real addresses */
	BITMAP_WORDS = 1 << (HASH_BITS - 6),
	LOOKS = 64, /* slots of one element of `looks`, four cache lines */
	NOTHING = 0xffffffff,
	MAGAZINE = 32, /* connections' credits, and of each family free slots, that a CPU keeps for itself */
	BUNDLE = MAGAZINE / 2, /* of them, that it takes or gives back at once */
	DEVICES = 64,
	STANDBY_ADDRESSES = 4096, /* of virtual routers; there is room for two sets of them */
	HOP_SLOTS = 1024, /* next hops towards clients, per CPU */
	LANES = 8, /* in one element of `lanes` */
	ENGINE_LENGTH = 16,
	LIST_CLASSES = 18, /* sizes of lists: 1, 2, 4 ... 131,072 */
	MARK_RULES = 1024, /* of the classifier; there is room for two lists of them */
	PORT_RANGES = 16, /* of each side in one rule */
	COPY_BYTES = 24576, /* a packet to be cut into fragments: its longest payload and its longest piece */
	MAGLEV_SLOTS = 4093, /* of mh, a prime (IPVS-SEMANTICS 3.14) */
	MAGLEV_NOBODY = 0xffff, /* a slot whose destination went */
	MAGLEV_KEY_1 = 0x9e3779b1, /* of its hashes: 2654435761 */
	MAGLEV_KEY_2 = 0x9e37a52c, /* 2654446892 */
	CACHE_MEMBERS = 8, /* of a set, in one part */
	ENTRIES = 16, /* of a bucket of the index of IPv4 connections */
	OTHER_BUCKETS = 4, /* where what belongs to a full one may be */
};

/* Connection states: TCP's with IPVS's numbers, behind them UDP's only one, and SCTP's in IPVS's order. NONE is TCP's
 * and SCTP's alike. */
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
	STATES = 32,
};

/* What happened to a packet beyond being forwarded; `pylvs show` names them. */
enum reason {
	REASON_NONE,
	REASON_NO_DESTINATION, /* a service without a usable destination: port unreachable */
	REASON_NO_ROUTE, /* no route to the real server: host unreachable */
	REASON_TTL, /* time to live used up: time exceeded */
	REASON_TOO_BIG, /* longer than the path's MTU and DF: fragmentation needed */
	REASON_UNAVAILABLE, /* its destination was deleted: dropped, connection kept */
	REASON_DYING, /* met its connection while that was being removed: dropped */
	REASON_TABLE_FULL_STATELESS, /* table full: forwarded by source hash, without state */
	REASON_TABLE_FULL_DROPPED, /* table full: a new NAT connection dropped */
	REASON_SHORT, /* too short to be scheduled: dropped */
	REASON_NOT_LOCAL, /* a new connection to an address this host does not hold: left to the stack */
	REASON_FRAGMENT_FAILED, /* could not be cut into fragments */
	REASON_NO_HEADROOM, /* no room for a tunnel header */
	REASON_MISSED_STAGE, /* a tail call missed: left to the stack */
	REASON_ICMP_LIMITED, /* an ICMP error held back by the limit */
	REASON_LOCAL_REFUSED, /* a local real server that this method cannot reach */
	REASON_SERVER_LOCAL, /* the real server is this host itself: left to the stack */
	REASON_FRAGMENTED, /* cut into fragments */
	REASON_TO_TC, /* XDP could not finish it: passed up to TC */
	REASON_SOURCE_ROUTED, /* source-routed by an IP option: dropped */
	REASON_DEFENCE, /* sysctl drop_packet: dropped */
	REASON_NARROW, /* the route's MTU leaves a tunnel less than IP demands: dropped */
	REASON_SUPER, /* a super-packet that could not be tunnelled: dropped */
	REASON_BAD_SUM, /* an ICMP error about a connection, with a wrong checksum: dropped */
	REASON_PATH_MTU, /* an ICMP error that told the MTU of a tunnel's path: taken in */
	REASON_UNSERVED, /* an answer of a NAT real server to no connection: port unreachable (nat_icmp_send) */
	REASON_SPLIT, /* a super-packet cut into its segments for a tunnel with a checksum */
	REASON_FRAGMENT_HELD, /* a fragment, copied aside until the others are there */
	REASON_FRAGMENT_REPEATED, /* a fragment that was there already */
	REASON_FRAGMENT_CONFLICT, /* overlaps others or contradicts them: all that came of the packet dropped */
	REASON_FRAGMENT_REFUSED, /* a fragment no packet can have */
	REASON_FRAGMENT_TIMEOUT, /* a packet whose other fragments did not come in time */
	REASON_FRAGMENT_DISPLACED, /* an unfinished packet that gave way to a newer one */
	REASON_FRAGMENT_TOO_LONG, /* of a packet longer than can be put together */
	REASONS = 64,
};

struct address { /* IPv4 in the first word */
	be32 word[4];
};

/* set when the object is loaded */
const volatile u32 tick_shift = 5; /* a tick is 2^tick_shift jiffies, about an eighth of a second */
const volatile u32 ticks_per_second = 8;
const volatile u32 minute = 480; /* in ticks */
const volatile u32 slots4 = 1024; /* how many there are: 1 and following */
const volatile u32 first_slot6 = 2048; /* the slots of IPv4 come before */
const volatile u32 slots6 = 1024;
const volatile u32 loopback = 1; /* ifindex of lo */
const volatile u32 tunnel_secret = 0; /* keys the source ports of GUE */
const volatile u32 fib_gives_source = 0; /* bpf_fib_lookup knows BPF_FIB_LOOKUP_SRC (6.7) */
const volatile u32 fib_takes_mark = 0; /* bpf_fib_lookup knows BPF_FIB_LOOKUP_MARK (6.10) */

INLINE u32 ticks(void)
{
	return (u32)(bpf_jiffies64() >> tick_shift);
}

PERCPU_MAP(reasons, u64, REASONS);

VERIFIED_ONCE int count(u32 reason)
{
	u64 *counter = map_elem(reasons, reason);
	if (counter)
		*counter += 1;
	return 0;
}
