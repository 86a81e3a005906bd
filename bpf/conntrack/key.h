/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Tuples as the connection table compares them, and their hashes.
 *
 * The hash of a connection is by the client's address and port, and the protocol, as in IPVS. So requests and NAT's
 * replies have the same one. The hashes are keyed, so a client cannot choose addresses and ports that collide.
 */
#pragma once
#include "abi/conntrack.h"
#include "lib/address.h"

/* The word of an entry with the ports. Bits 0-47: ports, protocol, kind; all 0 in a free entry. In the first entry of a
 * bucket the bucket's marks follow: entries in force, complete ones, counts of those that overflowed. In the second
 * entry, and in the second half of one of IPv6, the slots of the group follow that have entries of this bucket. */
enum rest_bits {
	REST_PROTOCOL = 32,
	REST_KIND = 40,
	REST_MARKS = 48,
	REST_SLOTS = 48, /* a bit for each slot of the group */
	REST_COMPLETE = 50,
	REST_NEAR = 52, /* overflowed into the same group */
	REST_FAR = 56, /* into others */
	REST_FARTHER = 62, /* perhaps also into others than the first ones */
	REST_INDEXED = 63, /* `overflow_index` has some of its connections, or had */
	REST_ANY_OWNER = 63, /* in a key of replies: find a connection that has lost its replies, too */
};

enum { MOST_NEAR = 0xf, MOST_FAR = 0x3f };

#define REST_TUPLE ((1ULL << REST_MARKS) - 1)
#define REST_CLIENT (0xffffULL | 0xffffULL << REST_PROTOCOL) /* of a request: the client's port, protocol and kind */
#define REST_CLAIMED ((u64)TUPLE_CLAIMED << REST_KIND)
#define REST_REPLY ((u64)TUPLE_REPLY << REST_KIND)
#define REST_IPV6 ((u64)TUPLE_IPV6 << REST_KIND)
#define REST_SECOND ((u64)TUPLE_SECOND << REST_KIND)

/* What to search in the table, or to insert. */
struct key {
	u64 addresses[4]; /* IPv4: saddr and daddr in the first word. IPv6: the client's, then the other one */
	u64 rest; /* ports, protocol and kind; of IPv6, with REST_IPV6 */
	u64 by_client; /* hash that names the bucket; of templates, that of the whole tuple */
	u64 by_tuple; /* hash of the whole tuple */
};

INLINE u32 kind_in(u64 rest)
{
	return (u8)(rest >> REST_KIND) & ~TUPLE_IPV6;
}

INLINE bool is_ipv6_in(u64 rest)
{
	return rest >> REST_KIND & TUPLE_IPV6;
}

INLINE u64 protocol_in(u64 rest)
{
	return rest >> REST_PROTOCOL & 0xff;
}

/* Return the client's port: sport of a request, dport of a reply. */
INLINE u64 client_port_in(u64 rest, bool is_reply)
{
	return (is_reply ? rest >> 16 : rest) & 0xffff;
}

/* Return what requests of the connection have in REST_CLIENT. */
INLINE u64 client_in(u64 rest, bool is_reply)
{
	return is_reply ? client_port_in(rest, true) | protocol_in(rest) << REST_PROTOCOL | (rest & REST_IPV6)
			: rest & REST_CLIENT;
}

/* --- hashes --- */

/* A second round separates consecutive ports, which would cluster otherwise. */
INLINE u64 finish_hash(u64 mixed)
{
	return (mixed ^ mixed >> 32) * table_key.seeds[0];
}

/* Multiply-shift with secret odd factors (Dietzfelbinger 1996). */
INLINE u64 mix4(u64 addresses, u64 rest)
{
	return finish_hash(addresses * table_key.seeds[0] + rest * table_key.seeds[1]);
}

/* A term of the sum NH. Two tuples have the same sum with a probability of 2^-32, also if a client chooses them. */
INLINE u64 nh(u64 word, enum seed seed)
{
	return nh_term(word, table_key.seeds[seed]);
}

INLINE u64 nh_client(u64 first, u64 last)
{
	return nh(first, SEED_CLIENT) + nh(last, SEED_CLIENT + 1);
}

/* The hash of a connection, by the client's address, and the word with the ports. */
INLINE u64 hash_client4(u32 client, u64 rest, bool is_reply)
{
	u64 seed = table_key.seeds[0]; /* one load: mix4 would load it twice */
	u64 mixed = (client | client_port_in(rest, is_reply) << 32 | protocol_in(rest) << 48) * seed;
	return (mixed ^ mixed >> 32) * seed;
}

INLINE u64 hash_client6(u64 first, u64 last, u64 rest, bool is_reply)
{
	return finish_hash(nh_client(first, last) +
			   nh(client_port_in(rest, is_reply) | protocol_in(rest) << 16, SEED_REST));
}

/* The hash of a whole tuple. */
INLINE u64 hash_tuple6(u64 client_first, u64 client_last, u64 other_first, u64 other_last, u64 rest)
{
	return finish_hash(nh_client(client_first, client_last) + nh(rest, SEED_REST) + nh(other_first, SEED_OTHER) +
			   nh(other_last, SEED_OTHER + 1));
}

/* --- keys --- */

INLINE bool is_by_client(u64 rest)
{
	return kind_in(rest) == TUPLE_CONNECTION || kind_in(rest) == TUPLE_REPLY;
}

