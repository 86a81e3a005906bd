/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Queues of fragments (RFC 791, RFC 8200 4.5). IPVS runs behind the kernel's reassembly, but TC before it, so the
 * director reassembles by itself.
 *
 * The rules are those of the kernel's queues. A fragment within a run of consecutive earlier ones is a duplicate, and
 * ignored. Any other overlap drops the whole packet; a contradiction about its end does so for IPv4 only. A queue is
 * one of the DEFRAG_WAYS elements that its key selects; a lock protects them together. If all are in use, the oldest
 * one is replaced.
 */
#pragma once
#include "abi/conntrack.h"
#include "ctx/scratch.h"

enum {
	DEFRAG_SETS = 32,
	DEFRAG_WAYS = 8,
	DEFRAG_PAYLOAD = 15872, /* the longest payload: TC allocates no longer packets (SKB_MAX_ALLOC) */
	DEFRAG_CHUNK = 2048,
	DEFRAG_HEAD = 256, /* bytes of headers before the fragment header */
	DEFRAG_BYTES = FRAG_WORDS * 64 * 8 + DEFRAG_CHUNK,
	/* Attempts to take the lock, then the fragment is dropped: about as long as the lock's owner copies a
	 * packet. */
	DEFRAG_LOCK_TRIES = 512,
	DEFRAG_TIMEOUT4_S = 30, /* net.ipv4.ipfrag_time */
	DEFRAG_TIMEOUT6_S = 60, /* IPV6_FRAG_TIMEOUT */
};

struct frag_queue {
	struct address saddr;
	struct address daddr;
	u32 id;
	u32 kind; /* protocol | IPv6 << 8 | in use << 9 */
	u32 created; /* ticks */
	u32 length; /* of the payload; final if `ended` */
	u32 received; /* bytes of the payload received */
	u32 tail; /* end of the furthest fragment */
	u32 ended; /* the last fragment was seen */
	u32 largest; /* length of the longest fragment, with its IP headers */
	u32 largest_df; /* likewise among those with DF */
	u32 least_head; /* shortest IP headers of a fragment other than the first */
	u32 head; /* length of the first fragment's IP headers; 0: not received */
	u32 next_at; /* IPv6: offset of the byte that names the fragment header */
	u32 next; /* IPv6: the header behind the fragment header */
	u32 tailroom; /* free bytes in the kernel's buffer of the first fragment */
	u32 ecn; /* one bit for each codepoint received */
	u32 moment; /* `created` in units of 1024 ns: many packets begin in one tick */
	u64 covered[FRAG_WORDS]; /* one bit for each 8 bytes received */
	u64 starts[FRAG_WORDS]; /* likewise: a fragment starts there */
	u64 runs[FRAG_WORDS]; /* likewise: a run starts there */
	u8 headers[DEFRAG_HEAD];
	u8 bytes[DEFRAG_BYTES];
};

ARRAY_MAP(frag_queues, struct frag_queue, DEFRAG_SETS * DEFRAG_WAYS, 0);
ARRAY_MAP(frag_locks, u32, DEFRAG_SETS, 0);

/* A received fragment. */
struct fragment {
	struct address saddr;
	struct address daddr;
	u32 id;
	u32 kind;
	u32 offset; /* of its payload */
	u32 end;
	u32 more; /* MF flag */
	u32 head; /* length of the IP headers, including the fragment header */
	u32 df;
	u32 ecn;
	u32 payload_at; /* offset in the frame */
	u32 is_ipv6;
	u32 length; /* of the fragment, as the kernel counts it */
};

enum defrag_result { DEFRAG_HELD, DEFRAG_COMPLETE, DEFRAG_DUPLICATE, DEFRAG_CONFLICT, DEFRAG_REFUSED, DEFRAG_LOCKED };

/* --- find a queue --- */

struct lock_ctx {
	u32 *lock;
	u32 taken;
};

static int lock_step(u32 index, struct lock_ctx *l)
{
	l->taken = __sync_val_compare_and_swap(l->lock, 0, 1) == 0;
	return l->taken;
}

INLINE bool try_lock(u32 *lock)
{
	struct lock_ctx l = {.lock = lock};
	bpf_loop(DEFRAG_LOCK_TRIES, lock_step, &l, 0);
	return l.taken;
}

INLINE void unlock(u32 *lock)
{
	__sync_lock_test_and_set(lock, 0);
}

/* Return the hash of a fragment's packet. It has a key, so a sender cannot choose packets of one set. They would
 * displace those of others, and keep every CPU at one lock. */
INLINE u64 packet_hash(const struct fragment *f)
{
	u64 mixed = f->id | (u64)f->kind << 32;
	for (int i = 0; i < 4; i++) {
		mixed = (mixed ^ (f->saddr.word[i] | (u64)f->daddr.word[i] << 32)) * table_key.seeds[0];
		mixed ^= mixed >> 32;
	}
	return mixed;
}

/* Return the number of a packet's set, of so many: a power of two. */
INLINE u32 set_number(u64 hash, u32 sets)
{
	return hash * table_key.seeds[1] >> 32 & (sets - 1);
}

