/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The contract with Python, part 6: copies of connections between two directors (conntrack/transfer.h). Only a process
 * that copies has these maps; they are no part of the tables.
 */
#pragma once
#include "abi/conntrack.h"

enum transfer_limits {
	TRANSFER_RECORDS = 4096, /* in a batch */
	TRANSFER_SLOTS = 1 << 16, /* of the table that one run visits, at most */
	TRANSFER_AGE = 8, /* a connection is dumped again after this part of its timeout */
};

/* What a batch has. */
enum transfer_kind {
	TRANSFER_CONNECTIONS,
	TRANSFER_TEMPLATES, /* but those of SIP calls */
	TRANSFER_CALLS, /* templates of SIP calls, which `transfer_calls` describes */
};

/* What Python asks of dump_conns, behind the first 16 bytes of the packet. */
struct transfer_request {
	u32 slot; /* the first one to visit */
	u32 all; /* 0: only what has changed since this process last dumped it */
	u32 kind; /* enum transfer_kind */
	u32 pad;
};

ARRAY_MAP(transfer_records, struct conn_record, TRANSFER_RECORDS, BPF_F_MMAPABLE);

ARRAY_MAP(transfer_calls, struct call, TRANSFER_RECORDS, BPF_F_MMAPABLE); /* by the number of the record */

ARRAY_MAP(transfer_sent, u64, 4096, 0); /* the state word of each slot as last dumped */
