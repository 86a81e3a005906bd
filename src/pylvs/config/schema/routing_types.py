"""The types of lines with the unabbreviated arguments of `ip route` and `ip rule`."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, ClassVar

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words, did_you_mean
from pylvs.config.schema.types import MAX_U32, Written, address_of, number_within
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import (
    PROTOCOL_KEEPALIVED,
    Interface,
    Network,
    NextHop,
    Route,
    RoutingRule,
)
from pylvs.netlink.iproute2 import Names, named
from pylvs.netlink.iproute2 import number_of as plain_number

DIGITS = re.compile("[0-9]{1,9}")
MAX_DEVICE_NAME = 15  # IFNAMSIZ - 1
NO_PREFERENCE = -1  # of a rule that gets its preference later
EVERYTHING = ("all", "any", "default", "default6")  # destinations; the last is an old word for that of IPv6


def interface_of(word: Word, words: Words) -> Interface:
    """Parse an address with a prefix length, by default the longest; raises BadValue.

    An invalid length is only a warning and the longest counts, or the number that it begins with, as in keepalived.
    """
    text, slash, length = word.text.partition("/")
    try:
        address = ip_address(text)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an IP address", "", word) from None
    longest = address.max_prefixlen
    digits = DIGITS.match(length)
    counts = int(digits[0]) if digits and int(digits[0]) <= longest else longest
    if slash and not (digits and digits[0] == length and int(length) == counts):
        words.typo(word, f"'{length}' is not a prefix length of 0 to {longest}; /{counts} counts")
    return ip_interface(f"{address}/{counts}")


def short_name(word: Word, what: str) -> str:
    """Return a name that fits into IFNAMSIZ; raises BadValue."""
    if len(word.text) > MAX_DEVICE_NAME:
        raise BadValue(f"{what} '{word.text}' is longer than {MAX_DEVICE_NAME} characters", "shorten it", word)
    return word.text


def number_in(names: Names, maximum: int, what: str, word: Word) -> int:
    """Parse a number or one of iproute2's names; raises BadValue."""
    number = named(names, word.text, maximum)
    if number is None:
        text = f"{what} '{word.text}' is neither a number up to {maximum} nor a name that iproute2 knows"
        raise BadValue(text, "", word)
    return number


table_of = partial(number_in, Names.TABLES, MAX_U32, "table")
scope_of = partial(number_in, Names.SCOPES, 255, "scope")
protocol_of = partial(number_in, Names.PROTOCOLS, 255, "protocol")


def service_of(word: Word) -> int:
    """Parse a type of service, hexadecimal as in iproute2 or one of its names; raises BadValue."""
    try:
        number = int(word.text, 16)
    except ValueError:
        return number_in(Names.SERVICES, 255, "type of service", word)
    if not 0 <= number <= 255:
        raise BadValue(f"type of service '{word.text}' is not between 0 and ff", "", word)
    return number


def preference_of(word: Word) -> int:
    """Parse the preference of a rule, decimal or 0x…; raises BadValue."""
    number = plain_number(word.text)
    if number is None:
        raise BadValue(f"'{word.text}' is not a whole number", "", word)
    if not 0 <= number <= MAX_U32:
        raise BadValue(f"preference {word.text} is not between 0 and {MAX_U32}", "", word)
    return number


# Further options of routes and rules, whose text is kept.
LOCKABLE = ("mtu", "hoplimit", "advmss", "rtt", "rttvar", "reordering", "window", "cwnd", "ssthresh", "rto_min")
ROUTE_LIMITS = dict.fromkeys((*LOCKABLE, "initcwnd", "initrwnd", "expires"), MAX_U32)
ROUTE_LIMITS |= {"hoplimit": 255, "quickack": 1, "fastopen_no_cookie": 1}
RULE_LIMITS = {"suppress_prefixlength": 128, "suppress_ifgroup": MAX_U32, "tunnel-id": 0xFFFFFFFFFFFFFFFF}
LIMITS = ROUTE_LIMITS | RULE_LIMITS
CHOICES = {"features": ("ecn",), "pref": ("low", "medium", "high"), "ttl-propagate": ("enabled", "disabled")}
RANGES = {"uidrange": MAX_U32, "sport": 65535, "dport": 65535}
RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?\Z")
TIMES = ("rtt", "rttvar", "rto_min")
TIME = re.compile(r"[0-9]+(\.[0-9]+)?(s|ms)?\Z")


