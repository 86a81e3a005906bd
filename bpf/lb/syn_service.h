/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The service of a SYN, found before other programs run: for floods (fwd/stateless.h, fwd/refused.h).
 */
#pragma once
#include "lb/service.h"
#include "policy/standby.h"
#include "policy/synflood.h"

/* Whether rules that only the general path knows may decide about the packet. */
INLINE bool needs_general_path(const struct packet *p, const struct root *root, u32 live, u32 now)
{
	return !may_be_plain_syn(p) || is_only_backup(root) || facts_in(root, live)->marks ||
	       root->settings.drop_packet == SYNFLOOD_ON || may_be_copied(now) ||
	       (root->standby && daddr_is_standby(p, root));
}

/* Return the slot of the packet's service, or NO_SERVICE. */
INLINE u32 service_of_flood(const struct packet *p, u32 live)
{
	struct recent_service *recent = map_elem(recent_services, 0);
	be16 port = packet_dport(p);
	u64 first = packet_daddr4(p), second = 0;
	if (p->is_ipv6) {
		first = addresses_of6(&p->tuple.v6)[2];
		second = addresses_of6(&p->tuple.v6)[3];
	}
	if (!recent)
		return NO_SERVICE;
	u64 other = (first ^ recent->address[0]) | (second ^ recent->address[1]) | (port ^ recent->port) |
		    (p->is_ipv6 ^ recent->is_ipv6) | (live ^ recent->live);
	if (likely(!other))
		return recent->slot;
	u32 slot = service_at(p, port, live);
	if (slot != NO_SERVICE && !is_dry())
		*recent = (struct recent_service){{first, second}, port, p->is_ipv6, live, slot};
	return slot;
}
