/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The connection log: a record of each connection that is made or ends, while `pylvs log` reads. That process renews
 * `root.log`, a tick, so a killed one leaves no cost. Off, the log costs a comparison with a word that every packet
 * reads anyhow. Templates are not logged, nor connections that are copied into another table.
 *
 * A connection has no counters of its own, so a record has neither packets nor bytes.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"
#include "ctx/ended.h"

/* Write a record about the end of a slot's connection (conntrack/log_record.h). `event_state`: enum conn_event_kind, and
 * its state << 8. */
VERIFIED_ONCE int log_end(u32 slot, u32 event_state);

/* Whether connections are logged. */
INLINE bool is_logged(u32 now)
{
	u64 until = READ_ONCE(get_root()->log);
	return unlikely(until) && (s32)((u32)until - now) > 0;
}

/* Reserve a record. Readers wait for it: records keep this order. Return NULL if the reader is too slow. */
INLINE struct conn_event *reserve_event(void)
{
	struct conn_event *event = bpf_ringbuf_reserve(&conn_log, sizeof(*event), 0);
	if (!event)
		count(REASON_LOG_LOST);
	return event;
}

INLINE void fill_event(struct conn_event *event, const union tuple *tuple, bool is_ipv6, const struct connection *c,
		       u32 event_state)
{
	const struct destination *d = map_elem(destinations, c->destination);
	*event = (struct conn_event){.time_ns = bpf_ktime_get_boot_ns(),
				     .event = event_state,
				     .state = event_state >> 8,
				     .family = is_ipv6 ? 6 : 4,
				     .port = c->port,
				     .method = c->method};
	if (is_ipv6)
		event->tuple.v6 = tuple->v6;
	else
		event->tuple.v4 = tuple->v4;
	if (d) {
		event->server = d->address;
		event->server_family = d->family;
		event->mark = d->mark;
	}
}
