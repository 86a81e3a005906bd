/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * SYNs that a client rule refuses, before any other program runs. So a flood of refused clients costs little. The general
 * path (prog/new.h) decides the same, and decides whatever this file leaves to it.
 */
#pragma once
#include "fwd/denied.h"
#include "lb/syn_service.h"
#include "policy/client_rules.h"
#include "policy/martian.h"

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

/* Return the verdict of a SYN that `judge_syn` refuses, after it counted for its service. `mac` is the daddr of its
 * frame, in the lower 48 bits. */
VERIFIED_ONCE int refuse_syn(const struct packet *p, u64 judged, u64 mac, u32 hook)
{
	struct service_match match;
	u32 live = READ_ONCE(get_root()->live), slot = p ? service_of_flood(p, live) : NO_SERVICE;
	if (!p || slot == NO_SERVICE || !load_service(&match, slot, live))
		return drop(hook, judged >> 32);
	if (is_traced())
		trace_service(match.version);
	if (!is_traced() && judged >> 32 == REASON_CLIENT_DENIED) {
		struct syn syn;
		syn_of(&syn, p, get_root());
		note_denied(&syn, match.slot, match.version, mac, live);
		return hook == HOOK_XDP ? (int)XDP_DROP : TC_SHOT;
	}
	count_for_service(match.slot, match.version->added, judged >> 32);
	return drop(hook, judged >> 32) | END_OF_SERVICE;
}
