/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Find the virtual service of a packet without a connection (IPVS-SEMANTICS 1.2), and check that its address is local.
 */
#pragma once
#include "abi/marks.h"
#include "ctx/ended.h"
#include "ctx/scratch.h"
#include "fwd/nexthop.h"
#include "policy/vrrp_role.h"

#define NO_SERVICE 0xffffffffu
#define SECOND_VERSION 0x80000000u /* added to the slot: the second version is in force */

struct service_match {
	u32 slot;
	struct service_version *version;
};

/* Return the slot if its service is in force, else NO_SERVICE. */
INLINE u32 slot_in_force(const u32 *slot, u32 live)
{
	struct service *service = slot ? map_elem(services, *slot) : NULL;
	if (!service)
		return NO_SERVICE;
	const struct service_version *version = version_in_force(service, live);
	return version->present ? *slot | (version == service->versions ? 0 : SECOND_VERSION) : NO_SERVICE;
}

/* Return the slot of the service with the packet's address and this port, or NO_SERVICE. */
VERIFIED_ONCE u32 service_at(const struct packet *p, u32 port, u32 live)
{
	if (!p)
		return NO_SERVICE;
	if (p->is_ipv6) {
		struct service_key6 key = {.address = p->tuple.v6.daddr, .port = port, .protocol = p->protocol};
		return slot_in_force(bpf_map_lookup_elem(&services6, &key), live);
	}
	struct service_key4 key = {.address = p->tuple.v4.daddr, .port = port, .protocol = p->protocol};
	return slot_in_force(bpf_map_lookup_elem(&services4, &key), live);
}

/* Return the slot of a packet's service: by port, as FTP data, or as a service of all ports. */
INLINE u32 service_of_address(const struct packet *p, const struct facts *facts, u32 live)
{
	be16 port = packet_dport(p);
	u32 number = bpf_ntohs(port), slot = service_at(p, port, live);
	if (slot == NO_SERVICE && facts->ftp && p->protocol == IPPROTO_TCP &&
	    (number == PORT_FTP_DATA || (s32)number >= (s32)FIRST_UNPRIVILEGED + get_root()->unprivileged_port))
		slot = service_at(p, bpf_htons(PORT_FTP), live);
	if (slot == NO_SERVICE && facts->zero_ports)
		slot = service_at(p, 0, live);
	return slot;
}

/* Return the service of a firewall mark. It takes precedence over one with the packet's address (1.2). */
VERIFIED_ONCE u32 service_of_mark(u32 is_ipv6, u32 mark, u32 live)
{
	if (!mark)
		return NO_SERVICE;
	if (is_ipv6) {
		struct service_key6 key = {.address = {.word = {mark}}};
		return slot_in_force(bpf_map_lookup_elem(&services6, &key), live);
	}
	struct service_key4 key = {.address = mark};
	return slot_in_force(bpf_map_lookup_elem(&services4, &key), live);
}

INLINE bool load_service(struct service_match *found, u32 slot, u32 live)
{
	u32 number = slot & ~SECOND_VERSION;
	struct service *service = map_elem(services, number);
	if (!service)
		return false;
	service = AFTER(service, live);
	found->slot = number;
	found->version = &service->versions[slot >> 31];
	return true;
}

/* Note what later programs need of the service. */
INLINE void note_service(struct scratch *w, const struct service_match *found)
{
	const struct service_version *v = found->version;
	note_owner(w, found->slot, v->added);
	w->service.slot = found->slot;
	w->service.generation = v->generation;
	w->service.flags = v->flags;
	w->service.list = v->list;
	w->service.count = v->count;
	w->service.list_version = v->list_version;
	w->service.edit = v->edit;
	w->service.edit_position = v->edit_position;
	w->service.gcd = v->gcd;
	w->service.max_weight = v->max_weight;
	w->service.table = v->table;
	w->service.epoch = v->epoch;
	w->service.epoch_tick = v->epoch_tick;
	w->service.scheduler = v->scheduler;
	w->service.timeout = v->timeout;
	w->service.netmask = v->netmask;
	w->service.port = bpf_htons(v->port);
	w->service.mark = v->mark;
	w->template.slot = NO_TEMPLATE;
	if (is_traced())
		trace_service(v);
}

/* For an ICMP error with schedule_icmp use the outer tuple. */
INLINE const union tuple *marked_tuple(const struct scratch *w)
{
	return w->packet.by_inner == BY_INNER_CONNECT ? &w->own_tuple : &w->packet.tuple;
}

/* Whether routing delivers the daddr locally for packets of this mark: by a rule of policy routing (`fwmark`), or
 * because the address is local. Before Linux 6.10 bpf_fib_lookup ignores marks; then the Director's snapshot of those
 * rules decides. */
INLINE int routes_here(struct ctx ctx, const struct scratch *w, u32 mark)
{
	if (!w)
		return false;
	const struct packet *p = &w->packet;
	struct address daddr = {};
	tuple_daddr(&daddr, marked_tuple(w), p->is_ipv6);
	struct bpf_fib_lookup params;
	fill_fib_params(&params, &daddr, p->is_ipv6, loopback, NULL);
	if (fib_takes_mark)
		params.mark = mark;
	long ret = bpf_fib_lookup(ctx.xdp, &params, sizeof(params), fib_takes_mark ? BPF_FIB_LOOKUP_MARK : 0);
	bool forwarded = ret != BPF_FIB_LKUP_RET_NOT_FWDED;
	if (!forwarded && is_own_virtual_by(ctx.xdp, &params, &daddr, p->is_ipv6))
		return true;
	struct routed_mark routed = {.mark = mark, .family = p->is_ipv6 ? 6 : 4};
	if (mark && !(fib_takes_mark && forwarded) && bpf_map_lookup_elem(&routed_marks, &routed))
		return true;
	return is_vrrp_address(&daddr);
}

GLOBAL_OF_HOOKS(int, is_local_for_mark, routes_here, (const struct scratch *w, u32 mark), (w, mark))

/* Whether the packet's daddr is local. The result is cached for a tick, an eighth of a second. For a virtual router's
 * address its role decides, at once. */
INLINE bool is_local_daddr(struct ctx ctx, struct service_state *state, const struct packet *p, u32 now)
{
	if (likely(state->local_at == now))
		return state->is_local;
	struct address daddr = {};
	packet_daddr(&daddr, p);
	bool is_local = is_local_vip(ctx, &daddr, p->is_ipv6);
	if (is_dry())
		return is_local;
	state->is_local = is_local;
	barrier();
	state->local_at = now;
	return is_local;
}
