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

/* Write a record about the end of a slot's connection (conntrack/log_record.h). `event_state`: enum conn_event_kind, and
 * its state << 8. */
VERIFIED_ONCE int log_end(u32 slot, u32 event_state);

/* Whether connections are logged. */
INLINE bool is_logged(u32 now)
{
	u64 until = READ_ONCE(get_root()->log);
	return unlikely(until) && (s32)((u32)until - now) > 0;
}

/* Write a record about a connection that is made. It may have ended by now, so its slot is not read. `how`: the port of
 * the real server, its method << 16, and whether the tuple is that of IPv6 << 24. `time_ns` is before other CPUs could end
 * it: readers sort records by time, so that its end comes later. */
VERIFIED_ONCE int log_opened(const union tuple *tuple, u32 destination, u32 how, u32 event_state, u64 time_ns);
