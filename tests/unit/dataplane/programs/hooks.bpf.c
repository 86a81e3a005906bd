/* Programs for the hooks of a device: pylvs's by their names, and a foreign one. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) value *name

enum hook { AT_XDP, AT_TC, AT_EGRESS, HOOKS };

struct { __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, __u64);
         __uint(max_entries, HOOKS); } seen SEC(".maps");
const volatile enum hook last = HOOKS;

static void *(*const lookup)(void *, const void *) = (void *)1;

static void count(__u32 hook)
{
    __u64 *value = lookup(&seen, &hook);

    if (value)
        __sync_fetch_and_add(value, 1);
}

SEC("xdp") int pylvs_xdp(struct xdp_md *ctx)
{
    count(ctx->data ? AT_XDP : last);
    return XDP_PASS;
}

SEC("xdp") int foreign_xdp(struct xdp_md *ctx)
{
    return ctx->data ? XDP_PASS : XDP_ABORTED;
}

SEC("tc") int pylvs_tc(struct __sk_buff *skb)
{
    count(skb->len ? AT_TC : last);
    return TC_ACT_UNSPEC;
}

SEC("tc") int pylvs_egress(struct __sk_buff *skb)
{
    count(skb->len ? AT_EGRESS : last);
    return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
