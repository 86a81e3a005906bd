/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The end of a packet. Each packet that an attached device receives is counted once: as forwarded, passed, dropped or
 * held, by device, and by a reason (enum reason); also by service where there is one.
 *
 *	pass_for, drop, hold -----> an end with its reason ----> `finish` counts it, and returns the kernel's verdict
 *	most packets that pass ---------------------------------> `finish_plain`
 *	XDP_TX, a redirect -------> sent. fwd/account.h has counted it for its destination, or count_forwarded
 *	XDP_PASS, any at XDP -----> TC receives the packet next, and counts its end
 *
 * A packet that was counted as forwarded, and ends otherwise, is subtracted. One that re-enters is not received again.
 */
#pragma once
#include "abi/percpu.h"
#include "ctx/device.h"
#include "parse/packet.h"

INLINE u32 plain_reason(enum plain plain)
{
	switch (plain) {
	case PLAIN_NO_SERVICE:
		return REASON_NO_SERVICE;
	case PLAIN_OTHER_HOST:
		return REASON_OTHER_HOST;
	default:
		return REASON_NOT_IP;
	}
}

/* Count packets of a device that passed by the plain reasons, among those of all. */
INLINE void move_plain(const struct device_packets *row)
{
#pragma unroll
	for (u32 i = 0; i < PLAINS; i++) {
		u64 *counter = map_elem(reasons, plain_reason(i));
		if (counter)
			*counter += row->plain[i];
	}
}

/* Return this CPU's row of a device. Devices whose ifindexes have one remainder replace each other. */
INLINE struct device_packets *device_row(u32 ifindex)
{
	struct device_packets *row = map_elem(device_packets, ifindex % DEVICES);
	if (!row || likely(row->ifindex == ifindex))
		return row;
	move_plain(row);
	*row = (struct device_packets){.ifindex = ifindex};
	return row;
}

/* Add to the packets of a device that a hook has forwarded. */
VERIFIED_ONCE int add_forwarded(u32 ifindex, u32 hook, u64 packets)
{
	struct device_packets *row = packets ? device_row(ifindex) : NULL;
	if (row)
		row->forwarded[hook & 1] += packets;
	return 0;
}

/* Count a packet as forwarded that counts for no destination. */
INLINE void count_forwarded(struct ctx ctx, struct packet *p)
{
	if (!p->counted)
		add_forwarded(p->input, ctx.hook, 1);
	p->counted = 1;
}

/* Add to the ends of packets of a service. */
VERIFIED_ONCE int add_for_service(u32 service, u32 added, u32 reason, u64 packets)
{
	struct service_reason key = {.service = service, .added = added, .reason = reason};
	u64 *counter = bpf_map_lookup_elem(&service_reasons, &key);
	if (unlikely(!counter)) {
		if (!bpf_map_update_elem(&service_reasons, &key, &packets, BPF_NOEXIST))
			return 0;
		counter = bpf_map_lookup_elem(&service_reasons, &key); /* another CPU was first */
	}
	if (counter)
		*counter += packets;
	else
		count(REASON_SERVICE_UNCOUNTED);
	return 0;
}

/* Count an end of a packet of a service. */
INLINE void count_for_service(u32 service, u32 added, u32 reason)
{
	add_for_service(service, added, reason, 1);
}

INLINE u32 reason_of(int result)
{
	return result >> END_REASON & 0xff;
}

/* Count the end of a packet. */
VERIFIED_ONCE int count_end(u32 ifindex, u32 hook, u32 result)
{
	u32 end = result >> END_KIND & 3;
	struct device_packets *row = end == END_FORWARDED ? NULL : device_row(ifindex);
	if (!row)
		return 0;
	count(reason_of(result));
	row->ended[end] += 1;
	if (result & END_COUNTED)
		row->forwarded[hook & 1] -= 1;
	return 0;
}

/* Count the end of a packet for its service, too, unless XDP passes it: TC will do that. */
INLINE int end_of(struct ctx ctx, const struct owner *owner, int result)
{
	if (ctx.hook == HOOK_TC || (s8)result != XDP_PASS)
		count_for_service(owner->service - 1, owner->added, reason_of(result));
	return result | END_OF_SERVICE;
}

/* Metadata of a packet that XDP has decided to pass. */
struct decided {
	u32 reason; /* plus decided_word */
	struct owner owner;
};