def check_option(name: str, word: Word) -> None:
    """Check the value of an option; raises BadValue."""
    text = word.text
    if name in CHOICES and text not in CHOICES[name]:
        raise BadValue(f"'{text}' is not one of {', '.join(CHOICES[name])}", "", word)
    if name in TIMES and not TIME.match(text):
        raise BadValue(f"'{text}' is not a time", "write 20, 20ms or 2s", word)
    if name in LIMITS and name not in TIMES:
        number_within(word, 0, LIMITS[name], name)
    if name in RANGES:
        match = RANGE.match(text)
        ends = [int(end) for end in match.groups() if end] if match else []
        if not ends or ends != sorted(ends) or ends[-1] > RANGES[name]:
            raise BadValue(f"'{text}' is no range of numbers up to {RANGES[name]}", "write FIRST-LAST", word)
    if name == "realms":
        check_realms(word)
    if name == "ipproto" and plain_number(text) is None:
        try:
            socket.getprotobyname(text)
        except OSError:
            near = did_you_mean(text, ("tcp", "udp", "sctp", "icmp"))
            raise BadValue(f"protocol '{text}' is not known", near, word) from None


def check_realms(word: Word) -> None:
    """Check one realm or two; raises BadValue."""
    for part in word.text.split("/", 1):
        if named(Names.REALMS, part, 0xFFFF) is None:
            raise BadValue(f"realm '{part}' is neither a number nor a name that iproute2 knows", "", word)


@dataclass(slots=True)
class _Draft:
    """A route or a rule while its line is parsed."""

    words: Words
    static: bool
    family: int = 0
    given: dict[str, Any] = field(default_factory=dict)  # fields of the model's class
    options: list[tuple[str, str]] = field(default_factory=list)
    devices: list[Word] = field(default_factory=list)
    group: Word | None = None
    what: ClassVar[str]

    def of_family(self, version: int, word: Word) -> None:
        """Set the family; raises BadValue if it has the other one."""
        if self.family not in (0, version):
            raise BadValue(f"IPv4 and IPv6 in one {self.what}", f"write a {self.what} for each", word)
        self.family = version

    def network(self, word: Word) -> Network:
        """Parse a network of the family, ignoring host bits."""
        network = interface_of(word, self.words).network
        self.of_family(network.version, word)
        return network

    def is_everything(self, word: Word) -> bool:
        """Return whether the word stands for all addresses; the old one for IPv6 sets the family."""
        if word.text == "default6":
            self.of_family(6, word)
        return word.text in EVERYTHING

    def device(self, behind: str = "dev") -> str:
        self.devices.append(self.words.take(f"a device behind {behind}"))
        return self.devices[-1].text

    def common(self, word: Word) -> bool:
        """Parse what routes and rules share; return whether the word is of these."""
        if word.text in ("inet", "inet6"):
            self.of_family(6 if word.text == "inet6" else 4, word)
        elif word.text == "no_track":
            self.given["tracked"] = False
        elif word.text == "track_group" and self.static:
            self.group = self.words.take("the name of a track_group")
        else:
            return False
        return True

    def unknown(self, word: Word, known: tuple[str, ...]) -> BadValue:
        return BadValue(f"'{word.text}' is not known in a {self.what}", did_you_mean(word.text, known), word)

    def fields(self, first: Word) -> dict[str, Any]:
        """Return the fields of the model's class; `first` is the first word of the line."""
        given = self.given
        if given.get("tracked", True) and given.get("protocol", PROTOCOL_KEEPALIVED) != PROTOCOL_KEEPALIVED:
            text = f"a {self.what} that is tracked has protocol keepalived"
            self.words.warn(first, text, "remove protocol, or add no_track")
            del given["protocol"]
        return {**given, "options": tuple(self.options)}


