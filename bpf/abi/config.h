/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 1: what Python writes (settings, services, destinations). Python reads the types of
 * all maps from the object's BTF. The maps with their structures, and all enumerations but `abi` and `prog`, have a
 * digest (`tables` in tools/layout.py), names included: a pylvs with another digest refuses the tables. The digest does
 * not include `struct root`, which is a variable.
 *
 * Facts, service versions and destination states exist twice. `root.live` is the generation in force: the half with the
 * greatest generation up to `live` counts. An edit writes the other halves with generation live+1, then stores live+1,
 * which commits the edit.
 */
#pragma once
#include "abi/base.h"

/* The compiler's option SCHEDULER_LIST has X(NAME, number, flags) for each file in lb/schedulers/ (hatch_build.py). */
#define SCHEDULER_NUMBER(name, number, flags) SCHED_##name = number,
enum scheduler { SCHED_NONE, SCHEDULER_LIST(SCHEDULER_NUMBER) SCHEDULERS };

/* Flags of schedulers. */
#define LOADS_ALL 1 /* loads every server of the list */
#define HASHES_CLIENT 2 /* hashes the client's address, and its port only with SERVICE_BY_PORT */
#define HASHES_DADDR 4 /* hashes the daddr of requests */
#define INDEXED 8 /* a list longer than WALKED has a winner tree (lb/winners.h) */

#define INDEXED_BIT(name, number, flags) | ((flags) & INDEXED ? 1u << number : 0)
enum index_limits {
	WALKED = 16, /* destinations of a list that every scheduler walks */
	LEAF_BITS = 18, /* of the first three fields of a leaf */
	LEAF_LIST = 0,
	LEAF_POS = 18,
	LEAF_COUNT = 36,
	LEAF_SCHEDULER = 54,
	LEAF_IDLE = 61, /* the list counts its idle destinations */
	LEAF_SUMS = 62, /* nodes have sums */
	LEAF_BY_COUNTS = 63, /* counts change the tree, not the overload flag alone */
	INDEXED_SCHEDULERS = 0 SCHEDULER_LIST(INDEXED_BIT), /* a bit for each one */
};

/* What Python asks of index_list (lb/index_list.h). */
enum index_step {
	INDEX_PREPARE, /* give its destinations the next leaf, and make the tree */
	INDEX_ADOPT, /* the list is in force: the next leaf becomes the present one */
	INDEX_LEAVE, /* it was in force: its destinations lose the leaf */
};

/* Behind the first 16 bytes of the packet. */
struct index_request {
	u32 step; /* enum index_step */
	u32 list;
	u32 count;
	u32 scheduler;
};

enum method { METHOD_MASQ, METHOD_LOCAL, METHOD_TUNNEL, METHOD_ROUTE, METHOD_BYPASS };

enum service_flag {
	SERVICE_PERSISTENT = 1,
	SERVICE_ONE_PACKET = 4,
	SERVICE_FALLBACK = 8, /* sh-fallback, mh-fallback */
	SERVICE_BY_PORT = 16, /* sh-port, mh-port */
};

/* Encapsulations of tunnels and their checksum options, with IPVS's numbers. */
enum tunnel_kind { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE };
enum tunnel_flag { TUNNEL_CSUM = 1, TUNNEL_REMCSUM = 2 };

struct facts {
	u32 generation;
	u32 services[2]; /* number of services, of IPv4 and of IPv6 */
	u32 zero_ports; /* services with port 0 */
	u32 ftp; /* services with port 21 */
	u32 marks; /* services of a firewall mark */
	u32 mark_rules; /* number of rules for firewall marks */
	u32 first_mark_rule;
	u32 timeouts[STATES]; /* in ticks */
	u32 timeouts_s[3]; /* as configured: tcp, tcpfin, udp */
	u32 engines; /* services with a persistence engine */
	u32 mss_clamps; /* services with an MSS clamp */
	u32 client_rules; /* services with client rules */
};

struct settings { /* each field is independent of the others; those with a sign have any value, as in the kernel */
	s32 conn_reuse_mode;
	s32 expire_nodest_conn;
	s32 expire_quiescent_template;
	s32 pmtu_disc;
	s32 sloppy_sctp;
	s32 sloppy_tcp;
	u32 secure_tcp;
	s32 snat_reroute;
	s32 conntrack; /* accepted and ignored: netfilter does not track what the director forwards */
	u32 icmp_per_second; /* rate limit of ICMP errors per CPU; 0: none */
	u32 drop_packet;
	s32 am_droprate;
	u32 drop_entry;
	s32 run_estimation;
	s32 amemthresh;
	s32 ignore_tunneled;
	s32 schedule_icmp;
	s32 nat_icmp_send;
	u32 lblc_expiration; /* seconds */
	u32 lblcr_expiration;
	s32 cache_bypass;
	s32 backup_only;
	u32 sync_threshold; /* of sync_period packets, which one sends a connection to backups */
	u32 sync_period;
	u32 sync_refresh_period; /* seconds */
	u32 sync_retries;
	s32 sync_persist_mode;
	u32 sync_version;
	u32 sync_ports; /* this and the following: of the sync daemons, not of the packet path */
	u32 sync_qlen_max;
	u32 sync_sock_size;
};

