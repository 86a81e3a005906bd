"""The order of listings.

ipvsadm compares by differences wrapped to signed 32 bits, so that numbers half the space apart sort the other way
round; three can even go round in a circle. Where no two numbers are that far apart it is the order of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cmp_to_key
from ipaddress import IPv4Address
from operator import itemgetter

from pylvs.ipvsadm.values import as_int
from pylvs.model.addresses import Address
from pylvs.model.rows import DestinationRow, ServiceRow

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import TypeVar

    Row = TypeVar("Row")

Key = tuple[int, ...]
HALF_THE_SPACE = 1 << 31


def sorted_services(rows: Iterable[ServiceRow]) -> list[ServiceRow]:
    """By mark, family, protocol, address, port."""
    return _sorted(rows, _service_key)


def sorted_destinations(rows: Iterable[DestinationRow]) -> list[DestinationRow]:
    """By address, port. An IPv4 address is compared with the first word of an IPv6 one."""
    return _sorted(rows, _destination_key)


def _service_key(row: ServiceRow) -> Key:
    key = row.service.key
    return (key.mark, key.family, key.protocol, *_words(key.address), key.port)


def _destination_key(row: DestinationRow) -> Key:
    key = row.destination.key
    return (*_words(key.address), key.port)


def _words(address: Address) -> Key:
    number = int(address)
    if isinstance(address, IPv4Address):
        return number, 0, 0, 0
    return number >> 96, number >> 64 & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF


def _sorted(rows: Iterable[Row], key_of: Callable[[Row], Key]) -> list[Row]:
    keyed = [(key_of(row), row) for row in rows]
    if all(max(column) - min(column) < HALF_THE_SPACE for column in zip(*(key for key, _ in keyed), strict=True)):
        keyed.sort(key=itemgetter(0))
    else:
        by_difference = cmp_to_key(_compare)
        keyed.sort(key=lambda pair: by_difference(pair[0]))
    return [row for _, row in keyed]


def _compare(one: Key, other: Key) -> int:
    for left, right in zip(one, other, strict=True):
        if left != right:
            return as_int(left - right)
    return 0
