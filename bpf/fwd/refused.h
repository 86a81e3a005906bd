/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SYNs that a client rule refuses, before any other program runs. So a flood of refused clients costs little. The general
 * path (prog/new.h) decides the same, and decides whatever this file leaves to it.
 */
#pragma once
#include "lb/syn_service.h"
#include "policy/martian.h"
#include "policy/client_rules.h"

#define NOT_JUDGED 1ull /* the general path decides */

/* Return why a client rule refuses a SYN, << 32, with its service's slot; 0: no rule concerns it; or NOT_JUDGED. The
 * caller then searches its connection. */
VERIFIED_ONCE u64 judge_syn(const struct packet *p)
{
	const struct root *root = get_root();
	u32 now = ticks(), live = READ_ONCE(root->live);
	struct service_match match;
	if (!p || needs_general_path(p, root, live, now))
		return NOT_JUDGED;
	u32 slot = service_of_flood(p, live);
	if (slot == NO_SERVICE || !load_service(&match, slot, live) || !is_valid_daddr(p))
		return NOT_JUDGED;
	if (!match.version->client_rules)
		return 0;
	const struct service_state *state = map_elem(service_states, match.slot);
	if (!state || state->local_at != now || !state->is_local)
		return NOT_JUDGED;
	u32 judged = judge_client(p, match.slot, match.version->added, match.version->client_rules);
	u32 refused = judged & ~RULE_LIMITS;
	if (refused == REASON_NONE || refused == REASON_CLIENT_PASSED)
		return judged ? NOT_JUDGED : 0; /* what a limit admits is counted when its connection is made */
	return (u64)refused << 32 | match.slot;
}

/* Return the verdict of a SYN that `judge_syn` refuses, after it counted for its service. */
VERIFIED_ONCE int refuse_syn(u64 judged, u32 hook)
{
	struct service_match match;
	if (load_service(&match, judged, READ_ONCE(get_root()->live))) {
		if (is_traced())
			trace_service(match.version);
		count_for_service(match.slot, match.version->added, judged >> 32);
	}
	return drop(hook, judged >> 32) | END_OF_SERVICE;
}
