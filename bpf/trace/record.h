/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The record of a traced packet (abi/trace.h): what the packet path notes of it, and its end at a verdict. abi/base.h
 * declares these functions, which are empty in programs that do not trace.
 *
 * A CPU processes one packet at a time, so it has one record. It sends the record to the ring buffer at the verdict.
 */
#pragma once
#include "abi/config.h"
#include "abi/trace.h"
#include "lib/headers.h"

/* Return the record of this CPU's packet; NULL if there is none. */
INLINE struct trace_record *trace_record(void)
{
	struct trace_record *r = is_traced() ? map_elem(trace_areas, 0) : NULL;
	return r && r->active ? r : NULL;
}

/* Note why. The last reason counts. */
VERIFIED_ONCE int trace_reason(u32 reason)
{
	struct trace_record *r = trace_record();
	if (r)
		r->reason = reason;
	return 0;
}

/* Return the verdict of a packet that gets another one only by its reason. */
INLINE u32 trace_verdict_of(u32 verdict, const struct trace_record *r)
{
	if (r->rejected && verdict == TRACE_FORWARDED)
		return TRACE_REJECTED;
	return verdict == TRACE_PASSED && r->output ? TRACE_FORWARDED /* TC egress: it leaves by its device */ : verdict;
}

/* The packet has its verdict. */
VERIFIED_ONCE int trace_end(u32 verdict)
{
	struct trace_record *r = trace_record();
	struct trace_counts *n = r ? map_elem(trace_counts, 0) : NULL;
	if (!r || !n)
		return 0;
	r->active = 0;
	r->verdict = trace_verdict_of(verdict, r);
	if (bpf_ringbuf_output(&trace_records, r, sizeof(*r), 0))
		n->lost += 1;
	else
		n->recorded += 1;
	return 0;
}

VERIFIED_ONCE int trace_service(const struct service_version *v)
{
	struct trace_record *r = trace_record();
	if (!r || !v)
		return 0;
	r->known |= TRACE_KNOWS_SERVICE;
	r->mark = v->mark;
	__builtin_memcpy(r->service_address, &v->address, sizeof(v->address));
	r->service_port = bpf_htons(v->port);
	r->protocol = v->protocol;
	r->service_family = v->family;
	r->scheduler = v->scheduler;
	return 0;
}

/* Note the real server, and its service. `choice`: enum trace_choice; 0: as noted before. */
VERIFIED_ONCE int trace_server(u32 destination, u32 method, u32 port, u32 choice)
{
	struct trace_record *r = trace_record();
	if (!r)
		return 0;
	if (choice)
		r->choice = choice;
	r->known |= TRACE_KNOWS_METHOD;
	r->method = method;
	const struct destination *d = map_elem(destinations, destination);
	if (!d)
		return 0;
	r->known |= TRACE_KNOWS_SERVER | TRACE_KNOWS_SERVICE;
	__builtin_memcpy(r->server_address, &d->address, sizeof(d->address));
	r->server_port = port;
	r->server_family = d->family;
	r->mark = d->mark;
	__builtin_memcpy(r->service_address, &d->virtual_address, sizeof(d->virtual_address));
	r->service_port = bpf_htons(d->virtual_port);
	r->protocol = d->protocol;
	r->service_family = d->virtual_family;
	return 0;
}

VERIFIED_ONCE int trace_state(u32 state, u32 created)
{
	struct trace_record *r = trace_record();
	if (!r)
		return 0;
	r->known |= TRACE_KNOWS_STATE;
	r->state = state;
	r->created |= created;
	return 0;
}

/* Note what a scheduler compared. */
VERIFIED_ONCE int trace_load(u32 load, u32 candidates)
{
	struct trace_record *r = trace_record();
	if (!r)
		return 0;
	r->known |= TRACE_KNOWS_LOAD;
	r->load = load;
	r->candidates = candidates;
	return 0;
}

/* The packet that leaves is an ICMP error to the sender; with its reason, or that noted before. */
VERIFIED_ONCE int trace_rejected(u32 reason)
{
	struct trace_record *r = trace_record();
	if (!r)
		return 0;
	r->rejected = 1;
	if (reason != REASON_NONE)
		r->reason = reason;
	return 0;
}
