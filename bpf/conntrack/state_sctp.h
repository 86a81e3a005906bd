/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPVS's SCTP state machine (IPVS-SEMANTICS 4.6; net/netfilter/ipvs/ip_vs_proto_sctp.c in the kernel): the next state
 * by the packet's first chunk, for each direction.
 */
#pragma once
#include "abi/base.h"
#include "conntrack/event.h"

/* Short names of states for the rows. */
enum sctp_letters {
	SCTP_NO = STATE_NONE,
	SCTP_I1 = STATE_SCTP_INIT1,
	SCTP_IN = STATE_SCTP_INIT,
	SCTP_CS = STATE_SCTP_COOKIE_SENT,
	SCTP_CR = STATE_SCTP_COOKIE_REPLIED,
	SCTP_CW = STATE_SCTP_COOKIE_WAIT,
	SCTP_CO = STATE_SCTP_COOKIE,
	SCTP_CE = STATE_SCTP_COOKIE_ECHOED,
	SCTP_ES = STATE_SCTP_ESTABLISHED,
	SCTP_SS = STATE_SCTP_SHUTDOWN_SENT,
	SCTP_SR = STATE_SCTP_SHUTDOWN_RECEIVED,
	SCTP_SA = STATE_SCTP_SHUTDOWN_ACK_SENT,
	SCTP_RJ = STATE_SCTP_REJECTED,
	SCTP_CL = STATE_SCTP_CLOSED,
};

/* clang-format off */
#define SCTP_ROW(no, i1, in, cs, cr, cw, co, ce, es, ss, sr, sa, rj, cl) { \
	[SCTP_NO] = SCTP_##no, [SCTP_I1] = SCTP_##i1, [SCTP_IN] = SCTP_##in, [SCTP_CS] = SCTP_##cs, \
	[SCTP_CR] = SCTP_##cr, [SCTP_CW] = SCTP_##cw, [SCTP_CO] = SCTP_##co, [SCTP_CE] = SCTP_##ce, \
	[SCTP_ES] = SCTP_##es, [SCTP_SS] = SCTP_##ss, [SCTP_SR] = SCTP_##sr, [SCTP_SA] = SCTP_##sa, \
	[SCTP_RJ] = SCTP_##rj, [SCTP_CL] = SCTP_##cl, \
	[STATE_SCTP_FIRST] = SCTP_##es }

/* state before:                       NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL */
#define SCTP_INPUT \
	[EVENT_DATA]               = SCTP_ROW(ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_INIT]               = SCTP_ROW(I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN), \
	[EVENT_INIT_ACK]           = SCTP_ROW(CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ECHO]        = SCTP_ROW(CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ACK]         = SCTP_ROW(ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN]           = SCTP_ROW(SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN_ACK]       = SCTP_ROW(CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL), \
	[EVENT_SHUTDOWN_COMPLETE]  = SCTP_ROW(CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL), \
	[EVENT_ERROR]              = SCTP_ROW(CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL), \
	[EVENT_ABORT]              = SCTP_ROW(CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL),

#define SCTP_OUTPUT \
	[EVENT_DATA]               = SCTP_ROW(ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_INIT]               = SCTP_ROW(CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW), \
	[EVENT_INIT_ACK]           = SCTP_ROW(CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ECHO]        = SCTP_ROW(CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ACK]         = SCTP_ROW(ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN]           = SCTP_ROW(SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN_ACK]       = SCTP_ROW(SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL), \
	[EVENT_SHUTDOWN_COMPLETE]  = SCTP_ROW(CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_ERROR]              = SCTP_ROW(CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_ABORT]              = SCTP_ROW(CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL),

#define SCTP_INPUT_ONLY \
	[EVENT_DATA]               = SCTP_ROW(ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_INIT]               = SCTP_ROW(I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN), \
	[EVENT_INIT_ACK]           = SCTP_ROW(CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ECHO]        = SCTP_ROW(ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_COOKIE_ACK]         = SCTP_ROW(ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN]           = SCTP_ROW(SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL), \
	[EVENT_SHUTDOWN_ACK]       = SCTP_ROW(CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL), \
	[EVENT_SHUTDOWN_COMPLETE]  = SCTP_ROW(CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL), \
	[EVENT_ERROR]              = SCTP_ROW(CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL), \
	[EVENT_ABORT]              = SCTP_ROW(CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL),
/* clang-format on */
