/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The one contract between the packet path and Python: keys and values of every map. Python reads these types from
 * the object's BTF; a change that older tools cannot read raises ABI_NUMBER.
 *
 * Versioned things (facts, service versions, destination states) come in pairs. `root.live` names the generation in
 * force: of a pair, the half with the greatest generation not beyond `live` counts. An edit writes the other halves
 * with generation live+1 and then stores live+1: that store is the edit.
 */
#pragma once
#include "helpers.h"

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

enum scheduler { SCHED_NONE, SCHED_RR, SCHED_WRR, SCHED_LC, SCHED_WLC, SCHED_SED, SCHED_NQ, SCHED_FO,
		 SCHED_OVF, SCHED_DH, SCHED_SH, SCHED_MH, SCHED_LBLC, SCHED_LBLCR, SCHEDULERS };

/* Of a connection. */
enum side { SIDE_REQUEST, SIDE_ANSWER };

enum method { METHOD_MASQ, METHOD_LOCAL, METHOD_TUNNEL, METHOD_ROUTE, METHOD_BYPASS };

enum service_flag {
	SERVICE_PERSISTENT = 1,
	SERVICE_ONE_PACKET = 4,
	SERVICE_FALLBACK = 8, /* sh-fallback, mh-fallback */
	SERVICE_BY_PORT = 16, /* sh-port, mh-port */
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

/* Encapsulations of the tunnel method and their checksum choices, with IPVS's numbers. */
enum tunnel_kind { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE };
enum tunnel_flag { TUNNEL_CSUM = 1, TUNNEL_REMCSUM = 2 };

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

/* --- the tables that Python writes ---------------------------------------------------------------------- */

struct facts {
	u32 generation;
	u32 services[2]; /* how many, of IPv4 and of IPv6 */
	u32 zero_ports; /* services with port 0 */
	u32 ftp; /* services with port 21 */
	u32 marks; /* services of firewall marks */
	u32 mark_rules; /* how many the classifier asks */
	u32 first_mark_rule;
	u32 timeouts[STATES]; /* in ticks */
	u32 timeouts_s[3]; /* as set: tcp, tcpfin, udp */
};

struct settings { /* each word stands for itself */
	u32 conn_reuse_mode;
	u32 expire_nodest_conn;
	u32 expire_quiescent_template;
	u32 pmtu_disc;
	u32 sloppy_sctp;
	u32 sloppy_tcp;
	u32 secure_tcp;
	u32 snat_reroute;
	u32 conntrack; /* taken, and without effect: netfilter tracks nothing of what is forwarded here */
	u32 icmp_per_second; /* errors sent per CPU; 0: no limit */
	u32 drop_packet;
	u32 am_droprate;
	u32 drop_entry;
	u32 run_estimation;
	u32 amemthresh;
	u32 ignore_tunneled;
	u32 schedule_icmp;
	u32 nat_icmp_send;
	u32 lblc_expiration; /* seconds */
	u32 lblcr_expiration;
	u32 cache_bypass;
};

struct root {
	u64 live;
	u64 standby; /* 0: no virtual address stands by; else the bit, 1 or 2, of those that do in the map `standby` */
	struct facts facts[2];
	struct settings settings;
	u32 port_low; /* this host's local port range, for the source ports of GUE */
	u32 port_high;
	u64 vip_bits[BITMAP_WORDS]; /* a superset of the virtual addresses, by hash */
	u64 reply_bits[BITMAP_WORDS]; /* likewise of where replies come from: NAT destinations, virtual and own addresses */
	u64 standby_bits[BITMAP_WORDS]; /* likewise of virtual addresses that stand by */
};

struct service_key4 {
	be32 address; /* or a firewall mark, with protocol 0 */
	be16 port;
	u8 protocol;
	u8 pad;
};

struct service_key6 {
	struct address address;
	be16 port;
	u8 protocol;
	u8 pad;
};

/* What an edit did to the list, so that cursors can follow (IPVS-SEMANTICS 3.2, 3.3). */
enum list_edit { LIST_SAME, LIST_INIT, LIST_ADD, LIST_DELETE, LIST_UPDATE };

struct service_version {
	u32 generation;
	u32 list; /* index of its first member */
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd; /* of the weights above 0; 1 if none */
	u32 max_weight; /* less gcd - 1; 0 if all are 0 */
	u32 flags;
	u32 timeout_s;
	u32 timeout; /* in ticks */
	u32 netmask;
	u32 mark;
	u32 birth; /* generation in which the service was made */
	u32 epoch; /* generation in which its scheduler began: lblc, lblcr */
	u32 epoch_tick; /* and when that was */
	struct address address;
	u16 port;
	u8 present;
	u8 scheduler;
	u8 protocol;
	u8 family; /* 4 or 6 */
	u8 table; /* mh: which of the service's two tables of slots */
	u8 pad;
	char engine[ENGINE_LENGTH];
	u32 next; /* in a chain of free slots */
};

struct service {
	struct service_version versions[2];
};

struct service_state { /* what packets write */
	u64 cursor;
	u32 held_at; /* tick of the last look whether this host holds the address */
	u32 held;
	u32 stateless_until; /* tick until which unknown packets may belong to stateless connections */
	u32 relief; /* the sweep in which entries of its cache must go, for there are too many */
	u32 relief_left; /* how many */
	u32 pad;
};

struct member { /* one destination in a service's list; lists are never changed, only replaced */
	u32 destination;
	s32 weight;
	u32 upper;
	u32 lower;
	u32 method;
	u32 tunnel; /* kind | flags << 8 | port << 16, port in host order */
	u32 next; /* in a chain of free chunks */
	s32 last_weight; /* the latest that was not 0; the one given first, even if 0 */
};

/* Of a destination's state. Above them, from these bits on, stand its forwarding method and its tunnel. */
enum destination_flag {
	DESTINATION_AVAILABLE = 1,
	DESTINATION_QUIESCED = 2,
	DESTINATION_METHOD = 8, /* 4 bits */
	DESTINATION_TUNNEL = 12, /* kind, 2 bits; flags, 2 bits; GUE's port in host order, 16 bits; 0: IPIP */
};

enum destination_use { DESTINATION_FREE, DESTINATION_USED, DESTINATION_USED_BY_NAT };

struct destination {
	u64 states[2]; /* generation << 32 | flags */
	struct address address;
	u32 active; /* connections, atomic */
	u32 inactive;
	u32 persistent;
	u32 overloaded;
	be16 port;
	u8 family; /* 4 or 6 */
	u8 used; /* enum destination_use */
	u32 upper;
	u32 lower;
	u32 service; /* whose it is, or was */
	u32 mtu; /* of the route to it, where one is set; 0: the device decides */
	s32 weights[2]; /* that go with the states; what was deleted keeps its own */
	u32 cached; /* places in caches of lblc and lblcr, atomic */
	u32 pad;
	/* what follows is Python's alone: the service's key, so that a deleted destination can be revived */
	struct address source; /* of tunnel headers, where the kernel cannot be asked */
	struct address virtual_address;
	u32 mark;
	u32 service_birth; /* generation in which its service was made */
	u32 deleted_s; /* CLOCK_BOOTTIME seconds; 0 while it is listed */
	u32 next; /* in the chain of free slots, or of deleted ones */
	u16 virtual_port;
	u8 protocol;
	u8 virtual_family;
};

#include "abi_marks.h"
#include "abi_schedulers.h"

/* --- Python's own ------------------------------------------------------------------------------------------ */

struct destination_name { /* finds a destination, listed or deleted, without walking lists */
	struct address virtual_address;
	struct address address;
	u32 mark;
	u16 virtual_port;
	u16 port; /* host order */
	u8 protocol;
	u8 virtual_family;
	u8 family;
	u8 pad;
};

struct book { /* which slots are free; chains end with NOTHING */
	u64 pending; /* the generation being written; not 0 afterwards: its writer died */
	u64 waiting_since_ms; /* CLOCK_MONOTONIC: when `waiting` was closed */
	u32 service_top; /* slots never used begin here */
	u32 service_free;
	u32 service_leaving; /* let go by the latest edits: a packet may still look at them */
	u32 service_waiting;
	u32 destination_top;
	u32 destination_free;
	u32 deleted; /* destinations that may be revived */
	u32 swept_s; /* CLOCK_BOOTTIME: when deleted ones were last looked through */
	u32 member_top;
	u32 list_free[LIST_CLASSES]; /* chunks of 2^n members */
	u32 list_leaving[LIST_CLASSES];
	u32 list_waiting[LIST_CLASSES];
	u32 pad;
};

struct device {
	u32 ifindex;
	u8 mac[6];
	u8 present;
	u8 pad;
};

#include "abi_connections.h"

/* --- per CPU ---------------------------------------------------------------------------------------------- */

struct counters {
	u64 connections;
	u64 in_packets;
	u64 out_packets;
	u64 in_bytes;
	u64 out_bytes;
};

/* Of a destination: averages of connections, packets and bytes each way, fixed point, and the counts last seen. */
struct estimate {
	s64 averages[5];
	u64 last[5];
};

enum hop_verdict { HOP_UNKNOWN, HOP_READY, HOP_UNRESOLVED, HOP_NO_ROUTE, HOP_LOCAL, HOP_NO_FORWARDING };

struct hop { /* where packets to an address leave */
	u32 stamp; /* tick of the question */
	u32 ifindex;
	u8 target_mac[6];
	u8 source_mac[6];
	u32 mtu;
	u32 room; /* for a packet in an IP-in-IP tunnel; 0: less than IP demands */
	u32 verdict;
	struct address gateway; /* next hop on the link */
	struct address source; /* the address this host would use */
};

/* Where packets come in that the fast path may take without another question (fast.h). */
struct entrance {
	u64 live; /* the generation in which it may; 0: none */
	u32 stamp; /* tick at which it was noted */
	u32 input; /* the device, and its link address */
	u8 mac[6];
	u8 pad[2];
};

struct lane { /* what a CPU keeps of a destination */
	struct counters counters;
	struct hop hop;
	struct entrance entrances[2]; /* of requests, of NAT's answers */
	u32 life_tcp; /* of an established connection, in their generation, in ticks */
	u32 life_udp;
	be32 real; /* the destination's address, and the source of tunnels to it */
	be32 outer_source;
};

/* Of destinations that follow each other. The kernel allocates each element of a per-CPU array separately, which made up
 * half of the time that all maps of a state take. */
struct lanes {
	struct lane of[LANES];
};

/* The MTU of the path to an IPv4 address, as an ICMP error told it: a kernel's route exception. */
struct path {
	u32 mtu;
	u32 until; /* tick */
	u32 used; /* packets have been sent by it */
	u32 pad;
};

struct client_hop {
	struct address address;
	struct address source; /* which the reply leaves with */
	u32 family;
	u32 ifindex; /* of input; 0: sent by this host */
	struct hop hop;
};

struct limiter {
	u32 tick;
	u32 tokens;
};

struct copy {
	u8 bytes[COPY_BYTES];
};

/* BTF keeps the enumerations that a variable has. */
struct constants {
	enum abi abi;
	enum limits limits;
	enum scheduler scheduler;
	enum method method;
	enum state state;
	enum reason reason;
	enum list_edit list_edit;
	enum destination_flag destination_flag;
	enum destination_use destination_use;
	enum tunnel_kind tunnel_kind;
	enum tunnel_flag tunnel_flag;
	enum tuple_kind tuple_kind;
	enum mark_flag mark_flag;
	enum probe_marks probe_marks;
	enum word_bits word_bits;
	enum pace_classes pace_classes;
};
