"""Lines of virtual_routes and static_routes: the words of `ip route add`, unabbreviated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network

from pylvs.config.schema.addresses import interface_of
from pylvs.config.schema.nouns import Type, Words, Wrong
from pylvs.config.schema.types import address_of, did_you_mean, number_of
from pylvs.config.tree import Word
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import PROTOCOL_KEEPALIVED, TABLE_MAIN, Network, NextHop, Route
from pylvs.netlink.iproute2 import Names, named

MOST = 0xFFFFFFFF
KINDS = ("unicast", "local", "broadcast", "multicast", "throw", "unreachable", "prohibit", "blackhole", "nat")
LOCKABLE = ("mtu", "hoplimit", "advmss", "rtt", "rttvar", "reordering", "window", "cwnd", "ssthresh", "rto_min")
TIMES = ("rtt", "rttvar", "rto_min")
TIME = re.compile(r"[0-9]+(\.[0-9]+)?(s|ms)?\Z")
LIMITS = dict.fromkeys((*LOCKABLE, "initcwnd", "initrwnd", "expires"), MOST)
LIMITS |= {"hoplimit": 255, "quickack": 1, "fastopen_no_cookie": 1}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "features": ("ecn",),
    "pref": ("low", "medium", "high"),
    "ttl-propagate": ("enabled", "disabled"),
}
FREE = ("congctl", "realms")
IPV6_ONLY = ("pref", "expires")
NOT_DONE = {"vrf": "write the VRF's table: table N", "encap": "write dev and a tunnel device", "as": "remove it"}
NUMBERS = {"table": "table", "scope": "scope", "protocol": "protocol", "tos": "tos", "dsfield": "tos"}
NUMBERS |= dict.fromkeys(("metric", "priority", "preference"), "metric")
PLACES = ("to", "src", "via", "gw", "or", "dev", "oif", "nexthop", "inet", "inet6", "onlink", "append", "no_track")


@dataclass(frozen=True, slots=True)
class Routed:
    """A route, and the words that name it, its devices and its group."""

    route: Route
    word: Word
    devices: tuple[Word, ...] = ()
    group: Word | None = None


def network_of(word: Word, words: Words | None = None) -> Network:
    """A network; the host's bits do not count. Raises Wrong."""
    return interface_of(word, words).network


def number_in(names: Names, word: Word, most: int, what: str) -> int:
    """A number, or a name of iproute2's; raises Wrong."""
    number = named(names, word.text, most)
    if number is None:
        raise Wrong(f"{what} '{word.text}' is neither a number up to {most} nor a name that iproute2 knows", "", word)
    return number


def service_of(word: Word) -> int:
    """A type of service: hexadecimal, as iproute2 reads it, or a name of its own. Raises Wrong."""
    try:
        number = int(word.text, 16)
    except ValueError:
        return number_in(Names.SERVICES, word, 255, "type of service")
    if not 0 <= number <= 255:
        raise Wrong(f"type of service '{word.text}' is not between 0 and ff", "", word)
    return number


def realms_of(word: Word) -> str:
    """One realm or two, checked. Raises Wrong."""
    for part in word.text.split("/", 1):
        if named(Names.REALMS, part, 0xFFFF) is None:
            raise Wrong(f"realm '{part}' is neither a number nor a name that iproute2 knows", "", word)
    return word.text


@dataclass(slots=True)
class _Draft:
    """A route while its line is read."""

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
    onlink: bool = False
    append: bool = False
    tracked: bool = True
    group: Word | None = None

    def of_family(self, version: int, word: Word) -> None:
        """An address of this family is in the route; Wrong if another one was."""
        if self.family not in (0, version):
            raise Wrong("IPv4 and IPv6 in one route", "write a route for each", word)
        self.family = version

    def address(self, what: str) -> Address:
        """The next word as an address of the route's family."""
        word = self.words.take(what)
        if word.text in ("inet", "inet6"):
            word = self.words.take(what)
        address = address_of(word)
        self.of_family(address.version, word)
        return address

    def to(self, word: Word) -> None:
        """The destination."""
        if self.destination is not None or self.default:
            raise Wrong(f"'{word.text}' is a second destination", "write a route for each", word)
        if word.text in ("default", "any", "all"):
            self.default = True
        else:
            self.destination = network_of(word, self.words)
            self.of_family(self.destination.version, word)

    def next_hop(self) -> None:
        """What stands behind `nexthop`."""
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
                    raise Wrong(f"weight {value.text} is not between 1 and 256", "", value)
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
        """One of `ip route`'s other options, checked and kept in its words."""
        value = self.words.take(f"a value behind {name}")
        lock = ""
        if value.text == "lock" and (name in LOCKABLE or name == "congctl"):
            lock, value = "lock ", self.words.take(f"a value behind {name} lock")
        if name in IPV6_ONLY:
            self.of_family(6, word)
        if name in CHOICES:
            if value.text not in CHOICES[name]:
                raise Wrong(f"'{value.text}' is not one of {', '.join(CHOICES[name])}", "", value)
        elif name == "realms":
            realms_of(value)
        elif name in TIMES:
            if not TIME.match(value.text):
                raise Wrong(f"'{value.text}' is not a time", "write 20, 20ms or 2s", value)
        elif name in LIMITS and not 0 <= number_of(value) <= LIMITS[name]:
            raise Wrong(f"{name} {value.text} is not between 0 and {LIMITS[name]}", "", value)
        self.options.append((name, lock + value.text))

    def network(self, first: Word) -> Network:
        """Where the route leads; `default` is of the family of the rest."""
        if self.destination is not None:
            return self.destination
        if self.default:
            return ip_network("::/0" if self.family == 6 else "0.0.0.0/0")
        raise Wrong("the route has no destination", "write a network, or default", first)

    def route(self, first: Word) -> Route:
        """The whole line."""
        network, numbers = self.network(first), self.numbers
        device = self.device.text if self.device else ""
        own = [NextHop(via=via, device=device, onlink=self.onlink) for via in self.vias]
        if not own and device:
            own = [NextHop(device=device, onlink=self.onlink)]
        if not device and self.tracked:
            self.words.warn(
                first,
                f"the route to {network} has no device, so keepalived would not notice its removal",
                "write 'dev DEVICE', or no_track",
            )
        if self.tracked and numbers.get("protocol", PROTOCOL_KEEPALIVED) != PROTOCOL_KEEPALIVED:
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
            append=self.append,
            options=tuple(self.options),
            tracked=self.tracked,
            track_group=self.group.text if self.group else "",
        )


