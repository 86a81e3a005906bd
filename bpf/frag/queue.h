/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Fragments on the way to becoming a packet again (RFC 791, RFC 8200 4.5). IPVS sees packets that the kernel has put
 * together; at TC nobody has done so yet, so fragments are copied aside until all are there.
 *
 * The rules are those of the kernel's own queues: what lies within a run of fragments that came one after another is a
 * repetition and ignored; what overlaps otherwise, or contradicts the packet's end, costs IPv4 (overlaps: IPv6, too)
 * all that had come. A gathering stands in one of GATHER_WAYS places that its key hashes to, behind one lock; when all
 * are taken the oldest gives way.
 */
#pragma once
#include "ctx/scratch.h"
#include "lib/headers.h"

enum {
	GATHER_SETS = 32,
	GATHER_WAYS = 8,
	GATHER_PAYLOAD = 15872, /* bytes that one packet may carry; TC makes no longer ones (SKB_MAX_ALLOC) */
	GATHER_CHUNK = 2048,
	GATHER_HEAD = 256, /* of headers before the fragment header */
	GATHER_BYTES = PIECE_WORDS * 64 * 8 + GATHER_CHUNK,
	GATHER_TRIES = 4096, /* to get the lock, before the fragment is dropped */
	GATHER_SECONDS4 = 30, /* net.ipv4.ipfrag_time */
	GATHER_SECONDS6 = 60, /* IPV6_FRAG_TIMEOUT */
};

struct gather {
	struct address source;
	struct address target;
	u32 id;
	u32 kind; /* protocol | IPv6 << 8 | in use << 9 */
	u32 born; /* ticks */
	u32 length; /* of the payload, as far as known; final with `ended` */
	u32 came; /* bytes of it that are there */
	u32 tail; /* end of the fragment that reaches furthest */
	u32 ended; /* the last fragment was seen */
	u32 largest; /* longest fragment, with its IP headers */
	u32 largest_df; /* of those with DF */
	u32 least_head; /* shortest IP headers of a fragment that is not the first */
	u32 head; /* bytes of the first one's IP headers; 0: not there yet */
	u32 next_at; /* IPv6: place among them of the byte that names the fragment header */
	u32 next; /* IPv6: what the fragment header names */
	u32 room; /* bytes that the kernel's buffer of the first one has behind it */
	u32 ecn; /* a bit for each codepoint seen */
	u64 covered[PIECE_WORDS]; /* a bit for each 8 bytes */
	u64 starts[PIECE_WORDS]; /* a fragment starts there */
	u64 runs[PIECE_WORDS]; /* a run starts there */
	u8 headers[GATHER_HEAD];
	u8 bytes[GATHER_BYTES];
};

ARRAY_MAP(gathers, struct gather, GATHER_SETS * GATHER_WAYS, 0);
ARRAY_MAP(gather_locks, u32, GATHER_SETS, 0);

/* A fragment that came in. */
struct piece {
	struct address source;
	struct address target;
	u32 id;
	u32 kind;
	u32 offset; /* of its payload in the packet's */
	u32 end;
	u32 more; /* others follow */
	u32 head; /* bytes of IP headers, the fragment header among them */
	u32 df;
	u32 ecn;
	u32 payload_at; /* in the frame */
	u32 six;
	u32 length; /* of the fragment as the kernel measures it */
};

enum gathered { GATHER_HELD, GATHER_WHOLE, GATHER_REPEATED, GATHER_CONFLICT, GATHER_REFUSED };

/* --- places --- */

struct locking {
	u32 *lock;
	u32 mine;
};

static int lock_step(u32 index, struct locking *l)
{
	l->mine = __sync_val_compare_and_swap(l->lock, 0, 1) == 0;
	return l->mine;
}

INLINE bool locked(u32 *lock)
{
	struct locking l = {.lock = lock};
	bpf_loop(GATHER_TRIES, lock_step, &l, 0);
	return l.mine;
}

INLINE void unlock(u32 *lock)
{
	__sync_lock_test_and_set(lock, 0);
}

