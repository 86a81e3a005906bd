/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The MSS clamp of a service: the option MSS of TCP's SYNs is made no larger than the service's (RFC 9293, 3.7.1). It
 * limits the segments that the receiver of the SYN sends. A SYN without the option is not changed: its sender then
 * gets segments of 536 or 1,220 bytes at most.
 */
#pragma once
#include "abi/config.h"
#include "ctx/scratch.h"
#include "lib/csum.h"
#include "lib/headers.h"

enum {
	TCP_OPTIONS = 40,
	TCP_CHECK_AT = 16,
	OPTION_END = 0,
	OPTION_NOP = 1,
	OPTION_MSS = 2,
	OPTION_MSS_LENGTH = 4,
};

INLINE bool load_bytes(struct ctx ctx, u32 at, void *to, u32 length)
{
	return ctx.hook == HOOK_XDP ? !bpf_xdp_load_bytes(ctx.xdp, at, to, length)
				    : !bpf_skb_load_bytes(ctx.skb, at, to, length);
}

struct mss_walk {
	struct tcp_options *options;
};

/* Look at the next option; a step of bpf_loop. The state is not on the stack, where the verifier would follow it. */
static int mss_step(u32 index, struct mss_walk *walk)
{
	struct tcp_options *o = walk->options;
	u32 at = o->at;
	if (at > TCP_OPTIONS - OPTION_MSS_LENGTH || at + OPTION_MSS_LENGTH > o->size)
		return 1;
	u8 kind = o->bytes[at], length = o->bytes[at + 1];
	if (kind == OPTION_MSS && length == OPTION_MSS_LENGTH)
		o->mss_at = at + 2;
	if (kind == OPTION_MSS || kind == OPTION_END || (kind != OPTION_NOP && length < 2))
		return 1;
	o->at = at + (kind == OPTION_NOP ? 1 : length);
	return 0;
}

/* Write the MSS, and update the checksum by its difference. A value that begins in the middle of a word is in two words
 * of the sum. */
INLINE void store_mss(struct ctx ctx, u32 l4, u32 at, be16 old, be16 new)
{
	u32 check_at = l4 + TCP_CHECK_AT;
	be16 from = at & 1 ? __builtin_bswap16(old) : old, to = at & 1 ? __builtin_bswap16(new) : new;
	at += l4 + TCP_HLEN;
	if (ctx.hook == HOOK_TC) { /* the helper knows checksums that are unfinished */
		if (!bpf_l4_csum_replace(ctx.skb, check_at, from, to, 2))
			bpf_skb_store_bytes(ctx.skb, at, &new, sizeof(new), 0);
		return;
	}
	u16 check;
	if (bpf_xdp_load_bytes(ctx.xdp, check_at, &check, sizeof(check)))
		return;
	check = csum_replace(check, (u64)(u16)~from + to);
	bpf_xdp_store_bytes(ctx.xdp, check_at, &check, sizeof(check));
	bpf_xdp_store_bytes(ctx.xdp, at, &new, sizeof(new));
}

INLINE int clamp_to_service(struct ctx ctx, u32 l4, u32 slot, u32 added, u64 live)
{
	struct service *service = map_elem(services, slot);
	struct scratch *w = scratch_of(ctx.hook);
	if (!service || !w)
		return 0;
	const struct service_version *version = version_in_force(service, live);
	u32 most = version->mss_clamp;
	u8 words;
	if (!most || version->added != added || !load_bytes(ctx, l4 + 12, &words, 1))
		return 0;
	u32 size = barrier_var((words >> 4 << 2) - TCP_HLEN);
	if (!IS_LENGTH(size, TCP_OPTIONS) || !load_bytes(ctx, l4 + TCP_HLEN, w->tcp_options.bytes, size))
		return 0;
	w->tcp_options.at = w->tcp_options.mss_at = 0;
	w->tcp_options.size = size;
	struct mss_walk walk = {.options = &w->tcp_options};
	bpf_loop(TCP_OPTIONS, mss_step, &walk, 0);
	u32 at = w->tcp_options.mss_at;
	be16 old;
	if (at && load_bytes(ctx, l4 + TCP_HLEN + at, &old, sizeof(old)) && bpf_ntohs(old) > most)
		store_mss(ctx, l4, at, old, bpf_htons(most));
	return 0;
}

GLOBAL_OF_HOOKS(int, clamp_syn, clamp_to_service, (u32 l4, u32 slot, u32 added, u64 live), (l4, slot, added, live))

/* Clamp the MSS of a SYN to or from a real server. Other packets cost one comparison, SYNs one more while no service has
 * a clamp. */
INLINE void clamp_mss(struct ctx ctx, const struct packet *p, const struct destination *d, const struct root *root)
{
	u64 live = READ_ONCE(root->live);
	if (unlikely(p->syn) && p->protocol == IPPROTO_TCP && unlikely(facts_in(root, live)->mss_clamps))
		clamp_syn(ctx, p->l4, d->service, d->service_added, live);
}
