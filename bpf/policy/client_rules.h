/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Client rules of a service: which clients may open connections, and how fast. Packets that have a connection are not
 * judged. A set of rules is never changed: an edit writes another one, and the version of the service names it.
 *
 * A limit is judged before a server is chosen, and counted when the connection is made. So a packet that XDP passes to
 * TC counts once. CPUs that judge at the same time may each let one more pass.
 */
#pragma once
#include "abi/config.h"
#include "ctx/scratch.h"
#include "lib/address.h"

/* Return the rule of the longest prefix that has the client, or NULL. */
INLINE const struct client_rule *client_rule_of(const struct address *client, u32 service, u32 set)
{
	struct client_prefix key = {.bits = RULE_SET_BITS + 128, .service = service, .set = set, .network = *client};
	return bpf_map_lookup_elem(&client_rules, &key);
}

INLINE struct limited_client limited_key(const struct client_rule *rule, const struct address *client, u32 service,
					   u32 added)
{
	struct limited_client key = {.interval_ns = rule->interval_ns,
				     .service = service,
				     .added = added,
				     .bits = rule->client_bits,
				     .address = *client};
	mask_client(&key.address, key.bits, true);
	return key;
}

enum { RULE_LIMITS = 1 << 8 }; /* added to a reason: the rule has a limit */

/* Return why the rules refuse the packet, or REASON_NONE; with RULE_LIMITS if the rule has a limit. */
VERIFIED_ONCE u32 judge_client(const struct packet *p, u32 service, u32 added, u32 set)
{
	struct address client = {};
	if (!p)
		return REASON_NONE;
	packet_saddr(&client, p);
	const struct client_rule *rule = client_rule_of(&client, service, set);
	if (!rule || (rule->action == CLIENT_ALLOW && !rule->interval_ns))
		return REASON_NONE;
	u32 passed = rule->action == CLIENT_PASS ? REASON_CLIENT_PASSED : 0;
	if (!rule->interval_ns)
		return passed ?: REASON_CLIENT_DENIED;
	struct limited_client key = limited_key(rule, &client, service, added);
	u64 *due = bpf_map_lookup_elem(&limited_clients, &key);
	if (!due || (s64)(READ_ONCE(*due) - bpf_ktime_get_ns()) <= (s64)((rule->burst - 1) * rule->interval_ns))
		return RULE_LIMITS;
	return RULE_LIMITS | (passed ?: REASON_CLIENT_LIMITED);
}

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
