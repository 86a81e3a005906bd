/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * The part of abi.h that single schedulers have for themselves.
 */
#pragma once

/* mh: for each of a service's two tables, by slot << 1 | which, the place in the list of every slot's destination. */
struct maglev_table {
	u16 places[MAGLEV_SLOTS];
	u16 pad;
};

/* --- what lblc and lblcr remember --- */

struct cache_key {
	u32 epoch; /* of a service's scheduler: names service and scheduler at once */
	u32 part; /* 0: the entry of a target; others: more of its members */
	struct address target;
};

struct cached {
	u32 service;
	u32 used; /* tick of the latest use */
	u32 changed; /* tick of the set's latest change */
	u32 count; /* members in all parts */
	u32 busy; /* somebody changes the set */
	u32 pad[3];
	u32 members[CACHE_MEMBERS]; /* destinations, the oldest member first; NOTHING beyond */
};