INLINE u32 gather_set(const struct piece *f)
{
	u32 hash = f->id ^ f->kind << 16;
	for (int i = 0; i < 4; i++)
		hash = (hash ^ f->source.word[i] ^ f->target.word[i] << 1) * 0x9E3779B1u;
	return hash >> 16 & (GATHER_SETS - 1);
}

INLINE bool is_of(const struct gather *g, const struct piece *f)
{
	if (g->id != f->id || g->kind != f->kind)
		return false;
	u32 other = 0;
	for (int i = 0; i < 4; i++)
		other |= (g->source.word[i] ^ f->source.word[i]) | (g->target.word[i] ^ f->target.word[i]);
	return !other;
}

struct placing {
	const struct piece *f;
	u32 set;
	u32 now;
	u32 found; /* a place; NOTHING: none */
	u32 spare;
	u32 age; /* of the one at `spare`; the greatest of all for a free one */
};

static int way_step(u32 way, struct placing *s)
{
	u32 place = s->set * GATHER_WAYS + way;
	struct gather *g = LOOKUP(gathers, place);
	if (!g)
		return 1;
	u32 age = NOTHING;
	if (g->kind) {
		age = s->now - g->born;
		if (age >= (g->kind >> 8 & 1 ? GATHER_SECONDS6 : GATHER_SECONDS4) * ticks_per_second) {
			count(REASON_FRAGMENT_TIMEOUT);
			g->kind = 0;
			age = NOTHING;
		} else if (is_of(g, s->f)) {
			s->found = place;
			return 1;
		}
	}
	if (s->spare == NOTHING || age > s->age) {
		s->spare = place;
		s->age = age;
	}
	return 0;
}

VERIFIED_ONCE int wipe_gather(struct gather *g)
{
	if (g)
		wipe(g, __builtin_offsetof(struct gather, headers));
	return 0;
}

INLINE void start_gather(struct gather *g, const struct piece *f, u32 now)
{
	wipe_gather(g);
	g->source = f->source;
	g->target = f->target;
	g->id = f->id;
	g->kind = f->kind;
	g->born = now;
	g->least_head = NOTHING;
}

/* The fragment's gathering; a new one if there is none and `make`. */
INLINE struct gather *gather_of(const struct piece *f, u32 set, bool make)
{
	struct placing s = {.f = f, .set = set, .now = ticks(), .found = NOTHING, .spare = NOTHING};
	FORGET(s, spare, age);
	bpf_loop(GATHER_WAYS, way_step, &s, 0);
	bool found = s.found != NOTHING;
	struct gather *g = LOOKUP(gathers, found ? s.found : s.spare);
	if (!g || found)
		return g;
	if (!make)
		return NULL;
	if (g->kind)
		count(REASON_FRAGMENT_DISPLACED);
	start_gather(g, f, s.now);
	return g;
}

/* --- what is there --- */

INLINE u64 bits_below(s32 bit)
{
	return bit >= 64 ? ~0ull : bit <= 0 ? 0 : (1ull << (bit & 63)) - 1;
}

struct covering {
	struct gather *g;
	u32 from; /* in units of 8 bytes */
	u32 to;
	u32 set;
	u64 there;
	u64 missing;
	u64 runs; /* that start inside */
};

static int cover_step(u32 index, struct covering *c)
{
	u32 word = (c->from / 64 + index) & (PIECE_WORDS - 1);
	s32 base = word * 64;
	u64 mask = bits_below((s32)c->to - base) & ~bits_below((s32)c->from - base);
	u64 inside = mask & ~(bits_below((s32)c->from + 1 - base) & mask);
	struct gather *g = c->g;
	c->there |= g->covered[word] & mask;
	c->missing |= ~g->covered[word] & mask;
	c->runs |= g->runs[word] & inside;
	if (c->set)
		g->covered[word] |= mask;
	return 0;
}

INLINE void cover(struct covering *c)
{
	u32 first = c->from / 64, last = (c->to - 1) / 64;
	FORGET(*c, from, set);
	bpf_loop(last - first + 1, cover_step, c, 0);
}

