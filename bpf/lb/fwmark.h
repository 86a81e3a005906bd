/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Firewall marks of packets without a connection. Netfilter sets marks only after XDP and TC, so pylvs evaluates rules
 * of its own, like a chain of the mangle table: in order, each may change the mark, and a match may skip rules.
 *
 * The initial mark is the one that a filter of tc has set. XDP cannot see it, and passes packets whose result depends
 * on it to TC.
 */
#pragma once
#include "ctx/device.h"
#include "lb/service.h"

enum { ETH_SOURCE_AT = 6 /* offset in the frame */, TCP_FLAGS_AT = 13 /* offset in the TCP header */, TCP_FLAG_ACK = 16 };

/* Return the mark of a health check through a virtual address; 0 for all other packets. */
INLINE u32 probe_mark(struct ctx ctx, const struct packet *p)
{
	if (likely(!p->from_host) || ctx.hook == HOOK_XDP)
		return 0;
	u32 mark = ctx.skb->mark;
	return mark >> PROBE_MARKS_SHIFT == PROBE_MARKS >> PROBE_MARKS_SHIFT ? mark : 0;
}

struct mark_ctx {
	struct scratch *w;
	u32 first;
};

INLINE bool in_network(const struct address *a, const struct address *network, const struct address *mask)
{
	u32 apart = (a->word[0] & mask->word[0]) ^ network->word[0];
	apart |= (a->word[1] & mask->word[1]) ^ network->word[1];
	apart |= (a->word[2] & mask->word[2]) ^ network->word[2];
	apart |= (a->word[3] & mask->word[3]) ^ network->word[3];
	return !apart;
}

struct port_ranges {
	struct port_range each[PORT_RANGES];
};

VERIFIED_ONCE int in_port_ranges(u32 port, const struct port_ranges *ranges, u32 count)
{
	if (!ranges)
		return false;
#pragma nounroll
	for (u32 i = 0; i < PORT_RANGES && i < count; i++) {
		if (port >= ranges->each[i].first && port <= ranges->each[i].last)
			return true;
	}
	return false;
}

INLINE bool in_ranges(u32 port, const struct port_range *ranges, u32 count)
{
	return in_port_ranges(port, (const void *)ranges, count);
}

/* Apply the rule's negation flag. */
INLINE bool match_inverted(bool yes, u32 flags, u32 inverted)
{
	return yes != !!(flags & inverted);
}

INLINE bool rule_matches_addresses(const struct mark_rule *r, const union tuple *tuple, bool is_ipv6)
{
	struct address saddr = {}, daddr = {};
	tuple_saddr(&saddr, tuple, is_ipv6);
	tuple_daddr(&daddr, tuple, is_ipv6);
	return match_inverted(in_network(&saddr, &r->saddr, &r->saddr_mask), r->flags, MARK_NOT_SADDR) &&
	       match_inverted(in_network(&daddr, &r->daddr, &r->daddr_mask), r->flags, MARK_NOT_DADDR);
}

INLINE bool rule_matches_ports(const struct mark_rule *r, const struct packet *p)
{
	u32 sport = bpf_ntohs(packet_sport(p));
	u32 dport = bpf_ntohs(packet_dport(p));
	if (!(r->sport_ranges | r->dport_ranges))
		return true;
	if (!has_ports(p->protocol) || p->by_inner == BY_INNER_CONNECT)
		return false;
	return (!r->sport_ranges ||
		match_inverted(in_ranges(sport, r->sports, r->sport_ranges), r->flags, MARK_NOT_SPORTS)) &&
	       (!r->dport_ranges ||
		match_inverted(in_ranges(dport, r->dports, r->dport_ranges), r->flags, MARK_NOT_DPORTS));
}

