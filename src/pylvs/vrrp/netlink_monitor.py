"""Monitor links, addresses, routes and rules of the network namespace through one rtnetlink socket.

LinkState turns rtnetlink messages into changes and is pure.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.routing import PROTOCOL_KEEPALIVED, SCOPE_HOST, SCOPE_LINK, Interface
from pylvs.netlink import codec, monitor
from pylvs.netlink.codec import Netlink, NetlinkError, receive_all
from pylvs.netlink.monitor import AddressMessage, LinkMessage, Message, RouteKey, RouteMessage, RuleKey, RuleMessage
from pylvs.system.sockets import DROP, EQUALS, LOAD_1, LOAD_2, TAKE, attach, enlarge

# Multicast groups of rtnetlink(7).
LINKS, IPV4_ADDRESSES, IPV6_ADDRESSES, IPV4_ROUTES, IPV6_ROUTES = 1 << 0, 1 << 4, 1 << 8, 1 << 6, 1 << 10
IPV4_RULES, IPV6_RULES = 1 << 7, 1 << 18
GROUPS = LINKS | IPV4_ADDRESSES | IPV6_ADDRESSES | IPV4_ROUTES | IPV6_ROUTES | IPV4_RULES | IPV6_RULES
RECEIVE_BUFFER = 4 << 20  # bytes: some thousand changes at once
MOST_TORN = 8  # dumps that changes interrupted, before the last one is used as it is


Link = LinkMessage  # a device, with its addresses


@dataclass(frozen=True, slots=True)
class LinkAdded:
    link: Link


@dataclass(frozen=True, slots=True)
class LinkRemoved:
    """A device was removed or renamed."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkUp:
    link: Link


