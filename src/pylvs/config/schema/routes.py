"""Lines of virtual_routes and static_routes: the unabbreviated arguments of `ip route add`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.config.schema.types import address_of, did_you_mean, number_of
from pylvs.config.schema.vrrp_types import interface_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import PROTOCOL_KEEPALIVED, TABLE_MAIN, Network, NextHop, Route
from pylvs.netlink.iproute2 import Names, named

MAX_U32 = 0xFFFFFFFF
ROUTE_TYPES = ("unicast", "local", "broadcast", "multicast", "throw", "unreachable", "prohibit", "blackhole", "nat")
LOCKABLE = ("mtu", "hoplimit", "advmss", "rtt", "rttvar", "reordering", "window", "cwnd", "ssthresh", "rto_min")
TIMES = ("rtt", "rttvar", "rto_min")
TIME = re.compile(r"[0-9]+(\.[0-9]+)?(s|ms)?\Z")
ROUTE_LIMITS = dict.fromkeys((*LOCKABLE, "initcwnd", "initrwnd", "expires"), MAX_U32)
ROUTE_LIMITS |= {"hoplimit": 255, "quickack": 1, "fastopen_no_cookie": 1}
ROUTE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "features": ("ecn",),
    "pref": ("low", "medium", "high"),
    "ttl-propagate": ("enabled", "disabled"),
}
OTHER_OPTIONS = ("congctl", "realms")
IPV6_ONLY = ("pref", "expires")
UNSUPPORTED = {"vrf": "write the VRF's table: table N", "encap": "write dev and a tunnel device", "as": "remove it"}
ROUTE_NUMBERS = {"table": "table", "scope": "scope", "protocol": "protocol", "tos": "tos", "dsfield": "tos"}
ROUTE_NUMBERS |= dict.fromkeys(("metric", "priority", "preference"), "metric")


@dataclass(frozen=True, slots=True)
class WrittenRoute:
    """A route, and the words that findings about it, its devices and its group refer to."""

    route: Route
    word: Word
    devices: tuple[Word, ...] = ()
    group: Word | None = None


def network_of(word: Word, words: Words | None = None) -> Network:
    """Parse a network, ignoring host bits; raises BadValue."""
    return interface_of(word, words).network


def number_in(names: Names, word: Word, maximum: int, what: str) -> int:
    """Parse a number or one of iproute2's names; raises BadValue."""
    number = named(names, word.text, maximum)
    if number is None:
        raise BadValue(
            f"{what} '{word.text}' is neither a number up to {maximum} nor a name that iproute2 knows", "", word
        )
    return number


def number_up_to(word: Word, maximum: int, what: str) -> int:
    """Parse a number from 0 to `maximum`; raises BadValue."""
    number = number_of(word)
    if not 0 <= number <= maximum:
        raise BadValue(f"{what} {word.text} is not between 0 and {maximum}", "", word)
    return number


def service_of(word: Word) -> int:
    """Parse a type of service, hexadecimal as in iproute2 or one of its names; raises BadValue."""
    try:
        number = int(word.text, 16)
    except ValueError:
        return number_in(Names.SERVICES, word, 255, "type of service")
    if not 0 <= number <= 255:
        raise BadValue(f"type of service '{word.text}' is not between 0 and ff", "", word)
    return number


def realms_of(word: Word) -> str:
    """Check one realm or two; raises BadValue."""
    for part in word.text.split("/", 1):
        if named(Names.REALMS, part, 0xFFFF) is None:
            raise BadValue(f"realm '{part}' is neither a number nor a name that iproute2 knows", "", word)
    return word.text


