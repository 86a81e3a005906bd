/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Kernel helpers, BTF-defined maps, and idioms for the compiler and the verifier.
 *
 * The table of helpers is this project's own, because the wheel is built with ziglang alone: it ships the kernel's UAPI
 * headers but not libbpf's bpf_helpers.h. The numbers are those of include/uapi/linux/bpf.h.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __be16 be16;
typedef __be32 be32;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

enum { EEXIST = 17 }; /* an error of map helpers */

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* Orders the compiler only. For the order that CPUs keep see docs/architecture.md, "Memory order". */
#define barrier() __asm__ volatile("" ::: "memory")
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

/* Return the same pointer or 64-bit index. Loads through it are ordered after the load of `value` on every CPU by an
 * address dependency, which the compiler cannot see through. It costs two instructions and no fence. Apply it before
 * the value is compared: where the compiler knows the value it takes a constant instead. */
#define AFTER(address, value) \
	({ \
		__typeof__(address) address_ = (address); \
		u64 nothing_ = (value); \
		__asm__ volatile("%1 &= 0\n\t%0 += %1" : "+r"(address_), "+r"(nothing_)); \
		address_; \
	})

/* Never called; it makes the build reproducible. Types that only pointers in __sk_buff name are not described by clang,
 * which lists them in the order of their addresses in its own memory. Types of parameters are described. */
__attribute__((used)) static int describe_types(struct bpf_flow_keys *keys, struct bpf_sock *sk)
{
	return 0;
}

/* BTF-defined maps, with the names of libbpf's bpf_helpers.h. */
#define __uint(name, value) int (*name)[value]
#define __type(name, value) __typeof__(value) *name
#define __array(name, value) __typeof__(value) *name[]

#define ARRAY_MAP(name, value_type, entries, flag_bits) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, entries); \
		__uint(map_flags, flag_bits); \
		__type(key, u32); \
		__type(value, value_type); \
	} name SEC(".maps")

#define PERCPU_MAP(name, value_type, entries) \
	struct { \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, entries); \
		__type(key, u32); \
		__type(value, value_type); \
	} name SEC(".maps")

#define HASH_MAP(name, key_type, value_type, entries, flag_bits) \
	struct { \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, entries); \
		__uint(map_flags, flag_bits); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