/* Pass a packet that opens no connection, after an expensive decision. TC would decide the same again: metadata tell it.
 * Where TC does not see them, TC decides: drivers without metadata, and frames that generic XDP had to copy. */
INLINE int pass_decided(struct ctx ctx, const struct owner *owner, u32 reason)
{
	if (ctx.hook == HOOK_XDP && !bpf_xdp_adjust_meta(ctx.xdp, -(int)sizeof(struct decided))) {
		struct decided *decided = (void *)(long)ctx.xdp->data_meta;
		if ((void *)(decided + 1) <= (void *)(long)ctx.xdp->data)
			*decided = (struct decided){decided_word + reason, *owner};
	}
	return pass_for(ctx.hook, reason);
}

/* Return what XDP has decided about a packet that passes, or NULL. In assembly: the compiler would share the load of the
 * pointer with others. Then it copies 32 bits, which the verifier takes for a number. */
INLINE const struct decided *decided_by_xdp(const struct __sk_buff *skb)
{
	const void *data;
	__asm__("%0 = *(u32 *)(%1 + %2)" : "=r"(data) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	const struct decided *decided = (void *)(long)skb->data_meta;
	bool is_there = (void *)(decided + 1) <= data;
	return is_there && decided->reason - decided_word < REASONS ? decided : NULL;
}

/* End the record of a traced packet. */
INLINE void trace_ended(int result)
{
	u32 reason = reason_of(result), end = result >> END_KIND & 3, verdict = TRACE_PASSED;
	if (!is_traced())
		return;
	if (reason != REASON_NONE)
		trace_reason(reason);
	if (end == END_DROPPED)
		verdict = TRACE_DROPPED;
	else if (end == END_HELD)
		verdict = TRACE_HELD;
	else if (end == END_FORWARDED && (s8)result == TC_SHOT) /* its segments or fragments were sent */
		verdict = TRACE_FORWARDED;
	trace_end(verdict);
}

/* Count the end of a packet that came by a device, and return the kernel's verdict. */
INLINE int finish_by(enum hook hook, u32 ifindex, int result)
{
	if (likely(!(result & ENDED)))
		return result;
	trace_ended(result);
	if (hook == HOOK_XDP && (s8)result == XDP_PASS)
		return XDP_PASS;
	count_end(ifindex, hook, result);
	return (s8)result;
}

INLINE int finish(struct ctx ctx, int result)
{
	return finish_by(ctx.hook, ctx_ifindex(ctx), result);
}

/* Likewise for a packet that XDP has decided to pass. */
INLINE int finish_decided(struct __sk_buff *skb, const struct decided *decided)
{
	u32 reason = decided->reason - decided_word;
	if (decided->owner.service)
		count_for_service(decided->owner.service - 1, decided->owner.added, reason);
	return finish(tc_ctx(skb), pass_for(HOOK_TC, reason));
}

VERIFIED_ONCE int count_first_plain(u32 ifindex, u32 plain)
{
	struct device_packets *row = device_row(ifindex);
	if (row && plain < PLAINS)
		row->plain[plain] += 1;
	return 0;
}

/* Likewise for packets that pass by the plain reasons, as most do. At XDP they do not count. */
INLINE int finish_plain(struct ctx ctx, enum plain plain)
{
	trace_ended(pass_for(ctx.hook, plain_reason(plain)));
	if (ctx.hook == HOOK_XDP)
		return XDP_PASS;
	u32 ifindex = ctx.skb->ifindex;
	struct device_packets *row = map_elem(device_packets, ifindex % DEVICES);
	if (likely(row) && likely(row->ifindex == ifindex))
		row->plain[plain] += 1;
	else
		count_first_plain(ifindex, plain);
	return TC_PASS;
}

/* Pass a packet that this host sends. Only a trace needs the reason: no device has received it. All get one value,
 * because the verifier follows each further one. */
INLINE int pass_sent(u32 reason)
{
	if (is_traced())
		trace_reason(reason);
	return pass_counted(HOOK_TC);
}

/* Count the end of a packet that this host sends, and return the kernel's verdict. The row of device 0 has those that
 * are dropped. */
INLINE int finish_sent(int result)
{
	if (!(result & ENDED))
		return result;
	trace_ended(result);
	if ((result >> END_KIND & 3) == END_DROPPED)
		count_end(NO_DEVICE, HOOK_TC, result);
	return (s8)result;
}
