/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fork in the road: an established connection, a real server's reply, or something new.
 */
#pragma once
#include "carry.h"

INLINE int dispatch(void *ctx, const struct packet *p, const struct root *root, enum hook hook)
{
	if (p->request) {
		struct connection *c = find_connection(p);
		if (likely(c) && likely(!p->syn))
			return carry_known(ctx, p, c, root, ticks(), hook);
	}
	return go_on_with(ctx, p, hook, p->reply ? STAGE_REPLY : STAGE_NEW);
}
