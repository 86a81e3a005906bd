"""The networks to which routing delivers all packets to this host: local routes, by netlink.

`ip route add local 192.0.2.0/24 dev lo` makes one, and so does the kernel for each address, and for the network of an
address of lo. Rules with conditions other than the daddr are left out: their tables route only some packets.
"""

from __future__ import annotations

from pylvs.model import sockets as socket
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, NetlinkError, attributes, number

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator

Network = tuple[int, int, bytes]  # family (AF_INET, AF_INET6), prefix length, address

_LOCAL, _ANYCAST = 2, 4  # RTN_*
_KINDS = ((socket.AF_INET, _LOCAL), (socket.AF_INET6, _LOCAL), (socket.AF_INET6, _ANYCAST))
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}  # bytes of an address
_DST, _TABLE = 1, 15  # RTA_DST and RTA_TABLE, FRA_DST and FRA_TABLE
_CONDITIONLESS = {_DST, 6, 11, 14, _TABLE, 21}  # FRA_PRIORITY, _FLOW, _SUPPRESS_PREFIXLEN, _PROTOCOL
_TO_TABLE, _INVERT = 1, 2  # FR_ACT_TO_TBL, FIB_RULE_INVERT
_ATTEMPTS = 5  # at a dump that changes of other routes interrupt


def local_networks() -> set[Network]:
    """Return the networks. Raises PylvsError, OSError."""
    found = set()
    with Netlink() as link:
        try:
            rules = list(_rules(link.dump(codec.GETRULE, codec.RTMSG.pack(*bytes(9)), _ATTEMPTS)))
            for family, kind in _KINDS:
                body = codec.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, kind, 0)
                for table, network in _routes(link.dump(codec.GETROUTE, body, _ATTEMPTS), family, kind):
                    for rule_table, to in rules:
                        if rule_table == table and to[0] == family and (common := _intersection(network, to)):
                            found.add(common)
        except NetlinkError as error:
            raise error.as_failure("asking for local routes") from None
    return found


def _rules(messages: list[bytes]) -> Iterator[tuple[int, Network]]:
    """Yield the tables that each packet to a network reaches."""
    for message in messages:
        family, bits, from_bits, tos, table, _, _, action, flags = codec.RTMSG.unpack_from(message)
        parts = attributes(message, codec.RTMSG.size)
        conditional = from_bits or tos or flags & _INVERT or parts.keys() - _CONDITIONLESS
        if family in _LENGTHS and action == _TO_TABLE and not conditional:
            yield number(parts.get(_TABLE)) or table, (family, bits, parts.get(_DST, bytes(_LENGTHS[family])))


def _routes(messages: list[bytes], family: int, kind: int) -> Iterator[tuple[int, Network]]:
    """Yield the table and the network of each route of this kind."""
    for message in messages:
        other, bits, _, _, table, _, _, other_kind, _ = codec.RTMSG.unpack_from(message)
        if (other, other_kind) == (family, kind):  # without IPv6 the kernel reports the routes of other families
            parts = attributes(message, codec.RTMSG.size)
            yield number(parts.get(_TABLE)) or table, (family, bits, parts.get(_DST, bytes(_LENGTHS[family])))


def _intersection(one: Network, other: Network) -> Network | None:
    """Return the smaller one of two networks of a family, if the other one contains it."""
    large, small = sorted((one, other), key=lambda network: network[1])
    excess = 8 * len(large[2]) - large[1]
    same = int.from_bytes(large[2], "big") >> excess == int.from_bytes(small[2], "big") >> excess
    return small if same else None
