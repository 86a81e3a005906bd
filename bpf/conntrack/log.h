/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The connection log: a record of each connection that is made or ends, while `pylvs log` reads. That process renews
 * `root.log`, a tick, so a killed one leaves no cost. Off, the log costs a comparison with a word that every packet
 * reads anyhow. Templates are not logged, nor connections that are copied into another table.
 *
 * A connection has no counters of its own, so a record has neither packets nor bytes.
 */
#pragma once
#include "conntrack/lookup.h"

/* Write a record about the connection of a slot. `event_state`: enum conn_event_kind, and its state << 8. */
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

/* Whether connections are logged. */
INLINE bool is_logged(u32 now)
{
	u64 until = READ_ONCE(get_root()->log);
	return unlikely(until) && (s32)((u32)until - now) > 0;
}