/* Note the fragment's place; whether it is new, a repetition or in conflict with others. */
INLINE enum gathered note_piece(struct gather *g, const struct piece *f)
{
	struct covering c = {.g = g, .from = f->offset / 8, .to = (f->end + 7) / 8};
	cover(&c);
	if (c.there)
		return c.missing || c.runs ? GATHER_CONFLICT : GATHER_REPEATED;
	c.set = 1;
	cover(&c);
	u32 word = c.from / 64 & (PIECE_WORDS - 1);
	u64 bit = 1ull << (c.from & 63);
	g->starts[word] |= bit;
	if (!g->came || f->offset != g->tail)
		g->runs[word] |= bit;
	if (f->end > g->tail)
		g->tail = f->end;
	g->came += f->end - f->offset;
	return GATHER_HELD;
}

/* Note where the packet ends; false for a fragment that contradicts what is known. */
INLINE bool note_end(struct gather *g, const struct piece *f)
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

struct loading {
	struct __sk_buff *skb;
	struct gather *g;
	u32 from;
	u32 to;
	u32 left;
};

static int load_step(u32 index, struct loading *l)
{
	u32 size = OPAQUE(l->left < GATHER_CHUNK ? l->left : GATHER_CHUNK), to = OPAQUE(l->to);
	if (!IS_LENGTH(size, GATHER_CHUNK) || to > GATHER_PAYLOAD)
		return 1;
	if (bpf_skb_load_bytes(l->skb, l->from, &l->g->bytes[to], size))
		return 1;
	l->from += size;
	l->to += size;
	l->left -= size;
	return 0;
}

/* Copy a fragment aside. Its place has been checked. */
INLINE bool copied(struct __sk_buff *skb, struct gather *g, const struct piece *f)
{
	struct loading l = {.skb = skb, .g = g, .from = f->payload_at, .to = f->offset, .left = f->end - f->offset};
	FORGET(l, from, left);
	bpf_loop(GATHER_PAYLOAD / GATHER_CHUNK + 1, load_step, &l, 0);
	return !l.left;
}

/* Bytes that a fragment leaves free in a buffer such as drivers without pages allocate: the frame and 16 bytes before
 * it, to the next power of two with what the kernel keeps behind (320 bytes). */
INLINE u32 room_behind(u32 received, u32 used)
{
	u32 wanted = ((received + 16 + 63) & ~63u) + 320, size = 512;
	if (received > 4080)
		return 0;
	if (wanted > 512)
		size = wanted > 2048 ? wanted > 4096 ? 8192 : 4096 : wanted > 1024 ? 2048 : 1024;
	return size - 320 - 2 - used;
}

INLINE bool first_noted(struct __sk_buff *skb, struct gather *g, const struct piece *f, u32 next_at, u32 next)
{
	u32 size = OPAQUE(f->six ? f->head - 8 : f->head);
	wipe(g->headers, 64);
	if (!IS_LENGTH(size, GATHER_HEAD) || bpf_skb_load_bytes(skb, ETHER, g->headers, size))
		return false;
	g->head = size;
	g->next_at = next_at;
	g->next = next;
	g->room = room_behind(skb->len, ETHER + f->head + f->end);
	return true;
}

INLINE enum gathered add_piece(struct __sk_buff *skb, struct gather *g, const struct piece *f, u32 next_at, u32 next)
{
	if (!note_end(g, f))
		return f->six ? GATHER_REFUSED : GATHER_CONFLICT;
	enum gathered place = note_piece(g, f);
	if (place != GATHER_HELD)
		return place;
	if (!copied(skb, g, f) || (!f->offset && !first_noted(skb, g, f, next_at, next)))
		return GATHER_CONFLICT;
	g->ecn |= f->ecn;
	if (f->length > g->largest)
		g->largest = f->length;
	if (f->df && f->length > g->largest_df)
		g->largest_df = f->length;
	if (f->offset && f->head < g->least_head)
		g->least_head = f->head;
	return g->head && g->ended && g->came == g->length ? GATHER_WHOLE : GATHER_HELD;
}
