/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Persistent scheduling: by a template, else by the scheduler (IPVS-SEMANTICS 5.2, 5.4).
 */
#pragma once
#include "conntrack/persist.h"
#include "lb/to_scheduler.h"

/* Use the template of `template_tuple`, else tail-call the scheduler. */
INLINE int by_template(struct ctx ctx, struct scratch *w, const struct root *root)
{
	struct found found = find_template(w);
	struct connection *template = found.connection;
	if (template) {
		struct destination *d = map_elem(destinations, template->destination);
		u32 flags = d ? destination_flags(d, READ_ONCE(root->live)) : 0;
		if (is_valid_template(flags, root)) {
			/* If XDP opened the connection and then passed the SYN to TC, TC would end it. */
			if (ctx.hook == HOOK_XDP && root->settings.expire_nodest_conn && flags & DESTINATION_QUIESCED)
				return pass_to_tc();
			w->chosen.destination = template->destination;
			w->template.slot = found.slot;
			w->chosen.method = method_in(flags);
			if (is_traced())
				trace_server(template->destination, method_in(flags), 0,
					     w->template.by_call ? TRACE_CALL : TRACE_TEMPLATE);
			return tail_call(ctx, PROG_CONNECT);
		}
		retire_template(w, &found);
	}
	return to_scheduler(ctx, w);
}
