"""nf_tables by netlink (linux/netfilter/nf_tables.h): replace a table in one transaction, without starting `nft`.

Numbers are in network order.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence

from pylvs.model.dataclass import dataclass
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, Reply, attribute, message, nested, text

SUBSYSTEM = 10
BATCH_BEGIN, BATCH_END = 16, 17
NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_ELEMENTS = 0, 1, 2, 3, 6, 9, 12
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
LOCAL_IN, LOCAL_OUT = 1, 3
DROP, ACCEPT = 0, 1
VERDICT, REGISTER_1, REGISTER_2, REGISTER_3 = 0, 1, 2, 3  # registers of 16 octets
NETWORK, TRANSPORT = 1, 2
OIF, IIF_NAME, OIF_NAME, L4_PROTOCOL = 5, 6, 7, 16  # NFT_META_*
EQUAL, AT_MOST, AT_LEAST = 0, 3, 5
MAP = 0x8  # NFT_SET_MAP
TYPE_IPV4, TYPE_IPV6, TYPE_INDEX, TYPE_NAME = 7, 8, 20, 41  # as nft(8) prints them
NAME_OCTETS = 16
HOST_ORDER = struct.pack("=BBIBBI", 0, 4, 1, 1, 4, 1)  # byte order of keys and values, by which nft(8) prints them
ELEMENTS_AT_ONCE = 500


def number(kind: int, value: int) -> bytes:
    """Return an attribute with a number in network order."""
    return attribute(kind, struct.pack("!I", value))


def expression(name: str, *members: bytes) -> bytes:
    """Return one expression of a rule."""
    return nested(1, text(1, name), nested(2, *members))  # NFTA_LIST_ELEM: NFTA_EXPR_NAME, NFTA_EXPR_DATA


def payload(base: int, offset: int, length: int, register: int = REGISTER_1) -> bytes:
    """Load octets of the packet, from the start of a header, into a register."""
    return expression("payload", number(1, register), number(2, base), number(3, offset), number(4, length))


def meta(key: int, register: int = REGISTER_1) -> bytes:
    """Load metadata of the packet into a register."""
    return expression("meta", number(1, register), number(2, key))


def compared(value: bytes, how: int = EQUAL) -> bytes:
    """Continue only if the first register compares with the value as `how` says."""
    return expression("cmp", number(1, REGISTER_1), number(2, how), nested(3, attribute(1, value)))


def found_in(name: str, into: int | None = None) -> bytes:
    """Continue only if the first register is in a set; with `into`, load its value of a map into that register."""
    target = () if into is None else (number(3, into),)
    return expression("lookup", text(1, name), number(2, REGISTER_1), *target)


def verdict(code: int) -> bytes:
    """Return a verdict, which ends rule and chain for the packet."""
    return expression("immediate", number(1, VERDICT), nested(2, nested(2, number(1, code))))


def duplicated(address: int, device: int) -> bytes:
    """Send a copy to the address through the device in these registers."""
    return expression("dup", number(1, address), number(2, device))


@dataclass(frozen=True, slots=True)
class Set:
    """A set of keys; with values of `value_octets`, a map."""

    name: str
    type_number: int
    octets: int
    elements: Sequence[tuple[bytes, bytes]]  # keys, and values or nothing
    value_type: int = 0
    value_octets: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain at a hook; each rule is a list of expressions."""

    name: str
    hook: int
    priority: int
    rules: Sequence[Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of one family."""

    family: int
    name: str
    sets: Sequence[Set]
    chains: Sequence[Chain]


def replace(family: int, name: str, table: Table | None) -> Reply:
    """Replace a table atomically, or delete it.

    A transaction that deletes or fails waits for all processors, some 10 ms. One that only creates takes 0.1 ms.
    """
    own, content = text(1, name), () if table is None else tuple(_content(table))
    try:
        with Netlink(codec.NETLINK_NETFILTER) as kernel:
            (there,) = kernel.do([(SUBSYSTEM << 8 | GET_TABLE, struct.pack("!BBH", family, 0, 0) + own, 0)])
            if there[0] == errno.ENOENT:
                if table is None:
                    return 0, ""
                reply = _transact(kernel, family, [(NEW_TABLE, codec.CREATE | codec.EXCL, own), *content])
                if reply[0] != errno.EEXIST:
                    return reply
            # Create it first: the deletion fails if there is none.
            changes = [(NEW_TABLE, codec.CREATE, own), (DELETE_TABLE, 0, own)]
            if table is not None:
                changes += [(NEW_TABLE, codec.CREATE, own), *content]
            return _transact(kernel, family, changes)
    except OSError as error:
        return error.errno or errno.EIO, ""


def _transact(kernel: Netlink, family: int, changes: Sequence[tuple[int, int, bytes]]) -> Reply:
    """Make all changes or none; return the first error."""
    batch = message(BATCH_BEGIN, 0, 0, struct.pack("!BBH", 0, 0, SUBSYSTEM))
    for sequence, (kind, flags, body) in enumerate(changes, 1):
        batch += message(SUBSYSTEM << 8 | kind, flags | codec.ACK, sequence, struct.pack("!BBH", family, 0, 0) + body)
    batch += message(BATCH_END, 0, len(changes) + 1, struct.pack("!BBH", 0, 0, SUBSYSTEM))
    replies = [reply for _, reply in kernel.send(batch)] or [codec.NO_ANSWER]
    return next((reply for reply in replies if reply[0]), (0, ""))


def _content(table: Table) -> Iterable[tuple[int, int, bytes]]:
    own = text(1, table.name)
    for at, nft_set in enumerate(table.sets, 1):
        body = own + text(2, nft_set.name) + number(4, nft_set.type_number) + number(5, nft_set.octets) + number(10, at)
        body += number(3, MAP if nft_set.value_octets else 0)
        if nft_set.value_octets:
            body += number(6, nft_set.value_type) + number(7, nft_set.value_octets) + attribute(13, HOST_ORDER)
        yield NEW_SET, codec.CREATE, body
        for start in range(0, len(nft_set.elements), ELEMENTS_AT_ONCE):
            elements = [
                nested(1, nested(1, attribute(1, key)), nested(2, attribute(1, value)) if value else b"")
                for key, value in nft_set.elements[start : start + ELEMENTS_AT_ONCE]
            ]
            yield NEW_ELEMENTS, codec.CREATE, own + text(2, nft_set.name) + nested(3, *elements)
    for chain in table.chains:
        hook = nested(4, number(1, chain.hook), attribute(2, struct.pack("!i", chain.priority)))
        yield NEW_CHAIN, codec.CREATE, own + text(3, chain.name) + hook + text(7, "filter") + number(5, ACCEPT)
        for rule in chain.rules:
            yield NEW_RULE, codec.CREATE | codec.APPEND, own + text(2, chain.name) + nested(4, *rule)
