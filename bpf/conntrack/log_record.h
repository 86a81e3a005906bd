/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A record of the connection log.
 */
#pragma once
#include "conntrack/log.h"
#include "conntrack/lookup.h"

VERIFIED_ONCE int log_conn(u32 slot, u32 event_state)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return 0;
	const struct connection *c = entry.found.connection;
	struct conn_event *event = bpf_ringbuf_reserve(&conn_log, sizeof(*event), 0);
	if (!event) {
		count(REASON_LOG_LOST);
		return 0;
	}
	const struct destination *d = map_elem(destinations, c->destination);
	*event = (struct conn_event){.time_ns = bpf_ktime_get_boot_ns(),
				     .event = event_state,
				     .state = event_state >> 8,
				     .family = entry.is_ipv6 ? 6 : 4,
				     .port = c->port,
				     .method = c->method};
	event->tuple = entry.tuple;
	if (d) {
		event->server = d->address;
		event->server_family = d->family;
		event->mark = d->mark;
	}
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}
