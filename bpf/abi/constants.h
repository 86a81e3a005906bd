/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Exports enumerations to Python: BTF contains those that a variable uses.
 */
#pragma once
#include "abi/config.h"
#include "abi/conntrack.h"
#include "abi/marks.h"
#include "abi/percpu.h"
#include "abi/trace.h"
#include "abi/transfer.h"

struct constants {
	enum limits limits;
	enum scheduler scheduler;
	enum method method;
	enum state state;
	enum assurance assurance;
	enum reason reason;
	enum end end;
	enum plain plain;
	enum list_edit list_edit;
	enum index_limits index_limits;
	enum index_step index_step;
	struct index_request index_request;
	enum destination_flag destination_flag;
	enum destination_use destination_use;
	enum tunnel_kind tunnel_kind;
	enum tunnel_flag tunnel_flag;
	enum tuple_kind tuple_kind;
	enum seed seed;
	enum mark_flag mark_flag;
	enum probe_marks probe_marks;
	enum word_bits word_bits;
	enum conn_flags conn_flags;
	enum conn_event_kind conn_event_kind;
	struct conn_event conn_event;
	enum sync_limits sync_limits;
	enum sync_result sync_result;
	enum sync_sent sync_sent;
	struct sync_event sync_event;
	struct sync_count sync_count;
	enum timers timers;
	enum run_classes run_classes;
	enum variant variant;
	enum trace_limits trace_limits;
	enum trace_hook trace_hook;
	enum trace_verdict trace_verdict;
	enum trace_choice trace_choice;
	enum trace_known trace_known;
	enum tracer tracer;
	enum transfer_limits transfer_limits;
	struct transfer_request transfer_request;
};
