/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Martians: saddrs and daddrs that the kernel's input rejects.
 */
#pragma once
#include "abi/config.h"
#include "ctx/device.h"
#include "parse/packet.h"
#include "policy/rp_filter.h"

/* Whether the kernel's input would accept the daddr: not a loopback address from another host. */
INLINE bool is_valid_daddr(const struct packet *p)
{
	struct address daddr = {};
	packet_daddr(&daddr, p);
	return p->from_host || !is_loopback_address(&daddr, p->is_ipv6 ? 6 : 4);
}

/* Whether the kernel's input would accept the saddr on this device. */
INLINE bool is_valid_saddr(struct ctx ctx, const struct packet *p)
{
	u32 input = input_of(ctx, p), all = 0;
	struct address saddr = {};
	if (p->from_host)
		return true;
	if (p->is_ipv6) {
		const struct address *a = &p->tuple.v6.saddr;
		return !is_loopback_address(a, 6) && (a->word[0] & bpf_htonl(0xff000000)) != bpf_htonl(0xff000000);
	}
	saddr.word[0] = p->tuple.v4.saddr;
	u32 first = bpf_ntohl(saddr.word[0]) >> 24;
	if (first == 0 || first == 127 || first >> 4 == 14 || saddr.word[0] == 0xffffffff)
		return false;
	if (likely(!p->maybe_rs) || !bpf_map_lookup_elem(&locals, &saddr))
		return passes_rp_filter(ctx, p);
	return bpf_map_lookup_elem(&accept_locals, &input) || bpf_map_lookup_elem(&accept_locals, &all);
}