INLINE u32 tag_of(u64 hash)
{
	return (u32)hash | 1;
}

/* Return the ticks after which an incomplete packet of this kind is dropped. */
INLINE u32 timeout_of(u32 kind)
{
	return (kind >> 8 & 1 ? DEFRAG_TIMEOUT6_S : DEFRAG_TIMEOUT4_S) * ticks_per_second;
}

INLINE bool is_same_packet(const struct address *saddr, const struct address *daddr, u32 id, u32 kind,
			   const struct fragment *f)
{
	if (id != f->id || kind != f->kind)
		return false;
	u32 other = 0;
	for (int i = 0; i < 4; i++)
		other |= (saddr->word[i] ^ f->saddr.word[i]) | (daddr->word[i] ^ f->daddr.word[i]);
	return !other;
}

struct find_ctx {
	const struct fragment *f;
	u32 set;
	u32 now; /* tick */
	u32 moment;
	u32 found; /* index of the queue, or NOTHING */
	u32 spare;
	u32 age; /* of the queue at `spare`, as its moment; maximal for a free one */
};

static int way_step(u32 way, struct find_ctx *s)
{
	u32 queue = s->set * DEFRAG_WAYS + way;
	struct frag_queue *g = map_elem(frag_queues, queue);
	if (!g)
		return 1;
	u32 age = NOTHING;
	if (g->kind) {
		age = s->moment - g->moment;
		if (s->now - g->created >= timeout_of(g->kind)) {
			count(REASON_FRAGMENT_TIMEOUT);
			g->kind = 0;
			age = NOTHING;
		} else if (is_same_packet(&g->saddr, &g->daddr, g->id, g->kind, s->f)) {
			s->found = queue;
			return 1;
		}
	}
	if (s->spare == NOTHING || age > s->age) {
		s->spare = queue;
		s->age = age;
	}
	return 0;
}

VERIFIED_ONCE int zero_queue(struct frag_queue *g)
{
	if (g)
		memzero(g, __builtin_offsetof(struct frag_queue, headers));
	return 0;
}

INLINE u32 moment_now(void)
{
	return bpf_ktime_get_ns() >> 10;
}

INLINE void start_queue(struct frag_queue *g, const struct fragment *f, u32 now)
{
	zero_queue(g);
	g->saddr = f->saddr;
	g->daddr = f->daddr;
	g->id = f->id;
	g->kind = f->kind;
	g->created = now;
	g->moment = moment_now();
	g->least_head = NOTHING;
}

enum { QUEUE_FOUND = 1 << 16 }; /* a flag */

/* Return the number of the fragment's queue, with QUEUE_FOUND; else of a free one in the set, or of the oldest. */
VERIFIED_ONCE u32 queue_number(const struct fragment *f, u32 set, u32 now)
{
	if (!f)
		return 0;
	struct find_ctx s = {
		.f = f, .set = set, .now = now, .moment = moment_now(), .found = NOTHING, .spare = NOTHING};
	FORGET_BOUNDS(s, spare, age);
	bpf_loop(DEFRAG_WAYS, way_step, &s, 0);
	return s.found != NOTHING ? s.found | QUEUE_FOUND : s.spare;
}

/* Find the fragment's queue. If there is none, start one, provided that `make` is set. */
INLINE struct frag_queue *find_queue(const struct fragment *f, u32 set, bool make)
{
	u32 now = ticks(), number = queue_number(f, set, now);
	struct frag_queue *g = map_elem(frag_queues, number & (QUEUE_FOUND - 1));
	if (!g || number & QUEUE_FOUND)
		return g;
	if (!make)
		return NULL;
	if (g->kind)
		count(REASON_FRAGMENT_DISPLACED);
	start_queue(g, f, now);
	return g;
}

/* --- add a fragment --- */

INLINE u64 bits_below(s32 bit)
{
	return bit >= 64 ? ~0ull : bit <= 0 ? 0 : (1ull << (bit & 63)) - 1;
}

struct cover_ctx {
	struct frag_queue *g;
	u32 from; /* in units of 8 bytes */
	u32 to;
	u32 set;
	u64 there;
	u64 missing;
	u64 runs; /* that start inside */
};

static int cover_step(u32 index, struct cover_ctx *c)
{
	u32 word = (c->from / 64 + index) & (FRAG_WORDS - 1);
	s32 base = word * 64;
	u64 mask = bits_below((s32)c->to - base) & ~bits_below((s32)c->from - base);
	u64 inside = mask & ~(bits_below((s32)c->from + 1 - base) & mask);
	struct frag_queue *g = c->g;
	c->there |= g->covered[word] & mask;
	c->missing |= ~g->covered[word] & mask;
	c->runs |= g->runs[word] & inside;
	if (c->set)
		g->covered[word] |= mask;
	return 0;
}

INLINE void cover(struct cover_ctx *c)
{
	u32 first = c->from / 64, last = (c->to - 1) / 64;
	FORGET_BOUNDS(*c, from, set);
	bpf_loop(last - first + 1, cover_step, c, 0);
}

