"""The machine's links, addresses, routes and rules, and every change of them, from one socket that never waits."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import PROTOCOL_KEEPALIVED, SCOPE_HOST, SCOPE_LINK
from pylvs.netlink import monitor
from pylvs.netlink.monitor import AddressNews, LinkNews, News, RouteKey, RouteNews, RuleKey, RuleNews
from pylvs.netlink.rtnl import RouteSocket, receive_all
from pylvs.system.socket_filter import DROP, EQUALS, LOAD_1, LOAD_2, TAKE, attach, enlarge

# Multicast groups of rtnetlink(7).
LINKS, IPV4_ADDRESSES, IPV6_ADDRESSES, IPV4_ROUTES, IPV6_ROUTES = 1 << 0, 1 << 4, 1 << 8, 1 << 6, 1 << 10
IPV4_RULES, IPV6_RULES = 1 << 7, 1 << 18
WAYS = IPV4_ROUTES | IPV6_ROUTES | IPV4_RULES | IPV6_RULES
RECEIVE_BUFFER = 4 << 20  # octets: some thousand changes at once


@dataclass(frozen=True, slots=True)
class Link:
    """A device as it is."""

    index: int
    name: str
    mac: bytes = b""
    mtu: int = 0
    enabled: bool = False  # the administrator's word
    up: bool = False  # and the cable's
    below: int = 0  # index of the device below
    kind: str = ""
    addresses: tuple[AddressNews, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkCame:
    """A device is there."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkGone:
    """A device has gone, or has another name now."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkUp:
    """It can carry packets."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkDown:
    """It cannot."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """It has another MAC address or another MTU."""

    link: Link


@dataclass(frozen=True, slots=True)
class AddressCame:
    """An address is there, or may now be used."""

    address: Address
    prefix: int
    device: str
    usable: bool


@dataclass(frozen=True, slots=True)
class AddressGone:
    """An address was taken off."""

    address: Address
    prefix: int
    device: str


@dataclass(frozen=True, slots=True)
class RouteGone:
    """A route of protocol keepalived has gone."""

    key: RouteKey


@dataclass(frozen=True, slots=True)
class RuleGone:
    """A rule of protocol keepalived has gone."""

    key: RuleKey


Change = LinkCame | LinkGone | LinkUp | LinkDown | LinkChanged | AddressCame | AddressGone | RouteGone | RuleGone


def changes(before: Link | None, after: Link | None) -> Iterator[Change]:
    """What happened between two pictures of the link with one index."""
    if before is not None and after is not None and before.name != after.name:
        yield from changes(before, None)
        before = None
    if (last := after or before) is None:
        return
    had = {each.interface: each for each in before.addresses} if before else {}
    has = {each.interface: each for each in after.addresses} if after else {}
    if before is None and after is not None:
        yield LinkCame(after)
    for interface in had.keys() - has.keys():
        yield AddressGone(interface.ip, interface.network.prefixlen, last.name)
    if before is not None and before.up and (after is None or not after.up):
        yield LinkDown(last)
    if before is not None and after is None:
        yield LinkGone(before)
    if before is not None and after is not None and (before.mac, before.mtu) != (after.mac, after.mtu):
        yield LinkChanged(after)
    if after is not None and after.up and (before is None or not before.up):
        yield LinkUp(after)
    for interface, each in has.items():
        if interface not in had or (each.usable and not had[interface].usable):
            yield AddressCame(interface.ip, interface.network.prefixlen, last.name, each.usable)


Key = TypeVar("Key", RouteKey, RuleKey)


class Picture:
    """All that was told so far; pure."""

    def __init__(self) -> None:
        self.by_index: dict[int, Link] = {}
        self.by_name: dict[str, Link] = {}
        self.routes: set[RouteKey] = set()
        self.rules: set[RuleKey] = set()

    def tell(self, told: News) -> list[Change]:
        """One more thing is known."""
        if isinstance(told, RouteNews):
            return [RouteGone(told.key)] if _gone(self.routes, told.key, told) else []
        if isinstance(told, RuleNews):
            return [RuleGone(told.key)] if _gone(self.rules, told.key, told) else []
        before = self.by_index.get(told.index)
        after = _link(before, told) if isinstance(told, LinkNews) else _addressed(before, told)
        self._set(before, after)
        return list(changes(before, after))

    def replace(self, told: Iterable[News]) -> list[Change]:
        """Everything is known anew."""
        fresh = Picture()
        for each in told:
            fresh.tell(each)
        found: list[Change] = []
        for index in self.by_index.keys() | fresh.by_index.keys():
            found += changes(self.by_index.get(index), fresh.by_index.get(index))
        found += [RouteGone(key) for key in self.routes - fresh.routes]
        found += [RuleGone(rule) for rule in self.rules - fresh.rules]
        self.by_index, self.by_name = fresh.by_index, fresh.by_name
        self.routes, self.rules = fresh.routes, fresh.rules
        return found

    def replace_routes(self, told: Iterable[News]) -> list[Change]:
        """The routes are known anew."""
        now = {each.key for each in told if isinstance(each, RouteNews) and each.protocol == PROTOCOL_KEEPALIVED}
        gone, self.routes = self.routes - now, now
        return [RouteGone(key) for key in gone]

    def _set(self, before: Link | None, after: Link | None) -> None:
        if before is not None and self.by_name.get(before.name) is before:
            del self.by_name[before.name]
        if after is not None:
            self.by_index[after.index] = self.by_name[after.name] = after
        elif before is not None:
            del self.by_index[before.index]


def _gone(known: set[Key], key: Key, told: RouteNews | RuleNews) -> bool:
    """Whether one that was known has gone; only those of protocol keepalived are ever known."""
    if told.protocol != PROTOCOL_KEEPALIVED:
        return False
    if not told.gone:
        known.add(key)
        return False
    was = key in known
    known.discard(key)
    return was


def _link(before: Link | None, told: LinkNews) -> Link | None:
    if told.gone:
        return None
    addresses = before.addresses if before else ()
    return Link(told.index, told.name, told.mac, told.mtu, told.enabled, told.running, told.below, told.kind, addresses)


def _addressed(before: Link | None, told: AddressNews) -> Link | None:
    if before is None:
        return None  # of a link that has gone meanwhile, or is told of later with all that it has
    kept = [each for each in before.addresses if not _same(each, told)]
    if told.gone:
        return replace(before, addresses=tuple(kept))
    at = next((at for at, each in enumerate(before.addresses) if _same(each, told)), len(kept))
    kept.insert(at, told)
    return replace(before, addresses=tuple(kept))


def _same(one: AddressNews, other: AddressNews) -> bool:
    """IPv6 has an address once on a link; IPv4 once for each prefix."""
    return one.interface.ip == other.interface.ip and (
        one.interface.version == 6 or one.interface.network == other.interface.network
    )


class Watch:
    """Links and addresses of the network namespace that the calling thread is in.

    With `routes`, also the routes and rules of protocol keepalived.
    """

    def __init__(self, routes: bool = False, receive_buffer: int = RECEIVE_BUFFER) -> None:
        groups = LINKS | IPV4_ADDRESSES | IPV6_ADDRESSES | (WAYS if routes else 0)
        self._with_routes = routes
        self._asking = RouteSocket()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        enlarge(self._socket, receive_buffer)
        if routes:
            _without_foreign_routes(self._socket)
        self._socket.bind((0, groups))
        self._picture = Picture()
        self._picture.replace(self._everything())

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._socket.fileno()

    def close(self) -> None:
        """Both sockets."""
        self._socket.close()
        self._asking.close()

    @property
    def links(self) -> Mapping[str, Link]:
        """Each device by its name, as last read."""
        return self._picture.by_name

    @property
    def routes(self) -> Collection[RouteKey]:
        """Those of protocol keepalived, as last read."""
        return self._picture.routes

    @property
    def rules(self) -> Collection[RuleKey]:
        """Likewise."""
        return self._picture.rules

    def name_of(self, index: int) -> str:
        """A device's name by its number; "" if there is none."""
        link = self._picture.by_index.get(index)
        return link.name if link else ""

    def read(self) -> list[Change]:
        """What has changed since; where news were lost, by looking at everything again."""
        found: list[Change] = []
        stale = False
        while True:
            try:
                for data in receive_all(self._socket):
                    for told in monitor.read(data):
                        found += self._picture.tell(told)
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                stale = True
        if stale:
            found += self._picture.replace(self._everything())
        elif self._with_routes and self._picture.routes and any(map(_takes_routes, found)):
            found += self._picture.replace_routes(self._all_routes())
        return found

    def primary_address(self, device: str, family: int, not_these: Collection[Address] = ()) -> Address | None:
        """What VRRP sends from: the first IPv4 address (RFC 9568, 1.7), or the first link-local one of IPv6.

        `family` is 4 or 6; `not_these` are the virtual ones.
        """
        link = self.links.get(device)
        return primary(link.addresses, family, not_these) if link else None

    def _everything(self) -> Iterator[News]:
        yield from self._of(monitor.GETLINK, monitor.LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        yield from self._of(monitor.GETADDR, monitor.ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        if self._with_routes:
            yield from self._all_routes()
            for family in (socket.AF_INET, socket.AF_INET6):
                yield from self._of(monitor.GETRULE, monitor.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))

    def _all_routes(self) -> Iterator[News]:
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._of(monitor.GETROUTE, monitor.ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL_KEEPALIVED, 0, 0, 0))

    def _of(self, kind: int, body: bytes) -> Iterator[News]:
        for answer, content in self._asking.dump(kind, body):
            if (told := monitor.understood(answer, content)) is not None:
                yield told


