/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Persistence (IPVS-SEMANTICS 5). A template stores a client's destination, and outlives the client's connections. It
 * is an entry of the connection table whose tuple has the masked client, no client port, and the virtual address. It
 * cannot expire while connections refer to it. In the tuple of a SIP call a hash replaces the addresses
 * (lb/call_template.h).
 */
#pragma once
#include "conntrack/insert.h"
#include "conntrack/lookup.h"
#include "conntrack/update.h"
#include "ctx/scratch.h"
#include "lb/destination.h"

/* Whether the template covers the service's own port only, so that it can store the real server's port. */
INLINE bool is_for_one_port(const struct scratch *w)
{
	return packet_dport(&w->packet) == w->service.port && w->service.port != bpf_htons(PORT_FTP);
}

/* A service with one port has a template per client. The template of FTP, or of all ports, covers all of the client's
 * ports. That of a firewall mark covers all protocols and addresses, too (5.1). */
INLINE void template_key(struct scratch *w)
{
	const struct packet *p = &w->packet;
	be16 port = is_for_one_port(w) ? w->service.port : 0;
	bool marked = w->service.mark && !is_for_one_port(w);
	u8 protocol = marked ? 0 : p->protocol;
	union tuple *key = &w->template.tuple;
	struct address client = {};
	if (p->is_ipv6) {
		client = p->tuple.v6.saddr;
		mask_client(&client, w->service.netmask, true);
		key->v6.saddr = client;
		key->v6.daddr = p->tuple.v6.daddr;
		if (marked)
			key->v6.daddr = (struct address){.word = {bpf_htonl(w->service.mark)}};
		key->v6.sport = 0;
		key->v6.dport = port;
		key->v6.protocol = protocol;
		key->v6.kind = TUPLE_TEMPLATE;
		key->v6.pad = 0;
		return;
	}
	client.word[0] = p->tuple.v4.saddr;
	mask_client(&client, w->service.netmask, false);
	key->v4.saddr = client.word[0];
	key->v4.daddr = marked ? bpf_htonl(w->service.mark) : p->tuple.v4.daddr;
	key->v4.sport = 0;
	key->v4.dport = port;
	key->v4.protocol = protocol;
	key->v4.kind = TUPLE_TEMPLATE;
}

/* Whether the template's entry has the form of IPv6. */
INLINE bool template_is_ipv6(const struct scratch *w)
{
	return w->packet.is_ipv6 || w->template.by_call;
}

INLINE struct found find_template(const struct scratch *w)
{
	return find_tuple(&w->template.tuple, template_is_ipv6(w));
}

/* Whether a template still decides (5.4). */
INLINE bool is_valid_template(u32 flags, const struct root *root)
{
	return flags & DESTINATION_AVAILABLE &&
	       !(flags & DESTINATION_QUIESCED && root->settings.expire_quiescent_template);
}

/* Retire a template whose destination is gone. It stays listed, with port 65535, until its timeout (5.4). */
INLINE void retire_template(struct scratch *w, const struct found *template)
{
	u64 *word = &template->connection->word, seen = READ_ONCE(*word);
	if (word_dying(seen) || !is_complete(template->slot) || is_dry())
		return;
	if (__sync_val_compare_and_swap(word, seen, seen | 1ULL << WORD_DYING) != seen)
		return;
	struct key key = {};
	set_key(&key, &w->template.tuple, template_is_ipv6(w));
	if (unlink_entry(&key, template->slot)) { /* it stays in its slot, under a tuple that no packet has */
		template->connection->port = 0xffff;
		key.rest = (key.rest & ~(0xffULL << REST_KIND | 0xffffULL << 16)) | 0xffffULL << 16 |
			   (u64)TUPLE_RETIRED << REST_KIND | (key.rest & REST_IPV6);
		publish_entry(&key, template->slot, false);
		mark_complete(template->slot);
	}
	WRITE_ONCE(*word, seen);
}

enum { REF_TRIES = 8 }; /* other CPUs may refresh the template at the same time */

/* Take a reference for a connection that will be created, and refresh the template (5.3). Return false if the template
 * has ended. The reference is counted first: if the exchange succeeds, a CPU that ends the template afterwards finds
 * the count. If it fails, the slot may have a new owner, which keeps the count, so that the reference can be given
 * back. */
INLINE bool ref_template(struct scratch *w, u32 now)
{
	if (is_dry())
		return true;
	struct control *control = control_of(w->template.slot);
	struct found found = find_template(w);
	struct connection *template = found.connection;
	if (!control || !template || found.slot != w->template.slot)
		return false;
	u64 first = READ_ONCE(template->word), seen = first;
	if (word_state(first) != STATE_TEMPLATE)
		return false;
	__sync_fetch_and_add(&control->controls, 1);
	if (unlikely(!control->timeout)) /* it was to end with its last connection */
		WRITE_ONCE(control->timeout, w->service.timeout);
#pragma nounroll
	for (u32 i = 0; i < REF_TRIES; i++) {
		if (word_dying(seen) || (seen ^ first) >> WORD_STATE)
			break;
		u64 refreshed = make_word(STATE_TEMPLATE, now + control->timeout, seen >> WORD_GENERATION);
		u64 before = __sync_val_compare_and_swap(&template->word, seen, refreshed);
		if (likely(before == seen))
			return true;
		seen = before;
	}
	__sync_fetch_and_add(&control->controls, -1);
	return false;
}

/* Drop the reference again: no connection was created. */
INLINE void unref_template(struct scratch *w)
{
	if (w->template.slot != NO_TEMPLATE)
		add_references(w->template.slot, -1);
}