ROUTE_TYPES = ("unicast", "local", "broadcast", "multicast", "throw", "unreachable", "prohibit", "blackhole", "nat")
ROUTE_KEYWORDS = (
    *("to", "src", "via", "gw", "or", "as", "dev", "oif", "nexthop", "inet", "inet6", "onlink", "no_track"),
    *("add", "append", "prepend"),
)
ROUTE_CONDITIONS = ("from", "vrf", "encap")
ROUTE_OPTIONS = (*ROUTE_LIMITS, *CHOICES, "congctl", "realms")
IPV6_ONLY = ("pref", "expires")
METRIC = "metric", lambda word: number_within(word, 0, MAX_U32, "metric")
ROUTE_NUMBERS: Mapping[str, tuple[str, Callable[[Word], int]]] = {  # the field, and what parses it
    "table": ("table", table_of),
    "scope": ("scope", scope_of),
    "protocol": ("protocol", protocol_of),
    **dict.fromkeys(("tos", "dsfield"), ("tos", service_of)),
    **dict.fromkeys(("metric", "priority", "preference"), METRIC),
}


@dataclass(slots=True)
class _RouteDraft(_Draft):
    """A route while its line is parsed."""

    default: bool = False  # its destination is everything
    own_device: str = ""  # that of the line, not of a `nexthop`
    vias: list[Address | None] = field(default_factory=list)
    hops: list[NextHop] = field(default_factory=list)
    onlink: bool = False
    what = "route"

    def address(self, what: str) -> Address:
        """Take an address of the route's family."""
        word = self.words.take(what)
        if word.text in ("inet", "inet6"):
            word = self.words.take(what)
        address = address_of(word)
        self.of_family(address.version, word)
        return address

    def word(self, word: Word) -> None:
        text = word.text
        if text in ROUTE_TYPES:
            self.given["kind"] = text
        elif text in ROUTE_KEYWORDS:
            self.keyword(word)
        elif text in ROUTE_NUMBERS:
            name, parse = ROUTE_NUMBERS[text]
            self.given[name] = parse(self.words.take(f"a value behind {text}"))
        elif text in ROUTE_OPTIONS:
            self.option(text, word)
        elif text in ROUTE_CONDITIONS:
            self.condition(text, word)
        elif not self.common(word):
            self.destination(word)

    def keyword(self, word: Word) -> None:
        text = word.text
        if text == "to":
            self.to(self.words.take("a destination"))
        elif text == "src":
            self.given["source"] = self.address("an address behind src")
        elif text in ("via", "gw", "or"):
            if text != "via":
                self.words.warn(word, f"'{text}' is old", f"write '{'via' if text == 'gw' else 'nexthop via'}'")
            self.vias.append(self.address(f"an address behind {text}"))
        elif text in ("dev", "oif"):
            if self.own_device:
                raise BadValue("a second device for one route", "write nexthop for each way", word)
            self.own_device = self.device()
        elif text == "nexthop":
            self.next_hop()
        elif text == "onlink":
            self.onlink = True
        elif text in ("add", "append", "prepend"):
            self.given["append"] = text == "append"
            if text == "add":
                problem = "'add' counts as prepend: the route is added even if there is an equal one"
                self.words.warn(word, problem, "remove it")
        elif text == "as":
            self.words.take_if("to")
            label = self.words.take("an address behind as")
            self.words.warn(word, f"'as {label}' has a meaning for MPLS alone and is ignored", "remove it")
        else:
            self.common(word)

    def condition(self, name: str, word: Word) -> None:
        """Take the network that packets come from; keep the text of what depends on this machine, for the compiler."""
        if name == "vrf":
            self.options.append((name, self.words.take("the name of a VRF").text))
        elif name == "encap":
            self.options.append((name, " ".join(each.text for each in self.words.rest())))
        else:
            network = self.network(self.words.take("a network behind from"))
            if network.version == 4:
                advice = "write a virtual_rule: from NETWORK table N"
                raise BadValue("a route of IPv4 is for packets from everywhere", advice, word)
            self.given["from_network"] = network

    def to(self, word: Word) -> None:
        if self.default or "destination" in self.given:
            raise BadValue(f"'{word.text}' is a second destination", "write a route for each", word)
        if self.is_everything(word):
            self.default = True
        else:
            self.given["destination"] = self.network(word)

    def destination(self, word: Word) -> None:
        """Parse a destination without `to`, which may be a misspelt keyword."""
        try:
            self.to(word)
        except BadValue as problem:
            if word.text[:1].isdigit() or ":" in word.text:
                raise
            known = (*ROUTE_TYPES, *ROUTE_NUMBERS, *ROUTE_OPTIONS, *ROUTE_CONDITIONS, *ROUTE_KEYWORDS)
            raise self.unknown(word, (*known, "track_group") if self.static else known) from problem

    def next_hop(self) -> None:
        """Parse the arguments of `nexthop`."""
        given: dict[str, Any] = {}
        while (word := self.words.peek()) is not None and word.text != "nexthop":
            self.words.take("")
            if word.text == "via":
                given["via"] = self.address("an address behind via")
            elif word.text in ("dev", "oif"):
                given["device"] = self.device()
            elif word.text == "weight":
                given["weight"] = number_within(self.words.take("a weight"), 1, 256, "weight")
            elif word.text == "onlink":
                given["onlink"] = True
            elif word.text == "realms":
                check_realms(self.words.take("realms"))
            elif word.text == "encap":
                self.condition(word.text, word)
            else:
                raise self.unknown(word, ("via", "dev", "weight", "onlink", "realms"))
        self.hops.append(NextHop(**given))

    def option(self, name: str, word: Word) -> None:
        """Check one of `ip route`'s other options and keep its text."""
        value = self.words.take(f"a value behind {name}")
        lock = ""
        if value.text == "lock" and (name in LOCKABLE or name == "congctl"):
            lock, value = "lock ", self.words.take(f"a value behind {name} lock")
        if name in IPV6_ONLY:
            self.of_family(6, word)
        if name == "features" and value.text not in CHOICES[name]:
            self.words.typo(value, f"there is no feature '{value.text}'; it is ignored", "ecn is one")
            return
        check_option(name, value)
        self.options.append((name, lock + value.text))

    def made(self, first: Word) -> Route:
        network, device = self.given.get("destination"), self.own_device
        if network is None:
            if not self.default:
                raise BadValue("the route has no destination", "write a network, or default", first)
            network = ip_network("::/0" if self.family == 6 else "0.0.0.0/0")
        vias = self.vias or ([None] if device else [])
        own = [NextHop(via=via, device=device, onlink=self.onlink) for via in vias]
        if not device and self.given.get("tracked", True):
            text = f"the route to {network} has no device, so keepalived would not notice its removal"
            self.words.warn(first, text, "write 'dev DEVICE', or no_track")
        return Route(**{**self.fields(first), "destination": network, "next_hops": (*own, *self.hops)})