/* Mark the fragment's bytes. Return whether they are new, a duplicate, or in conflict. */
INLINE enum defrag_result mark_covered(struct frag_queue *g, const struct fragment *f)
{
	struct cover_ctx c = {.g = g, .from = f->offset / 8, .to = (f->end + 7) / 8};
	cover(&c);
	if (c.there)
		return c.missing || c.runs ? DEFRAG_CONFLICT : DEFRAG_DUPLICATE;
	c.set = 1;
	cover(&c);
	u32 word = c.from / 64 & (FRAG_WORDS - 1);
	u64 bit = 1ull << (c.from & 63);
	g->starts[word] |= bit;
	if (!g->received || f->offset != g->tail)
		g->runs[word] |= bit;
	if (f->end > g->tail)
		g->tail = f->end;
	g->received += f->end - f->offset;
	return DEFRAG_HELD;
}

/* Update the packet's end. Return false if the fragment contradicts it. */
INLINE bool note_end(struct frag_queue *g, const struct fragment *f)
{
	if (!f->more) {
		if (f->end < g->length || (g->ended && f->end != g->length))
			return false;
		g->ended = 1;
		g->length = f->end;
	} else if (f->end > g->length) {
		if (g->ended)
			return false;
		g->length = f->end;
	}
	return f->end != f->offset;
}

struct copy_ctx {
	struct __sk_buff *skb;
	struct frag_queue *g;
	u32 from;
	u32 to;
	u32 left;
};

static int load_step(u32 index, struct copy_ctx *l)
{
	u32 size = barrier_var(l->left < DEFRAG_CHUNK ? l->left : DEFRAG_CHUNK), to = barrier_var(l->to);
	if (!IS_LENGTH(size, DEFRAG_CHUNK) || to > DEFRAG_PAYLOAD)
		return 1;
	if (bpf_skb_load_bytes(l->skb, l->from, &l->g->bytes[to], size))
		return 1;
	l->from += size;
	l->to += size;
	l->left -= size;
	return 0;
}

/* Copy the fragment's payload into the queue. Its bounds were checked before. */
INLINE bool copy_fragment(struct __sk_buff *skb, struct frag_queue *g, const struct fragment *f)
{
	struct copy_ctx l = {.skb = skb, .g = g, .from = f->payload_at, .to = f->offset, .left = f->end - f->offset};
	FORGET_BOUNDS(l, from, left);
	bpf_loop(DEFRAG_PAYLOAD / DEFRAG_CHUNK + 1, load_step, &l, 0);
	return !l.left;
}

/* Return the free bytes behind a fragment in a buffer of a driver without page buffers. Its size is a power of two, for
 * 16 bytes of headroom, the frame, and the kernel's 320 bytes. */
INLINE u32 free_behind(u32 received, u32 used)
{
	u32 wanted = ((received + 16 + 63) & ~63u) + 320, size = 512;
	if (received > 4080)
		return 0;
	if (wanted > 512)
		size = wanted > 2048 ? wanted > 4096 ? 8192 : 4096 : wanted > 1024 ? 2048 : 1024;
	return size - 320 - 2 - used;
}

/* Note where the headers of the first fragment end, and what follows them. */
INLINE void note_headers(struct frag_queue *g, const struct fragment *f, u32 next_at, u32 next, u32 received)
{
	g->head = f->is_ipv6 ? f->head - 8 : f->head;
	g->next_at = next_at;
	g->next = next;
	g->tailroom = free_behind(received, ETH_HLEN + f->head + f->end);
}

INLINE bool note_first(struct __sk_buff *skb, struct frag_queue *g, const struct fragment *f, u32 next_at, u32 next)
{
	u32 size = barrier_var(f->is_ipv6 ? f->head - 8 : f->head);
	memzero(g->headers, 64);
	if (!IS_LENGTH(size, DEFRAG_HEAD) || bpf_skb_load_bytes(skb, ETH_HLEN, g->headers, size))
		return false;
	note_headers(g, f, next_at, next, skb->len);
	return true;
}

INLINE void note_fragment(struct frag_queue *g, const struct fragment *f)
{
	g->ecn |= f->ecn;
	if (f->length > g->largest)
		g->largest = f->length;
	if (f->df && f->length > g->largest_df)
		g->largest_df = f->length;
	if (f->offset && f->head < g->least_head)
		g->least_head = f->head;
}

INLINE enum defrag_result add_fragment(struct __sk_buff *skb, struct frag_queue *g, const struct fragment *f, u32 next_at,
				       u32 next)
{
	if (!note_end(g, f))
		return f->is_ipv6 ? DEFRAG_REFUSED : DEFRAG_CONFLICT;
	enum defrag_result queue = mark_covered(g, f);
	if (queue != DEFRAG_HELD)
		return queue;
	if (!copy_fragment(skb, g, f) || (!f->offset && !note_first(skb, g, f, next_at, next)))
		return DEFRAG_CONFLICT;
	note_fragment(g, f);
	return g->head && g->ended && g->received == g->length ? DEFRAG_COMPLETE : DEFRAG_HELD;
}