#define LRU_MAP(name, key_type, value_type, entries) \
	struct { \
		__uint(type, BPF_MAP_TYPE_LRU_HASH); \
		__uint(max_entries, entries); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

#define LPM_MAP(name, key_type, value_type, entries) \
	struct { \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE); \
		__uint(max_entries, entries); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

#define map_elem(map, index) \
	({ \
		u32 index_ = (index); \
		bpf_map_lookup_elem(&(map), &index_); \
	})

/* A global function: the verifier checks it once, for any arguments of the declared types, instead of at each call. */
#define VERIFIED_ONCE __attribute__((noinline))

#define HELPER(id, type, name, ...) static type (*const name)(__VA_ARGS__) __attribute__((unused)) = (void *)(id)
HELPER(1, void *, bpf_map_lookup_elem, void *map, const void *key);
HELPER(2, long, bpf_map_update_elem, void *map, const void *key, const void *value, u64 flags);
HELPER(3, long, bpf_map_delete_elem, void *map, const void *key);
HELPER(5, u64, bpf_ktime_get_ns, void);
HELPER(7, u32, bpf_get_prandom_u32, void);
HELPER(8, u32, bpf_get_smp_processor_id, void);
HELPER(9, long, bpf_skb_store_bytes, void *skb, u32 offset, const void *from, u32 length, u64 flags);
HELPER(10, long, bpf_l3_csum_replace, void *skb, u32 offset, u64 from, u64 to, u64 size);
HELPER(11, long, bpf_l4_csum_replace, void *skb, u32 offset, u64 from, u64 to, u64 flags);
HELPER(12, long, bpf_tail_call, void *ctx, void *programs, u32 index);
HELPER(13, long, bpf_clone_redirect, void *skb, u32 ifindex, u64 flags);
HELPER(19, long, bpf_skb_vlan_pop, void *skb);
HELPER(21, long, bpf_skb_set_tunnel_key, void *skb, const struct bpf_tunnel_key *key, u32 size, u64 flags);
HELPER(23, long, bpf_redirect, u32 ifindex, u64 flags);
HELPER(26, long, bpf_skb_load_bytes, const void *skb, u32 offset, void *to, u32 length);
HELPER(28, s64, bpf_csum_diff, be32 *from, u32 from_size, be32 *to, u32 to_size, u32 seed);
HELPER(38, long, bpf_skb_change_tail, void *skb, u32 length, u64 flags);
HELPER(39, long, bpf_skb_pull_data, void *skb, u32 length);
HELPER(43, long, bpf_skb_change_head, void *skb, u32 length, u64 flags);
HELPER(44, long, bpf_xdp_adjust_head, void *xdp, int delta);
HELPER(50, long, bpf_skb_adjust_room, void *skb, s32 difference, u32 mode, u64 flags);
HELPER(51, long, bpf_redirect_map, void *map, u64 key, u64 flags);
HELPER(54, long, bpf_xdp_adjust_meta, void *xdp, int delta);
HELPER(65, long, bpf_xdp_adjust_tail, void *xdp, int delta);
HELPER(68, long, bpf_skb_load_bytes_relative, const void *skb, u32 offset, void *to, u32 length, u32 start);
HELPER(69, long, bpf_fib_lookup, void *ctx, struct bpf_fib_lookup *params, int length, u32 flags);
HELPER(87, long, bpf_map_push_elem, void *map, const void *value, u64 flags);
HELPER(88, long, bpf_map_pop_elem, void *map, void *value);
HELPER(118, u64, bpf_jiffies64, void);
HELPER(125, u64, bpf_ktime_get_boot_ns, void);
HELPER(130, long, bpf_ringbuf_output, void *ring, const void *from, u64 size, u64 flags);
HELPER(131, void *, bpf_ringbuf_reserve, void *map, u64 size, u64 flags);
HELPER(132, void, bpf_ringbuf_submit, void *data, u64 flags);
HELPER(134, u64, bpf_ringbuf_query, void *map, u64 what);
HELPER(152, long, bpf_redirect_neigh, u32 ifindex, struct bpf_redir_neigh *params, int length, u64 flags);
HELPER(169, long, bpf_timer_init, struct bpf_timer *timer, void *map, u64 flags);
HELPER(170, long, bpf_timer_set_callback, struct bpf_timer *timer, void *callback);
HELPER(171, long, bpf_timer_start, struct bpf_timer *timer, u64 nanoseconds, u64 flags);
HELPER(181, long, bpf_loop, u32 count, void *callback, void *context, u64 flags);
HELPER(188, u64, bpf_xdp_get_buff_len, void *xdp);
HELPER(189, long, bpf_xdp_load_bytes, void *xdp, u32 offset, void *to, u32 length);
HELPER(190, long, bpf_xdp_store_bytes, void *xdp, u32 offset, const void *from, u32 length);
HELPER(195, void *, bpf_map_lookup_percpu_elem, void *map, const void *key, u32 cpu);
HELPER(208, u64, bpf_ktime_get_tai_ns, void);

#define swap16(x) __builtin_bswap16(x)
#define swap32(x) __builtin_bswap32(x)
#define bpf_htons(x) ((be16)swap16((u16)(x)))
#define bpf_htonl(x) ((be32)swap32((u32)(x)))
#define bpf_ntohs(x) swap16((u16)(x))
#define bpf_ntohl(x) swap32((u32)(x))

/* Access `type` at an offset of any alignment. */
#define WORD_AT(type, base, offset) (*(type *)((void *)(base) + (offset)))

/* Clear a block that is too long for an inlined memset. `bytes` is a multiple of 8. */
INLINE void memzero(void *at, u32 bytes)
{
	for (u32 i = 0; i < bytes / 8; i++)
		*(volatile u64 *)(at + 8 * i) = 0;
}

/* Hide a value's bounds from the compiler. Otherwise it removes the bounds check that follows, or checks another
 * register than the one used afterwards, and the verifier rejects the program. */
#define barrier_var(x) \
	({ \
		__typeof__(x) hidden_ = (x); \
		__asm__ volatile("" : "+r"(hidden_)); \
		hidden_; \
	})

/* Return 0 if the value is 0, else 1, without a branch. The compiler does not see that it adds the value's negative, so
 * it makes no comparison and no branch of it. */
INLINE u64 is_nonzero(u64 value)
{
	return (value | barrier_var(-value)) >> 63;
}

/* Whether a length is from 1 to `most`. Apply barrier_var to the length first. Linux 6.1 derives no bound from "is not
 * 0". */
#define IS_LENGTH(length, max) ((length) >= barrier_var(1) && (length) <= (max))

/* Call before bpf_loop, for a context on the stack: make the verifier forget these u32 fields. They get a pointer minus
 * a pointer added, which it takes for an unknown number. Linux 6.1 verifies a single step and assumes the values of
 * that step for all steps, so it would prune live branches. */
#define FORGET_BOUNDS(context, first, last) forget_bounds((u32 *)&(context).first, (u32 *)&(context).last)
INLINE void forget_bounds(u32 *first, const u32 *last)
{
	u64 nothing;
	__asm__ volatile("%0 = r10\n\t%0 -= r10" : "=r"(nothing));
#pragma unroll
	for (u32 i = 0; i <= last - first; i++)
		first[i] += nothing;
}