@dataclass(frozen=True, slots=True)
class LinkDown:
    link: Link


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A device has another MAC address or another MTU."""

    link: Link


@dataclass(frozen=True, slots=True)
class AddressAdded:
    """An address was added, or became usable."""

    interface: Interface
    device: str
    usable: bool


@dataclass(frozen=True, slots=True)
class AddressRemoved:
    interface: Interface
    device: str


@dataclass(frozen=True, slots=True)
class KeyRemoved:
    """A route or rule of protocol keepalived was removed."""

    key: RouteKey | RuleKey


REMOVES_ROUTES = LinkDown | LinkRemoved | AddressRemoved  # the kernel removes IPv4 routes with it, without a message
Change = LinkAdded | LinkRemoved | LinkUp | LinkDown | LinkChanged | AddressAdded | AddressRemoved | KeyRemoved


def link_changes(before: Link | None, after: Link | None) -> Iterator[Change]:
    """Yield the changes between two states of the link with one index."""
    if before is not None and after is not None and before.name != after.name:
        yield from (*link_changes(before, None), *link_changes(None, after))
        return
    had = {each.interface: each.usable for each in before.addresses} if before else {}
    has = {each.interface: each.usable for each in after.addresses} if after else {}
    link = after or before
    if link is None:
        return
    ran, runs = before is not None and before.running, after is not None and after.running
    yield from (AddressRemoved(each, link.name) for each in had if each not in has)
    if ran and not runs:
        yield LinkDown(link)
    if after is None:
        yield LinkRemoved(link)
    elif before is None:
        yield LinkAdded(link)
    elif (before.mac, before.mtu) != (after.mac, after.mtu):
        yield LinkChanged(link)
    if runs and not ran:
        yield LinkUp(link)
    for address, usable in has.items():
        if address not in had or (usable and not had[address]):
            yield AddressAdded(address, link.name, usable)


def vrf_of(links: Mapping[str, Link], device: str) -> Link | None:
    """Return the VRF that a device belongs to."""
    link = links.get(device)
    found = (each for each in links.values() if link is not None and each.index == link.master and each.kind == "vrf")
    return next(found, None)


def replaced_devices(changes: Iterable[Change]) -> set[str]:
    """Return the devices that were added, removed, or have another link address or MTU."""
    return {each.link.name for each in changes if isinstance(each, LinkAdded | LinkRemoved | LinkChanged)}


class LinkState:
    """Links with their addresses, and the routes and rules of protocol keepalived, by all messages so far."""

    def __init__(self) -> None:
        self.by_index: dict[int, Link] = {}
        self.by_name: dict[str, Link] = {}
        self.keys: set[RouteKey | RuleKey] = set()

    def update(self, message: Message) -> list[Change]:
        """Apply a message."""
        if isinstance(message, RouteMessage | RuleMessage):
            return self._set_key(message)
        before = self.by_index.get(message.index)
        if isinstance(message, AddressMessage):
            after = _with_address(before, message)
        else:
            after = None if message.gone else replace(message, addresses=before.addresses if before else ())
        self._set(before, after)
        return list(link_changes(before, after))

    def replace(self, messages: Iterable[Message]) -> list[Change]:
        """Apply a complete dump."""
        fresh = LinkState()
        for message in messages:
            fresh.update(message)
        changes: list[Change] = []
        for index in self.by_index.keys() | fresh.by_index.keys():
            changes += link_changes(self.by_index.get(index), fresh.by_index.get(index))
        changes += [KeyRemoved(key) for key in self.keys - fresh.keys]
        self.by_index, self.by_name, self.keys = fresh.by_index, fresh.by_name, fresh.keys
        return changes

    def replace_routes(self, messages: Iterable[Message]) -> list[Change]:
        """Apply a complete dump of routes."""
        present = {
            each.key for each in messages if isinstance(each, RouteMessage) and each.protocol == PROTOCOL_KEEPALIVED
        }
        removed = self.routes - present
        self.keys = self.keys - removed | present
        return [KeyRemoved(key) for key in removed]

    @property
    def routes(self) -> set[RouteKey]:
        """The keys of routes alone."""
        return {key for key in self.keys if isinstance(key, RouteKey)}

    def _set_key(self, message: RouteMessage | RuleMessage) -> list[Change]:
        if message.protocol != PROTOCOL_KEEPALIVED:
            return []
        if not message.gone:
            self.keys.add(message.key)
            return []
        was_known = message.key in self.keys
        self.keys.discard(message.key)
        return [KeyRemoved(message.key)] if was_known else []

    def _set(self, before: Link | None, after: Link | None) -> None:
        if before is not None and self.by_name.get(before.name) is before:
            del self.by_name[before.name]
        if after is not None:
            self.by_index[after.index] = self.by_name[after.name] = after
        elif before is not None:
            del self.by_index[before.index]


def _with_address(before: Link | None, message: AddressMessage) -> Link | None:
    """Apply a message; a link has an IPv6 address once, an IPv4 address once for each prefix."""
    if before is None:
        return None  # the link was removed, or a message with all its addresses follows
    addresses, new = list(before.addresses), message.interface
    ip = new.ip
    for at, present in enumerate(addresses):
        if present.interface.ip == ip and (new.version == 6 or present.interface.network == new.network):
            addresses[at : at + 1] = [] if message.gone else [message]
            break
    else:
        if not message.gone:
            addresses.append(message)
    return replace(before, addresses=tuple(addresses))


class NetlinkMonitor:
    """Links, addresses, and routes and rules of protocol keepalived, of the calling thread's network namespace."""

    def __init__(self, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._request_socket = Netlink()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        enlarge(self._socket, receive_buffer)
        _drop_foreign_routes(self._socket)
        self._socket.bind((0, GROUPS))
        self._state = LinkState()
        self._state.replace(self._dump_all())

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._request_socket.close()

    @property
    def links(self) -> Mapping[str, Link]:
        """The devices by name, as of the last `read`."""
        return self._state.by_name

    def renamed(self, changes: Iterable[Change]) -> dict[str, str]:
        """Return the devices that these changes renamed: the former name with the present one."""
        found = {}
        for change in changes:
            if isinstance(change, LinkRemoved):
                now = self._state.by_index.get(change.link.index)
                if now is not None and now.name != change.link.name:
                    found[change.link.name] = now.name
        return found

    @property
    def keys(self) -> Collection[RouteKey | RuleKey]:
        """The routes and rules of protocol keepalived, as of the last `read`."""
        return self._state.keys

    def read(self) -> list[Change]:
        """Return the changes since the last call; after lost messages, by a complete dump."""
        changes: list[Change] = []
        stale = False
        while True:
            try:
                for data in receive_all(self._socket):
                    for message in monitor.read(data):
                        changes += self._state.update(message)
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                stale = True
        if stale:
            changes += self._state.replace(self._dump_all())
        elif self._state.routes and any(isinstance(each, REMOVES_ROUTES) for each in changes):
            changes += self._state.replace_routes(self._dump_routes())
        return changes

    def primary_address(self, device: str, family: int, excluded: Collection[Address] = ()) -> Address | None:
        """Return the source address for VRRP: the first IPv4 address (RFC 9568, 1.7), or IPv6's first link-local one.

        `family` is 4 or 6; `excluded` are the virtual addresses.
        """
        link = self.links.get(device)
        return select_primary(link.addresses, family, excluded) if link else None

    def _dump_all(self) -> Iterator[Message]:
        yield from self._dump(codec.GETLINK, codec.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        yield from self._dump(codec.GETADDR, codec.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        yield from self._dump_routes()
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._dump(codec.GETRULE, codec.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))

    def _dump_routes(self) -> Iterator[Message]:
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._dump(codec.GETROUTE, codec.RTMSG.pack(family, 0, 0, 0, 0, PROTOCOL_KEEPALIVED, 0, 0, 0))

    def _dump(self, kind: int, body: bytes) -> Iterator[Message]:
        try:
            found = self._request_socket.dump(kind, body, MOST_TORN)
        except NetlinkError as error:
            raise OSError(error.number, os.strerror(error.number)) from None
        new = kind - 2  # RTM_NEWLINK for RTM_GETLINK, and so on
        for content in found:
            if (message := monitor.understood(new, content)) is not None:
                yield message


def select_primary(
    addresses: Iterable[AddressMessage], family: int, excluded: Collection[Address] = ()
) -> Address | None:
    """Return the first usable address; others rank before deprecated ones and IPv4 secondaries."""
    usable = [each for each in addresses if each.interface.version == family and each.usable]
    wanted = [each for each in usable if each.interface.ip not in excluded]
    if family == 6:
        wanted = [each for each in wanted if each.interface.ip.is_link_local]
        wanted.sort(key=lambda each: bool(each.flags & monitor.DEPRECATED))
    else:
        wanted = [each for each in wanted if each.scope < SCOPE_HOST]
        wanted.sort(key=lambda each: (each.scope >= SCOPE_LINK, bool(each.flags & monitor.SECONDARY)))
    return wanted[0].interface.ip if wanted else None


def _drop_foreign_routes(receiver: socket.socket) -> None:
    """Drop routes of other protocols in the kernel: a routing daemon may have a million."""
    type_offset, protocol_offset = 4, 16 + 5
    program = (
        (LOAD_2, 0, 0, type_offset),  # classic BPF loads in network byte order, the header is in host order
        (EQUALS, 1, 0, socket.htons(codec.NEWROUTE)),
        (EQUALS, 0, 2, socket.htons(codec.DELROUTE)),
        (LOAD_1, 0, 0, protocol_offset),
        (EQUALS, 0, 1, PROTOCOL_KEEPALIVED),
        TAKE,
        DROP,
    )
    attach(receiver, program)
