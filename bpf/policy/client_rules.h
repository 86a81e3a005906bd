/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Client rules of a service: which clients may open connections, and how fast. Packets that have a connection are not
 * judged. A set of rules is never changed: an edit writes another one, and the version of the service names it.
 */
#pragma once
#include "abi/config.h"
#include "lib/address.h"
#include "parse/packet.h"

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
