/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract between the packet path and Python: keys and values of every map. Python reads these types from the
 * object's BTF; a change that older tools cannot read raises ABI_NUMBER. This part is what Python writes: settings,
 * services, destinations.
 *
 * Versioned things (facts, service versions, destination states) come in pairs. `root.live` names the generation in
 * force: of a pair, the half with the greatest generation not beyond `live` counts. An edit writes the other halves
 * with generation live+1 and then stores live+1: that store is the edit.
 */
#pragma once
#include "abi/base.h"

enum scheduler { SCHED_NONE, SCHED_RR, SCHED_WRR, SCHED_LC, SCHED_WLC, SCHED_SED, SCHED_NQ, SCHED_FO,
		 SCHED_OVF, SCHED_DH, SCHED_SH, SCHED_MH, SCHED_LBLC, SCHED_LBLCR, SCHEDULERS };

enum method { METHOD_MASQ, METHOD_LOCAL, METHOD_TUNNEL, METHOD_ROUTE, METHOD_BYPASS };

enum service_flag {
	SERVICE_PERSISTENT = 1,
	SERVICE_ONE_PACKET = 4,
	SERVICE_FALLBACK = 8, /* sh-fallback, mh-fallback */
	SERVICE_BY_PORT = 16, /* sh-port, mh-port */
};

/* Encapsulations of the tunnel method and their checksum choices, with IPVS's numbers. */
enum tunnel_kind { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE };
enum tunnel_flag { TUNNEL_CSUM = 1, TUNNEL_REMCSUM = 2 };

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

/* mh: for each of a service's two tables, by slot << 1 | which, the place in the list of every slot's destination. */
struct maglev_table {
	u16 places[MAGLEV_SLOTS];
	u16 pad;
};

/* --- what lblc and lblcr remember --- */

struct cache_key {
	u32 epoch; /* of a service's scheduler: names service and scheduler at once */
	u32 part; /* 0: the entry of a target; others: more of its members */
	struct address target;
};

struct cached {
	u32 service;
	u32 used; /* tick of the latest use */
	u32 changed; /* tick of the set's latest change */
	u32 count; /* members in all parts */
	u32 busy; /* somebody changes the set */
	u32 pad[3];
	u32 members[CACHE_MEMBERS]; /* destinations, the oldest member first; NOTHING beyond */
};

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

HASH_MAP(services4, struct service_key4, u32, 64, BPF_F_NO_PREALLOC);

HASH_MAP(services6, struct service_key6, u32, 64, BPF_F_NO_PREALLOC);

ARRAY_MAP(services, struct service, 64, BPF_F_MMAPABLE);

ARRAY_MAP(members, struct member, 256, BPF_F_MMAPABLE);

HASH_MAP(maglev_tables, u32, struct maglev_table, 128, BPF_F_NO_PREALLOC);

HASH_MAP(locals, struct address, u8, 4096, BPF_F_NO_PREALLOC);

HASH_MAP(accept_locals, u32, u8, 1024, BPF_F_NO_PREALLOC); /* devices by ifindex, with accept_local */

ARRAY_MAP(devices, struct device, DEVICES, BPF_F_MMAPABLE);

HASH_MAP(standby, struct address, u8, 2 * STANDBY_ADDRESSES, BPF_F_NO_PREALLOC); /* written by the virtual routers' process */

/* The map `roots`, whose only value packets have at an address that is known when the program is loaded. */
struct root root_value SEC(".data.roots");

ARRAY_MAP(books, struct book, 1, BPF_F_MMAPABLE);

HASH_MAP(names, struct destination_name, u32, 64, BPF_F_NO_PREALLOC);

ARRAY_MAP(service_states, struct service_state, 64, BPF_F_MMAPABLE);

ARRAY_MAP(destinations, struct destination, 64, BPF_F_MMAPABLE);

HASH_MAP(cache, struct cache_key, struct cached, 128, BPF_F_NO_PREALLOC);

/* devices that can transmit what XDP redirects */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_DEVMAP_HASH);
	MAP_UINT(max_entries, DEVICES);
	MAP_UINT(key_size, sizeof(u32));
	MAP_UINT(value_size, sizeof(u32));
} transmitters SEC(".maps");

INLINE struct root *get_root(void)
{
	return &root_value;
}

INLINE const struct facts *facts_in(const struct root *root, u64 live)
{
	return &AFTER(root, live)->facts[live & 1];
}

INLINE const struct facts *facts_of(const struct root *root)
{
	return facts_in(root, READ_ONCE(root->live));
}