def primary(addresses: Iterable[AddressNews], family: int, not_these: Collection[Address] = ()) -> Address | None:
    """The first that serves, rather one that is not deprecated, nor an IPv4 address beside another of its network."""
    wanted = [
        each
        for each in addresses
        if each.interface.version == family and each.usable and each.interface.ip not in not_these
    ]
    if family == 6:
        wanted = [each for each in wanted if each.interface.ip.is_link_local]
        wanted.sort(key=lambda each: bool(each.flags & monitor.DEPRECATED))
    else:
        wanted = [each for each in wanted if each.scope < SCOPE_HOST]
        wanted.sort(key=lambda each: (each.scope >= SCOPE_LINK, bool(each.flags & monitor.SECONDARY)))
    return wanted[0].interface.ip if wanted else None


def _takes_routes(change: Change) -> bool:
    """Whether the kernel drops IPv4 routes with it without a word."""
    return isinstance(change, LinkDown | LinkGone | AddressGone)


def _without_foreign_routes(receiving: socket.socket) -> None:
    """Let the kernel keep back the routes of other protocols, of which a routing daemon may have a million."""
    type_offset, protocol_offset = 4, 16 + 5
    program = (
        (LOAD_2, 0, 0, type_offset),  # which classic BPF loads as the network has it
        (EQUALS, 1, 0, socket.htons(monitor.NEWROUTE)),
        (EQUALS, 0, 2, socket.htons(monitor.DELROUTE)),
        (LOAD_1, 0, 0, protocol_offset),
        (EQUALS, 0, 1, PROTOCOL_KEEPALIVED),
        TAKE,
        DROP,
    )
    attach(receiving, program)
