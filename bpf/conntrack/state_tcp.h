/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * IPVS's TCP state machine (IPVS-SEMANTICS 4.4; net/netfilter/ipvs/ip_vs_proto_tcp.c in the kernel): the next state by
 * the packet's flags, for each direction.
 */
#pragma once
#include "abi/base.h"
#include "conntrack/event.h"

/* Short names of states for the rows. */
enum tcp_letters {
	TCP_NO = STATE_NONE,
	TCP_ES = STATE_ESTABLISHED,
	TCP_SS = STATE_SYN_SENT,
	TCP_SR = STATE_SYN_RECV,
	TCP_FW = STATE_FIN_WAIT,
	TCP_TW = STATE_TIME_WAIT,
	TCP_CL = STATE_CLOSE,
	TCP_CW = STATE_CLOSE_WAIT,
	TCP_LA = STATE_LAST_ACK,
	TCP_LI = STATE_LISTEN,
	TCP_SA = STATE_SYNACK,
};

/* clang-format off */
#define TCP_ROW(no, es, ss, sr, fw, tw, cl, cw, la, li, sa) { \
	[TCP_NO] = TCP_##no, [TCP_ES] = TCP_##es, [TCP_SS] = TCP_##ss, [TCP_SR] = TCP_##sr, [TCP_FW] = TCP_##fw, \
	[TCP_TW] = TCP_##tw, [TCP_CL] = TCP_##cl, [TCP_CW] = TCP_##cw, [TCP_LA] = TCP_##la, [TCP_LI] = TCP_##li, \
	[TCP_SA] = TCP_##sa, [STATE_TCP_FIRST] = TCP_##es }
#define TCP_WITHOUT_FLAGS [EVENT_NONE] = TCP_ROW(CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL),

/* state before:          NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA */
#define TCP_INPUT \
	[EVENT_SYN]  = TCP_ROW(SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR), \
	[EVENT_FIN]  = TCP_ROW(CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES), \
	[EVENT_RST]  = TCP_ROW(CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR), \
	TCP_WITHOUT_FLAGS

#define TCP_OUTPUT \
	[EVENT_SYN]  = TCP_ROW(SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR), \
	[EVENT_FIN]  = TCP_ROW(TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES), \
	[EVENT_RST]  = TCP_ROW(CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL), \
	TCP_WITHOUT_FLAGS

#define TCP_INPUT_ONLY \
	[EVENT_SYN]  = TCP_ROW(SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR), \
	[EVENT_FIN]  = TCP_ROW(CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES), \
	[EVENT_RST]  = TCP_ROW(CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL), \
	TCP_WITHOUT_FLAGS

/* secure_tcp (IPVS-SEMANTICS 4.4): a SYN alone does not make a connection half-open. */
#define TCP_SECURE_INPUT \
	[EVENT_SYN]  = TCP_ROW(SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA), \
	[EVENT_FIN]  = TCP_ROW(CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA), \
	[EVENT_RST]  = TCP_ROW(CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL), \
	TCP_WITHOUT_FLAGS

#define TCP_SECURE_OUTPUT \
	[EVENT_SYN]  = TCP_ROW(SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA), \
	[EVENT_FIN]  = TCP_ROW(TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES), \
	[EVENT_RST]  = TCP_ROW(CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL), \
	TCP_WITHOUT_FLAGS

#define TCP_SECURE_INPUT_ONLY \
	[EVENT_SYN]  = TCP_ROW(SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA), \
	[EVENT_FIN]  = TCP_ROW(CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW), \
	[EVENT_ACK]  = TCP_ROW(ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES), \
	[EVENT_RST]  = TCP_ROW(CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL), \
	TCP_WITHOUT_FLAGS
/* clang-format on */
