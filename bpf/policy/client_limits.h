/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Limits of client rules. A limit is judged before a server is chosen, and counted when the connection is made. So a
 * packet that XDP passes to TC counts once. CPUs that judge at the same time may each let one more pass.
 */
#pragma once
#include "ctx/scratch.h"
#include "policy/client_rules.h"

/* Return why the rules of the service refuse the packet, or REASON_NONE. Note the set if a limit applies. */
INLINE u32 refused_by_rule(struct scratch *w, u32 set)
{
	u32 judged = judge_client(&w->packet, w->service.slot, w->owner.added, set);
	if (judged & RULE_LIMITS)
		w->flow.client_rules = set;
	return judged & ~RULE_LIMITS;
}

/* Count a new connection of a client whose rule has a limit. */
VERIFIED_ONCE int count_limited(const struct scratch *w)
{
	struct address client = {};
	if (!w || is_dry())
		return 0;
	packet_saddr(&client, &w->packet);
	const struct client_rule *rule = client_rule_of(&client, w->service.slot, w->flow.client_rules);
	if (!rule)
		return 0;
	struct limited_client key = limited_key(rule, &client, w->service.slot, w->owner.added);
	u64 now = bpf_ktime_get_ns(), first = now + rule->interval_ns, *due = bpf_map_lookup_elem(&limited_clients, &key);
	if (!due) {
		bpf_map_update_elem(&limited_clients, &key, &first, BPF_NOEXIST);
		return 0;
	}
	u64 seen = READ_ONCE(*due), next = (s64)(seen - now) > 0 ? seen + rule->interval_ns : first;
	if (__sync_val_compare_and_swap(due, seen, next) != seen) /* another CPU has just counted one */
		__sync_fetch_and_add(due, rule->interval_ns);
	return 0;
}

INLINE void count_client(const struct scratch *w)
{
	if (unlikely(w->flow.client_rules))
		count_limited(w);
}
