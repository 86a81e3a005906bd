/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The Call-ID of a SIP message, found as the kernel's IPVS finds it (IPVS-SEMANTICS 5.6), so both pair the same
 * messages.
 *
 * The text is copied to a buffer, and a loop reads it by character; behind the end of a line only it looks for a name.
 */
#pragma once
#include "ctx/scratch.h"

enum {
	CALL_TEXT = 16384, /* bytes of a message that are searched; a power of two */
	CALL_STEPS = 2 * CALL_TEXT + 64, /* a value that is no Call-ID makes the search start again, behind it */
};

enum call_part {
	CALL_LINE, /* search the end of a line */
	CALL_COLON, /* behind the name */
	CALL_VALUE, /* behind the colon */
	CALL_WORD, /* in the Call-ID */
	CALL_DOMAIN, /* in its part behind the "@" */
	CALL_FOUND,
	CALL_NONE,
};

struct call_text {
	struct call_scan *scan;
	const struct copy *copy;
};

INLINE u8 char_at(const struct call_text *text, u32 at)
{
	return text->copy->bytes[at & (CALL_TEXT - 1)];
}

INLINE u64 chars_at(const struct call_text *text, u32 at)
{
	return WORD_AT(const u64, text->copy->bytes, at & (CALL_TEXT - 1));
}

INLINE bool is_line_end(u8 c)
{
	return c == '\r' || c == '\n';
}

/* Whether any of eight characters ends a line. */
INLINE bool have_line_end(u64 chars)
{
	const u64 ones = 0x0101010101010101ULL;
	u64 cr = chars ^ '\r' * ones, lf = chars ^ '\n' * ones;
	return (((cr - ones) & ~cr) | ((lf - ones) & ~lf)) & ones << 7;
}

/* Whether the kernel takes it for a letter: those of Latin-1, too. */
INLINE bool is_letter(u8 c)
{
	u8 lower = c | 0x20;
	return (lower >= 'a' && lower <= 'z') || (c >= 0xc0 && c != 0xd7 && c != 0xf7);
}

/* Whether a Call-ID may have it: `word` of RFC 3261, 25.1. */
INLINE bool is_word_char(u8 c)
{
	if (is_letter(c) || (c >= '\'' && c <= ':' && c != ',') || (c >= '[' && c <= ']'))
		return true;
	switch (c) {
	case '!':
	case '"':
	case '%':
	case '<':
	case '>':
	case '?':
	case '_':
	case '`':
	case '{':
	case '}':
	case '~':
		return true;
	default:
		return false;
	}
}

/* Return the length of the name "Call-ID", or of its short form, at the start of a line; 0 for other names. The short
 * form is not the start of a word. */
INLINE u32 call_name_length(const struct call_text *text, u32 at, u32 left)
{
	u64 chars = chars_at(text, at);
	/* in lower case, but for the hyphen */
	if (left >= 7 && (chars << 8 >> 8 | 0x0020200020202020ULL) == 0x0064692d6c6c6163ULL)
		return 7;
	return left >= 2 && ((u8)chars | 0x20) == 'i' && !is_letter(chars >> 8) ? 1 : 0;
}

/* Step over the end of a line: the position behind it, or 0 if the text ends there. */
INLINE u32 next_line(const struct call_text *text, u32 at, u32 end)
{
	bool is_cr = char_at(text, at) == '\r';
	at += 1;
	if (at < end && is_cr && char_at(text, at) == '\n')
		at += 1;
	return at < end ? at : 0;
}

INLINE int scan_line(const struct call_text *text, struct call_scan *s)
{
	u32 at = s->at, end = s->end;
	u64 chars = chars_at(text, at);
	if (at + 8 <= end && !have_line_end(chars)) {
		s->at = at + 8;
		return 0;
	}
	if (!is_line_end(chars)) {
		s->at = at + 1;
		return 0;
	}
	at = next_line(text, at, end);
	if (!at)
		return 1;
	u32 length = call_name_length(text, at, end - at);
	if (length) {
		s->reads = CALL_COLON;
		s->folded = 0;
	}
	s->at = at + (length ?: 1);
	return 0;
}

