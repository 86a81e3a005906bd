/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * A record of the end of a connection, for the connection log.
 */
#pragma once
#include "conntrack/log.h"
#include "conntrack/lookup.h"

VERIFIED_ONCE int log_end(u32 slot, u32 event_state)
{
	struct slot_conn entry;
	if (!conn_of_slot(slot, &entry))
		return 0;
	struct conn_event *event = reserve_event();
	if (!event)
		return 0;
	fill_event(event, &entry.tuple, entry.is_ipv6, entry.found.connection, event_state);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}