struct root {
	u64 live;
	u64 standby; /* 0: no address is standby; else 1 or 2, the bit of standby addresses in the map `standby` */
	u64 sync; /* tick until which connections are announced (conntrack/sync.h); 0: they are not */
	u64 backup; /* tick until which a backup sync daemon runs, for backup_only; 0: none does */
	u64 trace; /* tick until which packets pass the filter of `pylvs trace`; 0: no session */
	u64 address_keys[ADDRESS_KEYS]; /* secrets of address_hash; bit 0 of the first one is set */
	u64 log; /* tick until which connections are logged (conntrack/log.h); 0: they are not */
	u64 nat; /* 1: there are NAT servers, so a part of the connection table is theirs */
	struct facts facts[2];
	struct settings settings;
	u32 port_low; /* this host's local port range, for the source ports of GUE */
	u32 port_high;
	s32 unprivileged_port; /* this host's first unprivileged port, less the default */
	u64 fallback_key[2]; /* of the hash that chooses destinations without a connection */
	u64 vip_bits[BITMAP_WORDS]; /* Bloom filter of the virtual addresses */
	u64 reply_bits[BITMAP_WORDS]; /* Bloom filter of saddrs of replies: NAT servers, virtual and local addresses */
	u64 standby_bits[BITMAP_WORDS]; /* Bloom filter of the standby addresses */
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

/* The last edit of a list, by which cursors follow it (IPVS-SEMANTICS 3.2, 3.3). */
enum list_edit { LIST_SAME, LIST_INIT, LIST_ADD, LIST_DELETE, LIST_UPDATE };

struct service_version {
	u32 generation;
	u32 list; /* index of its first member */
	u32 count;
	u32 list_version;
	u32 edit;
	u32 edit_position;
	u32 gcd; /* greatest common divisor of the weights above 0; 1 if there are none */
	u32 max_weight; /* minus gcd - 1; 0 if all weights are 0 */
	u32 flags;
	u32 timeout_s;
	u32 timeout; /* in ticks */
	u32 netmask;
	u32 mark;
	u32 added; /* generation of the edit that added the service */
	u32 epoch; /* lblc, lblcr: generation in which the scheduler started */
	u32 epoch_tick; /* lblc, lblcr: its tick */
	struct address address;
	u16 port;
	u8 present;
	u8 scheduler;
	u8 protocol;
	u8 family; /* 4 or 6 */
	u8 table; /* mh, sh: index of the table in force */
	u8 rule_bits; /* length of the longest prefix among its client rules, at least 1; 0: it is not known */
	char engine[ENGINE_LENGTH]; /* empty, or "sip" */
	u32 next; /* next free slot */
	u32 mss_clamp; /* largest MSS of TCP's SYNs; 0: any */
	u32 client_rules; /* its set of client rules: the generation of the edit that wrote it; 0: it has none */
};

struct service {
	struct service_version versions[2];
};

/* Each has a cache line of its own, because every CPU that makes connections of the service writes it. */
struct service_state {
	u64 cursor;
	u64 syns; /* bits 48-63: lap of the ring of half-open connections, 24-47: batches of its lap before, 0-23: of this lap */
	u32 local_at; /* tick of the last check whether the address is local */
	u32 is_local;
	u32 stateless_until; /* tick until which flows without a connection may live, so PROG_HASH_FALLBACK schedules */
	u32 shrink_sweep; /* number of the sweep that must shrink the service's cache of lblc or lblcr */
	u32 shrink_left; /* entries that it must still remove */
} __attribute__((aligned(64)));

struct member { /* one destination in a service's list; an edit replaces whole lists */
	u32 destination;
	s32 weight;
	u32 upper;
	u32 lower;
	u32 method;
	u32 tunnel; /* kind | flags << 8 | port << 16, port in host order */
	u32 next; /* next free chunk */
	s32 last_weight; /* the latest weight above 0; initially the first weight */
};

/* Bits of a destination's state. Its forwarding method and its tunnel start at these bits. */
enum destination_flag {
	DESTINATION_AVAILABLE = 1,
	DESTINATION_QUIESCED = 2,
	DESTINATION_ORPHANED = 4, /* deleted with its service: its connections continue */
	DESTINATION_METHOD = 8, /* 4 bits */
	DESTINATION_TUNNEL = 12, /* kind, 2 bits; flags, 2 bits; GUE's port in host order, 16 bits; 0: IPIP */
};

enum destination_use { DESTINATION_FREE, DESTINATION_USED, DESTINATION_USED_BY_NAT };

struct destination {
	u64 states[2]; /* generation << 32 | flags */
	struct address address;
	be16 port;
	u8 family; /* 4 or 6 */
	u8 used; /* enum destination_use */
	u32 service; /* the service it belongs to, even after its deletion */
	u32 mtu; /* MTU of its route, if set; 0: the device's MTU */
	s32 weights[2]; /* one with each state; a deleted destination keeps its weight */
	u32 cached; /* references from the caches of lblc and lblcr, atomic */
	u32 pad;
	/* Python restores a deleted destination by its service's key. Packets read address, family and mark of the key,
	 * and the estimator `service_added`. */
	struct address saddr; /* saddr of tunnel headers, if bpf_fib_lookup cannot tell */
	struct address virtual_address;
	u32 mark;
	u32 service_added; /* generation of the edit that added its service */
	u32 deleted_s; /* CLOCK_BOOTTIME seconds; 0 while it is listed */
	u32 next; /* next free slot, or next deleted one */
	u16 virtual_port;
	u8 protocol;
	u8 virtual_family;
};

/* mh: for each slot the list index of its destination. The key is the service's slot << 1 | `table`. */
struct maglev_table {
	u16 list_positions[MAGLEV_SLOTS];
	u16 pad;
};

/* sh: for each bucket the list index of its destination. The key is that of mh. */
struct sh_table {
	u16 list_positions[SH_BUCKETS];
};

/* --- the cache of lblc and lblcr --- */

struct cache_key {
	u32 epoch; /* of a service's scheduler; it identifies both */
	u32 part; /* 0: the entry of a daddr; others: more of its members */
	struct address daddr;
};

struct cached {
	u32 service;
	u32 used; /* tick of the latest use */
	u32 changed; /* tick of the set's latest change */
	u32 count; /* members in all parts */
	u32 busy; /* a CPU is changing the set */
	u32 pad[3];
	u32 members[CACHE_MEMBERS]; /* destinations, oldest first, then NOTHING */
};

struct destination_name { /* finds a destination, listed or deleted, without a walk */
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

struct nat_server { /* finds the NAT destinations that a packet can come from */
	struct address address;
	be16 port;
	u8 family;
	u8 pad;
};

struct book { /* the allocator of slots; chains of free ones end with NOTHING */
	u64 pending; /* the generation being written; if it stays, the writer died */
	u32 service_top; /* lowest slot that was never used */
	u32 service_free;
	u32 service_released; /* by the latest edits: packets may still read them */
	u32 destination_top;
	u32 destination_free;
	u32 deleted; /* destinations that can be restored */
	u32 swept_s; /* CLOCK_BOOTTIME of the last walk over deleted ones */
	u32 member_top;
	u32 list_free[LIST_CLASSES]; /* chunks of 2^n members */
	u32 list_released[LIST_CLASSES];
	u32 trash_began_s; /* CLOCK_BOOTTIME of the deletion that found no deleted destination (IPVS-SEMANTICS 1.8) */
};

/* A network that routing delivers to this host (RTN_LOCAL), besides the addresses of its devices. */
struct local_route {
	u32 bits; /* how many of the following bits must match */
	u32 family; /* 4 or 6 */
	struct address network;
};
enum { LOCAL_ROUTE_BITS = 8 * (sizeof(struct local_route) - sizeof(u32)) };

/* A client rule of a service: the longest prefix of the client's address decides about a new connection. */
enum client_action { CLIENT_ALLOW, CLIENT_DROP, CLIENT_PASS };

struct client_prefix {
	u32 bits; /* how many of the following bits must match: RULE_SET_BITS, and the length of the prefix */
	u32 service; /* its slot */
	u32 set;
	struct address network;
};

/* With a limit the action is that of the connections beyond it. */
struct client_rule {
	u32 action; /* enum client_action */
	u32 client_bits; /* clients that share so many bits of their addresses share a limit */
	u64 interval_ns; /* between two new connections of a client on average; 0: no limit */
	u32 burst; /* connections that it may open at once */
	u32 rate; /* for listings: connections in `period_s` seconds */
	u32 period_s;
	u32 bits; /* as in its key: a lookup finds the longest prefix, which may be a shorter one than it asks for */
};

/* A client of a limit. Its value is the theoretical arrival time of GCRA (ITU-T I.371), in nanoseconds of
 * bpf_ktime_get_ns(). Another rate begins anew. */
struct limited_client {
	u64 interval_ns; /* of the rule */
	u32 service;
	u32 added; /* generation of the edit that added the service */
	u32 bits;
	struct address address;
	u32 pad;
};

struct device {
	u32 ifindex;
	u8 mac[6];
	u8 present;
	u8 pad;
	u32 bond; /* of a port: ifindex of the bond that receives its packets */
	u32 trunk; /* of a VLAN device: ifindex of the device below it, which runs XDP */
	u16 vid; /* of a VLAN device */
	u16 pad2;
};

/* By ifindex modulo DEVICES. If devices with one remainder differ, the most lenient mode counts. The first three are
 * the values of rp_filter. */
enum rp_mode {
	RP_OFF,
	RP_STRICT,
	RP_LOOSE,
	RP_FEASIBLE, /* strict, where some route has several paths: any route by the device will do */
};
struct rp_filter {
	u32 mode; /* enum rp_mode */
};

HASH_MAP(services4, struct service_key4, u32, 64, BPF_F_NO_PREALLOC);

HASH_MAP(services6, struct service_key6, u32, 64, BPF_F_NO_PREALLOC);

ARRAY_MAP(services, struct service, 64, BPF_F_MMAPABLE);

ARRAY_MAP(members, struct member, 256, BPF_F_MMAPABLE);

HASH_MAP(maglev_tables, u32, struct maglev_table, 128, BPF_F_NO_PREALLOC);

HASH_MAP(sh_tables, u32, struct sh_table, 128, BPF_F_NO_PREALLOC);

HASH_MAP(locals, struct address, u8, 65536, BPF_F_NO_PREALLOC);

LPM_MAP(local_routes, struct local_route, u8, 65536);

LPM_MAP(client_rules, struct client_prefix, struct client_rule, CLIENT_RULES);

LRU_MAP(limited_clients, struct limited_client, u64, LIMITED_CLIENTS);

HASH_MAP(accept_locals, u32, u8, 4096, BPF_F_NO_PREALLOC); /* ifindexes of devices with accept_local */

ARRAY_MAP(devices, struct device, DEVICES, BPF_F_MMAPABLE);

ARRAY_MAP(rp_filters, struct rp_filter, DEVICES, BPF_F_MMAPABLE);

HASH_MAP(standby, struct address, u8, 2 * STANDBY_ADDRESSES, BPF_F_NO_PREALLOC); /* written by pylvs-vrrp */

/* The map `roots`. The loader makes its only value's address a constant in the programs. */
struct root root_value SEC(".data.roots");

ARRAY_MAP(books, struct book, 1, BPF_F_MMAPABLE);

HASH_MAP(names, struct destination_name, u32, 64, BPF_F_NO_PREALLOC);

HASH_MAP(nat_servers, struct nat_server, u32, 64, BPF_F_NO_PREALLOC); /* the newest destination, perhaps deleted */

/* By destination: the next older one with its address and port, plus 1; 0: none. */
ARRAY_MAP(nat_older, u64, 64, BPF_F_MMAPABLE);

ARRAY_MAP(service_states, struct service_state, 64, BPF_F_MMAPABLE);

ARRAY_MAP(destinations, struct destination, 64, BPF_F_MMAPABLE);

enum { CHOICES = 1 << 16 };
ARRAY_MAP(fallback_choices, u64, CHOICES, 0); /* of PROG_HASH_FALLBACK, by group of clients */

HASH_MAP(cache, struct cache_key, struct cached, 128, BPF_F_NO_PREALLOC);

/* Devices whose driver transmits frames that XDP redirects. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, TRANSMITTERS);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} transmitters SEC(".maps");

INLINE bool scheduler_has(u32 scheduler, u32 flag)
{
#define SCHEDULER_BIT(name, number, flags) | ((flags) & flag ? 1u << number : 0)
	u32 having = 0 SCHEDULER_LIST(SCHEDULER_BIT);
	return having >> (scheduler & 31) & 1;
}

INLINE struct root *get_root(void)
{
	return &root_value;
}

/* Whether packets of services pass to the stack, because a backup sync daemon runs (IPVS-SEMANTICS 2.2). */
INLINE bool is_only_backup(const struct root *root)
{
	return unlikely(READ_ONCE(root->backup)) && root->settings.backup_only;
}

INLINE const struct facts *facts_in(const struct root *root, u64 live)
{
	return &AFTER(root, live)->facts[live & 1];
}

/* Return the version of a service that is in force. */
INLINE struct service_version *version_in_force(struct service *service, u32 live)
{
	service = AFTER(service, live);
	struct service_version *newer = &service->versions[0], *older = &service->versions[1];
	if ((s32)(READ_ONCE(older->generation) - READ_ONCE(newer->generation)) > 0) {
		newer = &service->versions[1];
		older = &service->versions[0];
	}
	return (s32)(live - newer->generation) >= 0 ? newer : older;
}

INLINE const struct facts *facts_of(const struct root *root)
{
	return facts_in(root, READ_ONCE(root->live));
}
