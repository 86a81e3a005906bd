/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Records of the connection log.
 */
#pragma once
#include "conntrack/log.h"
#include "conntrack/lookup.h"

/* A record without its tuple. `how` is that of log_opened. */
INLINE struct conn_event *new_event(u32 destination, u32 how, u32 event_state, u64 time_ns)
{
	struct conn_event *event = bpf_ringbuf_reserve(&conn_log, sizeof(*event), 0);
	if (!event) {
		count(REASON_LOG_LOST);
		return NULL;
	}
	const struct destination *d = map_elem(destinations, destination);
	*event = (struct conn_event){.time_ns = time_ns,
				     .event = event_state,
				     .state = event_state >> 8,
				     .family = how >> 24 & 1 ? 6 : 4,
				     .port = how,
				     .method = how >> 16};
	if (d) {
		event->server = d->address;
		event->server_family = d->family;
		event->mark = d->mark;
	}
	return event;
}

VERIFIED_ONCE int log_opened(const union tuple *tuple, u32 destination, u32 how, u32 event_state, u64 time_ns)
{
	if (!tuple)
		return 0;
	struct conn_event *event = new_event(destination, how, event_state, time_ns);
	if (!event)
		return 0;
	if (how >> 24 & 1)
		event->tuple.v6 = tuple->v6;
	else
		event->tuple.v4 = tuple->v4;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

VERIFIED_ONCE int log_end(u32 slot, u32 event_state)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return 0;
	const struct connection *c = entry.found.connection;
	u32 how = c->port | (u32)c->method << 16 | (u32)entry.is_ipv6 << 24;
	struct conn_event *event = new_event(c->destination, how, event_state, bpf_ktime_get_boot_ns());
	if (!event)
		return 0;
	event->tuple = entry.tuple;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}