RULE_ACTIONS = ("nop", "blackhole", "unreachable", "prohibit")
RULE_OPTIONS = (*RANGES, *RULE_LIMITS, "realms", "ipproto")
SHORT_OPTIONS = {"sup_pl": "suppress_prefixlength", "sup_group": "suppress_ifgroup"}
RULE_KEYWORDS = (
    *("from", "to", "not", "iif", "dev", "oif", "fwmark", "tos", "dsfield", "table", "lookup", "goto", "type"),
    *("l3mdev", "preference", "priority", "order", "protocol", "no_track", "inet", "inet6"),
    *(*RULE_OPTIONS, *SHORT_OPTIONS, *RULE_ACTIONS),
)


@dataclass(slots=True)
class _RuleDraft(_Draft):
    """A rule while its line is parsed."""

    what = "rule"

    def word(self, word: Word) -> None:
        text, words, given = word.text, self.words, self.given
        if text in ("from", "to"):
            network = words.take(f"a network behind {text}")
            if not self.is_everything(network):
                given["source" if text == "from" else "destination"] = self.network(network)
        elif text == "not":
            given["inverted"] = True
        elif text in ("iif", "dev", "oif"):
            given["oif" if text == "oif" else "iif"] = self.device(text)
        elif text == "fwmark":
            self.mark()
        elif text in ("tos", "dsfield"):
            given["tos"] = service_of(words.take("a type of service"))
        elif text in ("preference", "priority", "order"):
            given["preference"] = preference_of(words.take("preference"))
        elif text == "protocol":
            self.protocol()
        elif text in RULE_OPTIONS or text in SHORT_OPTIONS:
            self.option(SHORT_OPTIONS.get(text, text))
        elif not self.common(word):
            self.action(word)

    def protocol(self) -> None:
        word = self.words.take("a protocol")
        try:
            self.given["protocol"] = protocol_of(word)
        except BadValue as problem:  # as in keepalived, the rule stays
            self.words.typo(word, f"{problem.text}; it is ignored", problem.advice)

    def option(self, name: str) -> None:
        """Check one of `ip rule`'s other options and keep its text."""
        value = self.words.take(f"a value behind {name}")
        check_option(name, value)
        self.options.append((name, value.text))

    def action(self, word: Word) -> None:
        if word.text == "type":
            word = self.words.take("an action behind type")
        if word.text in RULE_ACTIONS:
            self.act(word.text, word)
        elif word.text in ("table", "lookup"):
            self.act("table", word)
            value = self.words.take("a table")
            self.given["table"] = table_of(value)
            if not self.given["table"]:
                raise BadValue("table 0 is none", "write another", value)
        elif word.text == "goto":
            self.act("goto", word)
            what = "a preference behind goto"
            self.given["goto"] = number_within(self.words.take(what), 0, MAX_U32, what)
        elif word.text == "l3mdev":
            self.act("table", word)
            self.given["l3mdev"] = True
        else:
            raise self.unknown(word, RULE_KEYWORDS)

    def act(self, action: str, word: Word) -> None:
        """Set the action; raises BadValue for a second one."""
        if "action" in self.given:
            raise BadValue(f"'{word.text}' is a second action", "write a rule for each", word)
        self.given["action"] = action

    def mark(self) -> None:
        """Take MARK or MARK/MASK."""
        word = self.words.take("a mark")
        parts = [plain_number(part) for part in word.text.split("/", 1)]
        if any(part is None or not 0 <= part <= MAX_U32 for part in parts):
            raise BadValue(f"'{word.text}' is no mark", "write MARK or MARK/MASK", word)
        self.given["mark"], self.given["mark_mask"] = (*parts, MAX_U32)[:2]

    def made(self, first: Word) -> RoutingRule:
        given = self.given
        if "action" not in given:
            raise BadValue("the rule does nothing", "write 'table N' or another action", first)
        preference = given.get("preference", 0)
        if given["action"] == "goto" and preference >= given["goto"]:
            raise BadValue(f"goto {given['goto']} is not behind preference {preference}", "", first)
        given.setdefault("preference", NO_PREFERENCE)
        return RoutingRule(family=self.family or 4, **self.fields(first))


