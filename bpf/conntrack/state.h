/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Connection states (IPVS-SEMANTICS 4.3 to 4.6): one table for all protocols, with one lookup per packet. state_tcp.h
 * and state_sctp.h have its rows; UDP has a single state, apart from unconfirmed connections.
 */
#pragma once
#include "abi/config.h"
#include "conntrack/entry.h"
#include "conntrack/state_sctp.h"
#include "conntrack/state_tcp.h"

/* INPUT_ONLY: requests of connections whose replies bypass this host (direct routing, tunnels). IPVS does not count the
 * bypass method among them. */
enum direction { DIRECTION_INPUT, DIRECTION_OUTPUT, DIRECTION_INPUT_ONLY, SECURE = 4, DIRECTIONS = 8 };

/* A flood of UDP causes replies, too, of several datagrams or repeated, so replies confirm no connection. */
#define KEPT(udp_first) \
	[EVENT_KEEP] = {0,	   1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, \
			16,	   17, 18, 19, 20, 21, 22, 23, 24, 25, [STATE_UDP_FIRST] = udp_first, \
			27, 28, 29, 30, 31}
#define KEPT_INPUT KEPT(STATE_UDP)
#define KEPT_OUTPUT KEPT(STATE_UDP_FIRST)

static const u8 next_states[DIRECTIONS][EVENTS][STATES] = {
	[DIRECTION_INPUT] = {TCP_INPUT SCTP_INPUT KEPT_INPUT},
	[DIRECTION_OUTPUT] = {TCP_OUTPUT SCTP_OUTPUT KEPT_OUTPUT},
	[DIRECTION_INPUT_ONLY] = {TCP_INPUT_ONLY SCTP_INPUT_ONLY KEPT_INPUT},
	[SECURE + DIRECTION_INPUT] = {TCP_SECURE_INPUT SCTP_INPUT KEPT_INPUT},
	[SECURE + DIRECTION_OUTPUT] = {TCP_SECURE_OUTPUT SCTP_OUTPUT KEPT_OUTPUT},
	[SECURE + DIRECTION_INPUT_ONLY] = {TCP_SECURE_INPUT_ONLY SCTP_INPUT_ONLY KEPT_INPUT},
};

enum { SECURE_TCP_ON = 3 }; /* modes 1 and 2 react to low memory, which a table allocated beforehand cannot have */

/* Return the rows for a direction, by the mode of secure_tcp. */
INLINE u32 direction_in(const struct settings *settings, enum direction direction)
{
	return direction | (settings->secure_tcp == SECURE_TCP_ON ? SECURE : 0);
}

INLINE u32 next_state(u32 direction, u32 event, u32 state)
{
	return next_states[direction & (DIRECTIONS - 1)][event & (EVENTS - 1)][state & (STATES - 1)];
}

/* Whether listings count this state as active. */
INLINE bool is_active(u32 state)
{
	return (1u << STATE_ESTABLISHED | 1u << STATE_SYN_SENT | 1u << STATE_SYN_RECV | 1u << STATE_SYNACK |
		1u << STATE_SCTP_ESTABLISHED | 1u << STATE_TCP_FIRST | 1u << STATE_SCTP_FIRST) >> state & 1;
}

#define UNCONFIRMED_STATES (1u << STATE_UDP_FIRST | 1u << STATE_TCP_FIRST | 1u << STATE_SCTP_FIRST)

/* Whether no packet of the client has followed the first one. */
INLINE bool is_unconfirmed(u32 state)
{
	return UNCONFIRMED_STATES >> state & 1;
}

/* Return the state of a new connection by the one that its first packet causes. */
INLINE u32 first_state(u32 state)
{
	switch (state) {
	case STATE_UDP:
		return STATE_UDP_FIRST;
	case STATE_ESTABLISHED:
		return STATE_TCP_FIRST;
	case STATE_SCTP_ESTABLISHED:
		return STATE_SCTP_FIRST;
	default:
		return state;
	}
}

/* Whether the handshake is not completed, or no packet of the client has followed the first one. */
INLINE bool is_half_open_state(u32 state)
{
	return (UNCONFIRMED_STATES | 1u << STATE_SYN_RECV | 1u << STATE_SYN_SENT | 1u << STATE_SYNACK |
		1u << STATE_SCTP_INIT1 | 1u << STATE_SCTP_INIT) >>
		       state & 1;
}

/* Whether a packet proves that its connection is in use: one of the server, behind the handshake. Where the server's
 * packets bypass this host, one of the client. `rows` is a direction, perhaps secured. */
INLINE bool is_proof(u32 rows, u32 event)
{
	return (1u << EVENT_ACK | 1u << EVENT_DATA) >> event & (rows | rows >> 1) & 1;
}

/* Whether a connection with this state word gives way to others as half-open ones do. A server's RST closes those of a
 * flood, and with sloppy_tcp a single FIN makes a closed one. A forged RST closes one that was in use, too: both ends
 * may still send, and IPVS forwards their packets. */
INLINE bool is_evictable(u64 word)
{
	u32 state = word_state(word);
	return is_half_open_state(state) ||
	       (!(word >> WORD_IN_USE & 1) &&
		(1u << STATE_CLOSE | 1u << STATE_SCTP_CLOSED | 1u << STATE_SCTP_REJECTED) >> state & 1);
}

/* Whether a connection in this state makes its template ASSURED (5.3). */
INLINE bool is_established(u32 state)
{
	return state == STATE_ESTABLISHED || state == STATE_SCTP_ESTABLISHED;
}
