/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Events of a connection's state machine: TCP flags, the type of SCTP's first chunk.
 */
#pragma once
#include "lib/bpf.h"

/* For a TCP packet with several flags see tcp_event. */
enum event {
	EVENT_SYN,
	EVENT_FIN,
	EVENT_ACK,
	EVENT_RST,
	EVENT_NONE, /* TCP without any of the flags above */
	EVENT_KEEP, /* no change: UDP, truncated headers */
	EVENT_DATA,
	EVENT_INIT,
	EVENT_INIT_ACK,
	EVENT_COOKIE_ECHO,
	EVENT_COOKIE_ACK,
	EVENT_SHUTDOWN,
	EVENT_SHUTDOWN_ACK,
	EVENT_SHUTDOWN_COMPLETE,
	EVENT_ERROR,
	EVENT_ABORT,
	EVENTS,
};

#define NIBBLES(a, b, c, d) ((u64)(a) | (b) << 4 | (c) << 8 | (d) << 12)

/* RST, else SYN, else FIN, else ACK: a table of four bits for each combination of ACK, RST, SYN and FIN. Without
 * branches: the verifier would follow each of them to the end of the program. */
INLINE u8 tcp_event(u8 flags)
{
	const u64 reset = NIBBLES(EVENT_RST, EVENT_RST, EVENT_RST, EVENT_RST);
	const u64 events = NIBBLES(EVENT_NONE, EVENT_FIN, EVENT_SYN, EVENT_SYN) | reset << 16 |
			   NIBBLES(EVENT_ACK, EVENT_FIN, EVENT_SYN, EVENT_SYN) << 32 | reset << 48;
	u32 number = (flags & 7) | (flags >> 1 & 8);
	return events >> number * 4 & 0xf;
}

enum sctp_chunk {
	CHUNK_DATA,
	CHUNK_INIT,
	CHUNK_INIT_ACK,
	CHUNK_SACK,
	CHUNK_HEARTBEAT,
	CHUNK_HEARTBEAT_ACK,
	CHUNK_ABORT,
	CHUNK_SHUTDOWN,
	CHUNK_SHUTDOWN_ACK,
	CHUNK_ERROR,
	CHUNK_COOKIE_ECHO,
	CHUNK_COOKIE_ACK,
	CHUNK_ECNE,
	CHUNK_CWR,
	CHUNK_SHUTDOWN_COMPLETE,
};

/* Chunks that do not change the state, including unknown ones, count as data. */
INLINE u8 sctp_event(u8 chunk)
{
	switch (chunk) {
	case CHUNK_INIT:
		return EVENT_INIT;
	case CHUNK_INIT_ACK:
		return EVENT_INIT_ACK;
	case CHUNK_ABORT:
		return EVENT_ABORT;
	case CHUNK_SHUTDOWN:
		return EVENT_SHUTDOWN;
	case CHUNK_SHUTDOWN_ACK:
		return EVENT_SHUTDOWN_ACK;
	case CHUNK_ERROR:
		return EVENT_ERROR;
	case CHUNK_COOKIE_ECHO:
		return EVENT_COOKIE_ECHO;
	case CHUNK_COOKIE_ACK:
		return EVENT_COOKIE_ACK;
	case CHUNK_SHUTDOWN_COMPLETE:
		return EVENT_SHUTDOWN_COMPLETE;
	default:
		return EVENT_DATA;
	}
}