@dataclass(slots=True)
class _RouteDraft:
    """A route while its line is parsed."""

    words: Words
    kind: str = "unicast"
    family: int = 0
    destination: Network | None = None
    default: bool = False
    source: Address | None = None
    vias: list[Address] = field(default_factory=list)
    device: Word | None = None
    hops: list[NextHop] = field(default_factory=list)
    devices: list[Word] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    options: list[tuple[str, str]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    group: Word | None = None

    def of_family(self, version: int, word: Word) -> None:
        """Set the family of the route; raises BadValue if it has the other one."""
        if self.family not in (0, version):
            raise BadValue("IPv4 and IPv6 in one route", "write a route for each", word)
        self.family = version

    def address(self, what: str) -> Address:
        """Take an address of the route's family."""
        word = self.words.take(what)
        if word.text in ("inet", "inet6"):
            word = self.words.take(what)
        address = address_of(word)
        self.of_family(address.version, word)
        return address

    def to(self, word: Word) -> None:
        if self.destination is not None or self.default:
            raise BadValue(f"'{word.text}' is a second destination", "write a route for each", word)
        if word.text in ("default", "any", "all"):
            self.default = True
        else:
            self.destination = network_of(word, self.words)
            self.of_family(self.destination.version, word)

    def src(self, _: Word) -> None:
        self.source = self.address("an address behind src")

    def via(self, word: Word) -> None:
        if word.text != "via":
            better = "via" if word.text == "gw" else "nexthop via"
            self.words.warn(word, f"'{word.text}' is old", f"write '{better}'")
        self.vias.append(self.address(f"an address behind {word.text}"))

    def dev(self, word: Word) -> None:
        if self.device is not None:
            raise BadValue("a second device for one route", "write nexthop for each way", word)
        self.device = self.words.take("a device behind dev")

    def flag(self, word: Word) -> None:
        self.flags.add(word.text)

    def next_hop(self) -> None:
        """Parse the arguments of `nexthop`."""
        via: Address | None = None
        device: Word | None = None
        weight, onlink = 1, False
        while (word := self.words.peek()) is not None and word.text != "nexthop":
            self.words.take("")
            if word.text == "via":
                via = self.address("an address behind via")
            elif word.text in ("dev", "oif"):
                device = self.words.take("a device behind dev")
            elif word.text == "weight":
                value = self.words.take("a weight")
                weight = number_of(value)
                if not 1 <= weight <= 256:
                    raise BadValue(f"weight {value.text} is not between 1 and 256", "", value)
            elif word.text == "onlink":
                onlink = True
            elif word.text == "realms":
                realms_of(self.words.take("realms"))
            else:
                raise _unknown(word, ("via", "dev", "weight", "onlink", "realms"))
        if device is not None:
            self.devices.append(device)
        self.hops.append(NextHop(via=via, device=device.text if device else "", weight=weight, onlink=onlink))

    def option(self, name: str, word: Word) -> None:
        """Check one of `ip route`'s other options and keep its text."""
        value = self.words.take(f"a value behind {name}")
        lock = ""
        if value.text == "lock" and (name in LOCKABLE or name == "congctl"):
            lock, value = "lock ", self.words.take(f"a value behind {name} lock")
        if name in IPV6_ONLY:
            self.of_family(6, word)
        if name in ROUTE_CHOICES:
            if value.text not in ROUTE_CHOICES[name]:
                raise BadValue(f"'{value.text}' is not one of {', '.join(ROUTE_CHOICES[name])}", "", value)
        elif name == "realms":
            realms_of(value)
        elif name in TIMES:
            if not TIME.match(value.text):
                raise BadValue(f"'{value.text}' is not a time", "write 20, 20ms or 2s", value)
        elif name in ROUTE_LIMITS:
            number_up_to(value, ROUTE_LIMITS[name], name)
        self.options.append((name, lock + value.text))

    def network(self, first: Word) -> Network:
        """Return the destination; `default` has the family of the other addresses."""
        if self.destination is not None:
            return self.destination
        if self.default:
            return ip_network("::/0" if self.family == 6 else "0.0.0.0/0")
        raise BadValue("the route has no destination", "write a network, or default", first)

    def route(self, first: Word) -> Route:
        network, numbers, tracked = self.network(first), self.numbers, "no_track" not in self.flags
        device = self.device.text if self.device else ""
        own = [NextHop(via=via, device=device, onlink="onlink" in self.flags) for via in self.vias]
        if not own and device:
            own = [NextHop(device=device, onlink="onlink" in self.flags)]
        if not device and tracked:
            self.words.warn(
                first,
                f"the route to {network} has no device, so keepalived would not notice its removal",
                "write 'dev DEVICE', or no_track",
            )
        if tracked and numbers.get("protocol", PROTOCOL_KEEPALIVED) != PROTOCOL_KEEPALIVED:
            self.words.warn(
                first, "a route that is tracked has protocol keepalived", "remove protocol, or add no_track"
            )
            del numbers["protocol"]
        return Route(
            destination=network,
            kind=self.kind,
            next_hops=(*own, *self.hops),
            source=self.source,
            table=numbers.get("table", TABLE_MAIN),
            scope=numbers.get("scope"),
            metric=numbers.get("metric", 0),
            tos=numbers.get("tos", 0),
            protocol=numbers.get("protocol", PROTOCOL_KEEPALIVED),
            append="append" in self.flags,
            options=tuple(self.options),
            tracked=tracked,
            track_group=self.group.text if self.group else "",
        )


def _unknown(word: Word, known: tuple[str, ...]) -> BadValue:
    return BadValue(f"'{word.text}' is not known in a route", did_you_mean(word.text, known), word)


ROUTE_KEYWORDS: Mapping[str, Callable[[_RouteDraft, Word], None]] = {
    "to": lambda draft, _: draft.to(draft.words.take("a destination")),
    "src": _RouteDraft.src,
    **dict.fromkeys(("via", "gw", "or"), _RouteDraft.via),
    **dict.fromkeys(("dev", "oif"), _RouteDraft.dev),
    "nexthop": lambda draft, _: draft.next_hop(),
    "inet": lambda draft, word: draft.of_family(4, word),
    "inet6": lambda draft, word: draft.of_family(6, word),
    **dict.fromkeys(("onlink", "append", "no_track"), _RouteDraft.flag),
}
NUMBER_READERS: Mapping[str, Callable[[Word], int]] = {
    "table": lambda word: number_in(Names.TABLES, word, MAX_U32, "table"),
    "scope": lambda word: number_in(Names.SCOPES, word, 255, "scope"),
    "protocol": lambda word: number_in(Names.PROTOCOLS, word, 255, "protocol"),
    "tos": service_of,
    "metric": lambda word: number_up_to(word, MAX_U32, "metric"),
}


@dataclass(frozen=True, slots=True)
class RouteLine(Type[WrittenRoute]):
    """A route; `static` if it does not depend on VRRP's state."""

    static: bool = False

    def parse(self, words: Words) -> WrittenRoute:
        draft = _RouteDraft(words)
        first = words.peek() or words.take("a route")
        for word in words.rest():
            self._word(draft, word)
        route = draft.route(first)
        devices = (*([draft.device] if draft.device else []), *draft.devices)
        return WrittenRoute(route, first, devices, draft.group)

    def _word(self, draft: _RouteDraft, word: Word) -> None:
        text = word.text
        if text in ROUTE_TYPES:
            draft.kind = text
        elif text in ROUTE_KEYWORDS:
            ROUTE_KEYWORDS[text](draft, word)
        elif text in ROUTE_NUMBERS:
            name = ROUTE_NUMBERS[text]
            draft.numbers[name] = NUMBER_READERS[name](draft.words.take(f"a value behind {text}"))
        elif text in ROUTE_LIMITS or text in ROUTE_CHOICES or text in OTHER_OPTIONS:
            draft.option(text, word)
        elif text == "track_group" and self.static:
            draft.group = draft.words.take("the name of a track_group")
        elif text in UNSUPPORTED:
            raise BadValue(f"a route with '{text}' is not made", UNSUPPORTED[text], word)
        else:
            self._destination(draft, word)

    def _destination(self, draft: _RouteDraft, word: Word) -> None:
        try:
            draft.to(word)
        except BadValue as problem:
            if word.text[:1].isdigit() or ":" in word.text:
                raise
            known = (*ROUTE_TYPES, *ROUTE_NUMBERS, *ROUTE_LIMITS, *ROUTE_CHOICES, *OTHER_OPTIONS, *ROUTE_KEYWORDS)
            raise _unknown(word, (*known, "track_group") if self.static else known) from problem

    def __str__(self) -> str:
        last = " [track_group NAME]" if self.static else ""
        return (
            f"[KIND] [src ADDRESS] NETWORK|default [via ADDRESS] [dev DEVICE] [`ip route`'s options] [no_track]{last}"
        )