INLINE bool rule_matches(const struct mark_rule *r, const struct scratch *w, struct mark_state *seen)
{
	const struct packet *p = &w->packet;
	u32 flags = r->flags, protocol = p->protocol;
	if (p->by_inner == BY_INNER_CONNECT)
		protocol = p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	if (r->family && r->family != (p->is_ipv6 ? 6 : 4))
		return false;
	if (r->protocol && !match_inverted(r->protocol == protocol, flags, MARK_NOT_PROTOCOL))
		return false;
	if (r->device && !match_inverted(r->device == seen->device, flags, MARK_NOT_DEVICE))
		return false;
	if (flags & MARK_BY_TOS && !match_inverted((p->tos & r->tos_mask) == r->tos, flags, MARK_NOT_TOS))
		return false;
	if (flags & MARK_BY_TCP_FLAGS) {
		if (protocol != IPPROTO_TCP ||
		    !match_inverted((seen->tcp_flags & r->tcp_flags_mask) == r->tcp_flags, flags, MARK_NOT_TCP_FLAGS))
			return false;
	}
	if (flags & MARK_BY_LINK) {
		const u16 *a = (const void *)seen->link, *b = (const void *)r->link;
		if (!match_inverted(!((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2])), flags, MARK_NOT_LINK))
			return false;
	}
	if (!rule_matches_addresses(r, marked_tuple(w), p->is_ipv6) || !rule_matches_ports(r, p))
		return false;
	if (flags & MARK_BY_MARK) {
		if (r->asked_mark_mask & ~seen->known)
			seen->unsure = 1;
		return match_inverted((seen->mark & r->asked_mark_mask) == r->asked_mark, flags, MARK_NOT_MARK);
	}
	return true;
}

static int mark_step(u32 index, struct mark_ctx *walk)
{
	struct scratch *w = walk->w;
	struct mark_state *seen = &w->marks;
	if (index < seen->next)
		return 0;
	struct mark_rule *r = map_elem(mark_rules, walk->first + index);
	if (!r)
		return 1;
	u32 skip = r->else_skip;
	if (rule_matches(r, w, seen)) {
		seen->mark = (seen->mark & ~r->mask) ^ r->value;
		seen->known |= r->mask;
		skip = r->then_skip;
	}
	seen->next = index + 1 + skip;
	return seen->unsure != 0;
}

/* Evaluate the rules; the mark is in w->marks. Return false if only TC can decide. At TC also store the mark in the
 * skb, so that policy routing sees it if the packet passes to the stack. The packet inside an ICMP error is a reply
 * to the one that the rules match, which had an ACK. */
INLINE bool find_mark(struct ctx ctx, struct scratch *w, const struct facts *facts)
{
	struct mark_state *seen = &w->marks;
	struct packet *p = &w->packet;
	struct mark_ctx walk = {.w = w, .first = facts->first_mark_rule};
	seen->mark = ctx.hook == HOOK_TC ? ctx.skb->mark : 0;
	seen->known = ctx.hook == HOOK_TC ? ~0u : 0;
	seen->unsure = 0;
	seen->next = 0;
	u32 count = facts->mark_rules;
	if (count) {
		u8 link[8] = {}, flags = 0;
		u32 at = p->l4 + TCP_FLAGS_AT;
		seen->device = ctx_ifindex(ctx);
		if (ctx.hook == HOOK_XDP) {
			bpf_xdp_load_bytes(ctx.xdp, ETH_SOURCE_AT, link, 6);
			if (p->protocol == IPPROTO_TCP)
				bpf_xdp_load_bytes(ctx.xdp, at, &flags, 1);
		} else {
			bpf_skb_load_bytes(ctx.skb, ETH_SOURCE_AT, link, 6);
			if (p->protocol == IPPROTO_TCP && p->by_inner)
				flags = TCP_FLAG_ACK;
			else if (p->protocol == IPPROTO_TCP)
				bpf_skb_load_bytes(ctx.skb, at, &flags, 1);
		}
		__builtin_memcpy(seen->link, link, 6);
		seen->tcp_flags = flags;
		bpf_loop(count < MARK_RULES ? count : MARK_RULES, mark_step, &walk, 0);
		if (ctx.hook == HOOK_TC && p->by_inner != BY_INNER_HASH)
			ctx.skb->mark = seen->mark;
	}
	return !seen->unsure && seen->known == ~0u;
}