def _unknown(word: Word, known: tuple[str, ...]) -> Wrong:
    return Wrong(f"'{word.text}' is not known in a route", did_you_mean(word.text, known), word)


READ: Mapping[str, Callable[[Word], int]] = {
    "table": lambda word: number_in(Names.TABLES, word, MOST, "table"),
    "scope": lambda word: number_in(Names.SCOPES, word, 255, "scope"),
    "protocol": lambda word: number_in(Names.PROTOCOLS, word, 255, "protocol"),
    "tos": service_of,
    "metric": lambda word: _up_to(word, MOST, "metric"),
}


def _up_to(word: Word, most: int, what: str) -> int:
    number = number_of(word)
    if not 0 <= number <= most:
        raise Wrong(f"{what} {word.text} is not between 0 and {most}", "", word)
    return number


@dataclass(frozen=True, slots=True)
class RouteLine(Type[Routed]):
    """A route; `fixed` for those that stay whoever is master."""

    fixed: bool = False

    def parse(self, words: Words) -> Routed:
        """The route; one that cannot be had as written is none at all."""
        draft = _Draft(words)
        first = words.peek() or words.take("a route")
        for word in words.rest():
            self._word(draft, word)
        route = draft.route(first)
        devices = (*([draft.device] if draft.device else []), *draft.devices)
        return Routed(route, first, devices, draft.group)

    def _word(self, draft: _Draft, word: Word) -> None:
        text, words = word.text, draft.words
        if text in KINDS:
            draft.kind = text
        elif text == "to":
            draft.to(words.take("a destination"))
        elif text == "src":
            draft.source = draft.address("an address behind src")
        elif text in ("via", "gw", "or"):
            if text != "via":
                better = "via" if text == "gw" else "nexthop via"
                words.warn(word, f"'{text}' is old", f"write '{better}'")
            draft.vias.append(draft.address(f"an address behind {text}"))
        elif text in ("dev", "oif"):
            if draft.device is not None:
                raise Wrong("a second device for one route", "write nexthop for each way", word)
            draft.device = words.take("a device behind dev")
        elif text in NUMBERS:
            name = NUMBERS[text]
            draft.numbers[name] = READ[name](words.take(f"a value behind {text}"))
        elif text in LIMITS or text in CHOICES or text in FREE:
            draft.option(text, word)
        elif text == "nexthop":
            draft.next_hop()
        elif text in ("inet", "inet6"):
            draft.of_family(6 if text == "inet6" else 4, word)
        elif text in ("onlink", "append"):
            setattr(draft, text, True)
        elif text == "no_track":
            draft.tracked = False
        elif text == "track_group" and self.fixed:
            draft.group = words.take("the name of a track_group")
        elif text in NOT_DONE:
            raise Wrong(f"a route with '{text}' is not made", NOT_DONE[text], word)
        else:
            self._destination(draft, word)

    def _destination(self, draft: _Draft, word: Word) -> None:
        try:
            draft.to(word)
        except Wrong as wrong:
            if word.text[:1].isdigit() or ":" in word.text:
                raise
            group = ("track_group",) if self.fixed else ()
            raise _unknown(word, (*KINDS, *NUMBERS, *LIMITS, *CHOICES, *FREE, *PLACES, *group)) from wrong

    def __str__(self) -> str:
        last = " [track_group NAME]" if self.fixed else ""
        return (
            f"[KIND] [src ADDRESS] NETWORK|default [via ADDRESS] [dev DEVICE] [`ip route`'s options] [no_track]{last}"
        )