/* Step over blanks, and over one line end before a continuation line. Return 1 at another character. */
INLINE int skip_blank(const struct call_text *text, struct call_scan *s)
{
	u8 c = char_at(text, s->at);
	if (c == ' ' || c == '\t') {
		s->at += 1;
		return 0;
	}
	if (s->folded || !is_line_end(c))
		return 1;
	u32 next = next_line(text, s->at, s->end);
	c = char_at(text, next);
	if (!next || (c != ' ' && c != '\t')) {
		s->reads = CALL_NONE;
		return 0;
	}
	s->at = next;
	s->folded = 1;
	return 0;
}

/* The value is no Call-ID. The kernel adds its position to that where the search began. */
INLINE int search_again(struct call_scan *s)
{
	s->from += s->start;
	s->at = s->from;
	s->reads = CALL_LINE;
	return 0;
}

INLINE int end_call_id(const struct call_text *text, struct call_scan *s)
{
	bool valid = s->at < s->end && s->at - s->start <= CALL_ID_LENGTH && is_line_end(char_at(text, s->at));
	s->reads = valid ? CALL_FOUND : CALL_NONE;
	return 1;
}

INLINE int scan_word(const struct call_text *text, struct call_scan *s, bool in_domain)
{
	u8 c = char_at(text, s->at);
	if (s->at < s->end && is_word_char(c)) {
		s->at += 1;
		return 0;
	}
	if (s->at == (in_domain ? s->domain : s->start))
		return search_again(s);
	if (in_domain || s->at >= s->end || c != '@')
		return end_call_id(text, s);
	s->at += 1;
	s->domain = s->at;
	s->reads = CALL_DOMAIN;
	return 0;
}

static int call_step(u32 index, struct call_text *text)
{
	struct call_scan *s = text->scan;
	bool in_word = s->reads == CALL_WORD || s->reads == CALL_DOMAIN;
	if (s->at >= s->end && !in_word)
		return 1;
	switch (s->reads) {
	case CALL_LINE:
		return scan_line(text, s);
	case CALL_COLON:
		if (!skip_blank(text, s))
			return 0;
		s->reads = char_at(text, s->at) == ':' ? CALL_VALUE : CALL_NONE;
		s->folded = 0;
		s->at += 1;
		return 0;
	case CALL_VALUE:
		if (!skip_blank(text, s))
			return 0;
		s->reads = CALL_WORD;
		s->start = s->at;
		return 0;
	case CALL_WORD:
		return scan_word(text, s, false);
	case CALL_DOMAIN:
		return scan_word(text, s, true);
	default:
		return 1;
	}
}

/* Copy the Call-ID of a message of UDP to the scratch area, with zeros behind it. Return false if there is none. */
INLINE bool read_call_id(struct __sk_buff *skb, struct scratch *w)
{
	struct packet *p = &w->packet;
	struct call_text text = {.scan = &w->scan, .copy = map_elem(copies, 0)};
	u32 start = p->l4 + UDP_HLEN, length = barrier_var(ETH_HLEN + p->length - start);
	if (!text.copy || p->protocol != IPPROTO_UDP || p->by_inner || !p->l4_complete || (s32)length <= 0)
		return false;
	if (p->slow_flags & SLOW_REASSEMBLED)
		w->frags.first = w->frags.length; /* the kernel joins its buffers, and loses where fragments began */
	if (length > CALL_TEXT)
		length = CALL_TEXT;
	if (!IS_LENGTH(length, CALL_TEXT) || bpf_skb_load_bytes(skb, start, (void *)text.copy->bytes, length))
		return false;
	w->scan = (struct call_scan){.end = length};
	bpf_loop(CALL_STEPS, call_step, &text, 0);
	if (w->scan.reads != CALL_FOUND)
		return false;
	memzero(w->template.call.id, sizeof(w->template.call.id));
	length = barrier_var(w->scan.at - w->scan.start);
	w->template.call.length = length;
	return IS_LENGTH(length, CALL_ID_LENGTH) &&
	       !bpf_skb_load_bytes(skb, start + w->scan.start, w->template.call.id, length);
}
