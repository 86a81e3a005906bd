/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Create a persistence template.
 */
#pragma once
#include "conntrack/create.h"
#include "conntrack/persist.h"

/* Create the client's template for the chosen destination. If another CPU was first, take over its choice. If that one
 * decides no more, this connection has no template; the client's next one makes it. */
INLINE enum create_result make_template(struct scratch *w, const struct root *root, u32 now)
{
	struct destination *d = map_elem(destinations, w->chosen.destination);
	if (!d)
		return CREATE_FAILED;
	u32 expiry = now + w->service.timeout;
	struct new_conn new = {
		.tuple = &w->template.tuple,
		.destination = d,
		.conn = {.destination = w->chosen.destination,
			 .port = is_for_one_port(w) ? d->port : 0,
			 .method = METHOD_LOCAL,
			 .flags = w->template.by_call ? CONN_CALL : 0},
		.state = STATE_TEMPLATE,
		.expiry = expiry,
		.has_control = true,
		.control = {.timeout = w->service.timeout},
		.is_ipv6 = template_is_ipv6(w),
		.nat = w->chosen.method == METHOD_MASQ,
		.user = BY_PACKET,
		.call = w->template.by_call ? &w->template.call : NULL,
	};
	enum create_result result = insert_conn(&new);
	if (likely(result == CREATED)) {
		w->template.slot = new.slot;
		return CREATED;
	}
	if (result != CREATE_EXISTS)
		return result;
	struct found winner = find_template(w);
	if (!winner.connection)
		return CREATE_FAILED;
	u32 destination = winner.connection->destination;
	d = map_elem(destinations, destination);
	u32 flags = d ? destination_flags(d, READ_ONCE(root->live)) : 0;
	if (unlikely(!is_valid_template(flags, root))) /* another CPU is retiring or ending it: this choice stays */
		return flags & DESTINATION_AVAILABLE ? CREATED : CREATE_FAILED;
	w->template.slot = winner.slot;
	w->chosen.destination = destination;
	w->chosen.method = method_in(flags);
	return CREATED;
}