def _line(kind: type[_RouteDraft] | type[_RuleDraft], syntax: str, static: bool) -> Type[Written[Any]]:
    """Make the type of a route or rule; a `static` one does not depend on VRRP's state."""

    def parse(words: Words) -> Written[Any]:
        draft = kind(words, static)
        first = words.peek() or words.take(f"a {kind.what}")
        for word in words.rest():
            draft.word(word)
        return Written(draft.made(first), first, tuple(draft.devices), draft.group)

    return Type(f"{syntax} [no_track]" + (" [track_group NAME]" if static else ""), parse)


ROUTE = "[KIND] [src ADDRESS] NETWORK|default [via ADDRESS] [dev DEVICE] [`ip route`'s options]"
SELECTORS = "[from NETWORK] [to NETWORK] [iif DEVICE] [oif DEVICE] [fwmark MARK] [`ip rule`'s other selectors]"
RULE = f"{SELECTORS} table TABLE|goto N|nop|blackhole|unreachable|prohibit preference N"
ROUTE_LINE, STATIC_ROUTE_LINE = _line(_RouteDraft, ROUTE, False), _line(_RouteDraft, ROUTE, True)
RULE_LINE, STATIC_RULE_LINE = _line(_RuleDraft, RULE, False), _line(_RuleDraft, RULE, True)
