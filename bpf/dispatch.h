/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The fork in the road: an established connection, a real server's reply, or something new.
 */
#pragma once
#include "carry.h"

/* Whether it is to a virtual address for which another director is MASTER. */
INLINE bool target_stands_by(const struct packet *p, const struct root *root)
{
	struct address target = {};
	address_to(&target, p);
	return stands_by(root, &target, p->six);
}

INLINE int dispatch(void *ctx, struct packet *p, const struct root *root, enum hook hook)
{
	if (p->request) {
		if (unlikely(root->standby) && target_stands_by(p, root))
			return to_stack(hook);
		struct found found = find_connection(p);
		if (likely(found.connection) && likely(!p->syn))
			return carry_known(ctx, p, &found, root, ticks(), hook);
		p->unknown = !found.connection;
	}
	return go_on_with(ctx, p, hook, p->reply ? STAGE_REPLY : STAGE_NEW);
}
