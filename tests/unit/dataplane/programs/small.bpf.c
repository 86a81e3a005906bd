/* A small program with each construct that the loader and the layout reader must understand. */
#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) value *name
#define __array(name, value) __typeof__(value) *name[]

enum abi { ABI_NUMBER = 7 };
enum sign { BELOW = -1, ABOVE = 1 };
struct peer { __u32 address; __be16 port; __u8 tag[2]; };
struct record {
    union { __u32 v4; __u32 v6[4]; };
    struct peer peer;
    __u64 seen;
    __s32 delta;
    enum sign sign;
    struct peer trail[2];
    struct { __u16 low, high; } pair;
};

struct { __uint(type, BPF_MAP_TYPE_HASH); __type(key, struct peer); __type(value, struct record);
         __uint(max_entries, 128); } records SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u64);
         __uint(max_entries, 16); __uint(map_flags, BPF_F_MMAPABLE); } words SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __type(key, __u32); __type(value, __u64);
         __uint(max_entries, 4); } hits SEC(".maps");
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u32); __uint(max_entries, 8); };
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __type(key, __u32); __uint(max_entries, 2);
         __array(values, struct inner); } tables SEC(".maps");

const volatile __u32 step = 1;
const volatile struct { enum abi number; __u32 rounds; } chosen = {.number = ABI_NUMBER, .rounds = 3};
__u64 calls;

static void *(*const lookup)(void *, const void *) = (void *)1;

static int count(void)
{
    __u32 zero = 0;
    __u64 *hit = lookup(&hits, &zero), *word = lookup(&words, &zero);

    if (hit)
        *hit += step;
    if (word)
        *word += chosen.rounds;
    calls++;
    return lookup(&tables, &zero) != 0;
}

SEC("xdp.frags") int small_xdp(struct xdp_md *ctx)
{
    struct peer key = {.address = ctx->ingress_ifindex};

    count();
    return lookup(&records, &key) ? XDP_DROP : XDP_PASS;
}

SEC("tc") int small_tc(struct __sk_buff *skb)
{
    count();
    return skb->len ? 0 : 2;
}

static long (*const loop)(__u32, void *, void *, __u64) = (void *)181; /* bpf_loop */

static int idle(__u32 i, void *context) { return 0; }
static int idle_longer(__u32 i, void *context) { loop(1 << 10, idle, 0, 0); return 0; }

SEC("tc") int small_slow(struct __sk_buff *skb) /* runs for some tenths of a second */
{
    __u32 began = 14, ended = 15;
    __u64 *first = lookup(&words, &began), *last = lookup(&words, &ended);

    if (!first || !last)
        return 0;
    *(volatile __u64 *)first = 1;
    loop(1 << 17, idle_longer, 0, 0);
    *(volatile __u64 *)last = 1;
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