INLINE void set_key4(struct key *key, u64 addresses, u64 rest)
{
	bool is_reply = kind_in(rest) == TUPLE_REPLY;
	u32 client = is_reply ? addresses >> 32 : addresses;
	key->addresses[0] = addresses;
	key->addresses[1] = key->addresses[2] = key->addresses[3] = 0;
	key->rest = rest;
	key->by_tuple = mix4(addresses, rest);
	key->by_client = is_by_client(rest) ? hash_client4(client, rest, is_reply) : key->by_tuple;
}

INLINE void set_key6(struct key *key, const u64 *client, const u64 *other, u64 rest)
{
	bool is_reply = kind_in(rest) == TUPLE_REPLY;
	key->addresses[0] = client[0];
	key->addresses[1] = client[1];
	key->addresses[2] = other[0];
	key->addresses[3] = other[1];
	key->rest = rest;
	key->by_tuple = hash_tuple6(client[0], client[1], other[0], other[1], rest);
	key->by_client = is_by_client(rest) ? hash_client6(client[0], client[1], rest, is_reply) : key->by_tuple;
}

/* The word with the ports, and the kind, of a tuple. */
INLINE u64 rest_of4(const struct tuple4 *tuple)
{
	return ((const u64 *)tuple)[1] & REST_TUPLE;
}

INLINE u64 rest_of6(const struct tuple6 *tuple)
{
	return (((const u64 *)tuple)[4] & REST_TUPLE) | REST_IPV6;
}

INLINE u64 addresses_of4(const struct tuple4 *tuple)
{
	return *(const u64 *)tuple;
}

/* Return two words of a tuple: saddr. daddr follows. */
INLINE const u64 *addresses_of6(const struct tuple6 *tuple)
{
	return (const u64 *)tuple;
}

INLINE u32 tuple_kind_of(const union tuple *tuple, bool is_ipv6)
{
	return is_ipv6 ? tuple->v6.kind : tuple->v4.kind;
}

/* Set the key of a request, or of a template. */
VERIFIED_ONCE int set_key(struct key *key, const union tuple *tuple, u32 is_ipv6)
{
	if (!key || !tuple)
		return 0;
	const u64 *words = addresses_of6(&tuple->v6);
	if (is_ipv6)
		set_key6(key, words, words + 2, rest_of6(&tuple->v6));
	else
		set_key4(key, addresses_of4(&tuple->v4), rest_of4(&tuple->v4));
	return 0;
}

/* Set the key of a reply of NAT, by the tuple of its packet. */
VERIFIED_ONCE int set_reply_key(struct key *key, const union tuple *reply, u32 is_ipv6)
{
	if (!key || !reply)
		return 0;
	const u64 *words = addresses_of6(&reply->v6);
	if (is_ipv6)
		set_key6(key, words + 2, words, rest_of6(&reply->v6) | REST_REPLY);
	else
		set_key4(key, addresses_of4(&reply->v4), rest_of4(&reply->v4) | REST_REPLY);
	return 0;
}

/* The word with the ports of a NAT server's packets, by that of the request. */
INLINE u64 reply_rest(u64 request, be16 port)
{
	return port | (request & 0xffff) << 16 | protocol_in(request) << REST_PROTOCOL | REST_REPLY |
	       (request & REST_IPV6);
}

/* The hash of their tuple. */
INLINE u64 hash_server_tuple(const struct key *request, const struct address *real, be16 port)
{
	u64 rest = reply_rest(request->rest, port);
	if (!is_ipv6_in(request->rest))
		return mix4(real->word[0] | request->addresses[0] << 32, rest);
	return hash_tuple6(request->addresses[0], request->addresses[1], real->word[0] | (u64)real->word[1] << 32,
			   real->word[2] | (u64)real->word[3] << 32, rest);
}

/* Set the key of a NAT server's packets, by that of the request. */
INLINE void set_server_key(struct key *key, const struct key *request, const struct address *real, be16 port)
{
	u64 rest = reply_rest(request->rest, port);
	if (is_ipv6_in(request->rest)) {
		u64 other[2] = {real->word[0] | (u64)real->word[1] << 32, real->word[2] | (u64)real->word[3] << 32};
		set_key6(key, request->addresses, other, rest);
	} else {
		set_key4(key, real->word[0] | request->addresses[0] << 32, rest);
	}
}

/* Return the bucket of a hash. Slot 0 means "none", so the first group is not used. */
INLINE u32 hashed_bucket(u64 hash)
{
	return ((hash >> 32) * table_key.buckets >> 32) + GROUP;
}

/* Return the bucket of a tuple. */
INLINE u32 home_of(const struct key *key)
{
	return hashed_bucket(key->by_client);
}

/* Return the bucket with which the search begins in one of the other groups of a tuple. */
INLINE u32 other_group(const struct key *key, u32 number)
{
	u64 hash = number <= OTHER_GROUPS / 2 ? key->by_client : key->by_tuple;
	return hashed_bucket((hash ^ hash >> 29) * (table_key.seeds[1] + 2 * number));
}

/* Return how many other groups may have a tuple. */
INLINE u32 other_groups(const struct key *key, bool masq)
{
	return kind_in(key->rest) == TUPLE_REPLY || masq ? OTHER_GROUPS / 2 : OTHER_GROUPS;
}
