/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Direct routing: nothing but the link addresses and the time to live changes (IPVS-SEMANTICS 7.5).
 */
#pragma once
#include "../forward.h"

INLINE bool direct(void *ctx, const struct packet *p, const struct hop *hop, enum hook hook)
{
	return age(ctx, p, hook) && address_link(ctx, hop, hook);
}
