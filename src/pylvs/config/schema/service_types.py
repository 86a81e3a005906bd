"""The types of values that only virtual servers, real servers and their checkers have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.config.language.tree import Severity, Word
from pylvs.config.schema.grammar import BadValue, Type, Words, did_you_mean
from pylvs.config.schema.types import (
    MARK,
    MAX_INTEGER,
    MAX_U32,
    address_in,
    address_of,
    choice,
    integer,
    leading_within,
    number_of,
    number_within,
    port_of,
)
from pylvs.model.addresses import Address
from pylvs.model.checks import LoadSource, Pattern
from pylvs.model.client_rules import SYNTAX, ClientRule, rule_of
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import (
    DEFAULT_SCHEDULER,
    KNOWN_ENGINES,
    MAX_WEIGHT,
    METHOD_NAMES,
    Method,
    Protocol,
    Tunnel,
    TunnelFlag,
    TunnelKind,
)
from pylvs.system.pcre2 import OPTIONS

DPVS_METHODS = ("FNAT", "FULLNAT", "SNAT")
METHODS = {METHOD_NAMES[method]: method for method in (Method.MASQ, Method.ROUTE, Method.TUNNEL)}
PERSISTENCE_S = 360  # persistence_timeout without a number
MAX_PERSISTENCE_S = 2678400  # 31 days
VERSIONS = {"inet": 4, "inet6": 6}
FAMILY = choice(*VERSIONS)
LAST_PART = {4: re.compile(r"[0-9]{1,3}\Z"), 6: re.compile(r"[0-9a-fA-F]{1,4}\Z")}
MAX_RANGE = 65536  # addresses; each is a service of its own
MAX_DOCUMENTED_WEIGHT = 65535  # by ipvsadm(8)
MAX_LABEL = 63  # bytes, in a domain name
MAX_NAME = 253
CODE = re.compile(r"[1-5][0-9]{2}\Z")
ALL_GOOD = ((200, 299),)
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^{}]*\})?\Z")


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from `first` to `last` with one port; 0 is every port."""

    first: Address
    last: Address
    port: int
    word: Word

    def addresses(self) -> Iterator[Address]:
        for number in range(int(self.first), int(self.last) + 1):
            yield ip_address(number) if self.first.version == 4 else IPv6Address(number)


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A firewall mark; version 0 of IP stands for that of the real servers."""

    mark: int
    version: int
    word: Word


@dataclass(frozen=True, slots=True)
class Server:
    """An address with a port, 0 for none."""

    address: Address
    port: int
    word: Word
    fixed_port: int | None = None  # in the table, where the written port cannot be

    @property
    def table_port(self) -> int:
        return self.port if self.fixed_port is None else self.fixed_port


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A forwarding method, with its tunnel."""

    method: Method
    tunnel: Tunnel = Tunnel()

    def __str__(self) -> str:
        name = METHOD_NAMES[self.method]
        if self.method is not Method.TUNNEL or self.tunnel == Tunnel():
            return name
        return f"{name} type {tunnel_text(self.tunnel)}"


def tunnel_text(tunnel: Tunnel) -> str:
    """Return "gue port 6080 csum"."""
    names = [flag.name.lower() for flag in TunnelFlag if flag in tunnel.flags and flag.name]
    port = [f"port {tunnel.port}"] if tunnel.kind is TunnelKind.GUE else []
    return " ".join([tunnel.kind.name.lower(), *port, *names])


@dataclass(frozen=True, slots=True)
class Granularity:
    """The bits of a client's address that persistence compares: a mask for IPv4, a prefix length for IPv6."""

    version: int
    netmask: int

    def __str__(self) -> str:
        return str(IPv4Address(self.netmask)) if self.version == 4 else str(self.netmask)


def _mark(words: Words, word: Word) -> MarkEntry:
    """Take a firewall mark, and a family unless the real servers determine it."""
    mark = leading_within(words, words.take(MARK.syntax), 1, MAX_U32, "fwmark")
    return MarkEntry(mark, VERSIONS[FAMILY.parse(words)] if words else 0, word)


def _group_entry(words: Words) -> Range | MarkEntry:
    """Parse an address, `FIRST-LAST` or `NETWORK/LENGTH`, each with an optional port, or `fwmark NUMBER`."""
    word = words.take("an IP address")
    if word.text == "fwmark":
        return _mark(words, word)
    first, last = _ends(word)
    size = int(last) - int(first) + 1
    if size > MAX_RANGE:
        text = f"'{word.text}' has {size:,} addresses, and each is a service of its own; {MAX_RANGE} are allowed"
        raise BadValue(text, "use a firewall mark", word)
    return Range(first, last, _port(words), word)


def _ends(word: Word) -> tuple[Address, Address]:
    """Return the first and last address of an address, range or network; raises BadValue.

    As in keepalived, the end may equal the begin if it is a whole address.
    """
    if "/" in word.text:
        return _network(word)
    if "-" not in word.text:
        address = address_of(word, with_port=True)
        return address, address
    begin, _, end = word.text.partition("-")
    first = address_of(Word(begin, word.location))
    separator = ":" if first.version == 6 else "."
    least = int(first)
    if separator not in end:  # only the last part, as in 192.0.2.1-9
        if not LAST_PART[first.version].match(end):
            raise BadValue(f"'{end}' is not the end of a range of addresses", "such as 192.0.2.1-9", word)
        end = str(first.exploded).rpartition(separator)[0] + separator + end
        least += 1
    last = address_of(Word(end, word.location))
    if last.version != first.version or int(last) < least:
        text = f"the range '{word.text}' does not end behind its begin"
        raise BadValue(text, "write the smaller address first", word)
    return first, last


def _network(word: Word) -> tuple[Address, Address]:
    try:
        network: IPv4Network | IPv6Network = ip_network(word.text, strict=False)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an address with a prefix length", "such as 192.0.2.8/29", word) from None
    if network.network_address != address_of(Word(word.text.partition("/")[0], word.location)):
        raise BadValue(f"'{word.text}' is not the begin of its network", f"write {network}", word)
    return network.network_address, network.broadcast_address


def _server(words: Words) -> Server:
    """Parse an address and a port; without a port, or with 0, packets keep theirs."""
    word = words.take("an IP address")
    return Server(address_in(words, word, with_port=True), _port(words), word)


def _port(words: Words) -> int:
    """Take a port, or 0 for none: no word is left, or the word has only zeros."""
    word = words.peek()
    if word is not None and not word.text.strip("0"):
        words.take("")
        word = None
    return 0 if word is None else port_of(words)


def _service(words: Words) -> Server | MarkEntry | Word:
    """Parse the head of a virtual_server: an address with its port, a firewall mark, or the word that names a group."""
    word = words.take_if("fwmark", "group")
    if word is None:
        return _server(words)
    return _mark(words, word) if word.text == "fwmark" else words.take("the name of a group")


def _weight(minimum: int) -> Type[int]:
    """Make the type of a weight. keepalived and IPVS accept more than ipvsadm(8) allows, so that is only a warning."""

    def parse(words: Words) -> int:
        word = words.peek()
        weight = integer(minimum, MAX_WEIGHT).parse(words)
        if word is not None and weight > MAX_DOCUMENTED_WEIGHT:
            text = f"weight {word.text} is beyond {MAX_DOCUMENTED_WEIGHT}; it is taken"
            words.warn(word, text, "use smaller weights")
        return weight

    return Type(f"a whole number, {minimum} to {MAX_WEIGHT}", parse)


def _scheduler(words: Words) -> str:
    """Parse a scheduler. An unknown name is a warning and the default counts, as in keepalived."""
    word = words.take("a scheduler")
    if word.text not in SCHEDULERS:
        near = did_you_mean(word.text, SCHEDULERS) or f"one of {', '.join(SCHEDULERS)}"
        text = f"there is no scheduler '{word.text}'; {DEFAULT_SCHEDULER} is used"
        raise BadValue(text, near, word, Severity.WARNING, typo=True)
    return word.text


def _forwarding(words: Words) -> Forwarding:
    """Parse NAT, DR, or TUN with the kind of tunnel; case is significant, as in keepalived."""
    word = words.take("a forwarding method")
    if word.text in DPVS_METHODS:
        text = f"{word.text} is a forwarding method of another product, DPVS"
        raise BadValue(text, "write NAT; the real servers must then send their replies through the director", word)
    if word.text not in METHODS:
        near = did_you_mean(word.text, list(METHODS)) or "NAT, DR or TUN"
        raise BadValue(f"there is no forwarding method '{word.text}'", near, word)
    method = METHODS[word.text]
    return Forwarding(method, _tunnel(words) if method is Method.TUNNEL else Tunnel())


def _tunnel(words: Words) -> Tunnel:
    """Parse `type ipip|gue port N|gre` and a checksum; raises BadValue for options that exclude each other."""
    kind, port, flags = TunnelKind.IPIP, 0, TunnelFlag(0)
    kinds = {kind.name.lower(): kind for kind in TunnelKind}
    first = words.peek()
    for word in words.rest():
        if word.text == "type":
            name = words.take("a kind of tunnel")
            if name.text not in kinds:
                raise BadValue(f"there is no tunnel of type '{name.text}'", "one of ipip, gue, gre", name)
            kind = kinds[name.text]
        elif word.text == "port":
            port = number_within(words.take("a port"), 1, 65535, "port")
        elif word.text in ("nocsum", "csum", "remcsum"):
            flags = {"nocsum": TunnelFlag(0), "csum": TunnelFlag.CSUM, "remcsum": TunnelFlag.REMCSUM}[word.text]
        else:
            raise BadValue(f"a tunnel has no option '{word.text}'", "type, port, nocsum, csum or remcsum", word)
    if (kind is TunnelKind.GUE) != bool(port):
        raise BadValue("a gue tunnel needs a port, no other has one", "write TUN type gue port PORT", first)
    if kind is TunnelKind.IPIP and flags:
        raise BadValue("an ipip tunnel has no checksums", "leave csum and remcsum out", first)
    if kind is TunnelKind.GRE and flags & TunnelFlag.REMCSUM:
        raise BadValue("a gre tunnel has no remote checksum", "leave remcsum out, or take gue", first)
    return Tunnel(kind, port, flags)


def _protocol(words: Words) -> Protocol:
    word = words.take("a protocol")
    if word.text.upper() not in Protocol.__members__:
        raise BadValue(f"there is no protocol '{word.text}'", "TCP, UDP or SCTP", word)
    return Protocol[word.text.upper()]


def _persistence(words: Words) -> int:
    """Parse seconds, by default six minutes. 0 disables persistence with a warning, as in keepalived."""
    if not words:
        return PERSISTENCE_S
    word = words.take("")
    seconds = number_of(word)
    if seconds == 0:
        words.warn(word, "0 is no time; the service is not persistent", f"remove {words.node.keyword}")
    elif not 1 <= seconds <= MAX_PERSISTENCE_S:
        raise BadValue(f"{word.text} is not between 1 and {MAX_PERSISTENCE_S} seconds", word=word)
    return seconds


def _granularity(words: Words) -> Granularity:
    """Parse an IPv4 netmask, with a warning if its ones are not all in front, or an IPv6 prefix length."""
    word = words.take("a netmask")
    if word.text.isdigit():
        return Granularity(6, number_within(word, 1, 128, "prefix length"))
    try:
        mask = int(IPv4Address(word.text))
    except ValueError:
        raise BadValue(f"'{word.text}' is not a netmask", "for instance 255.255.255.0, or 64 for IPv6", word) from None
    holes = ~mask & 0xFFFFFFFF
    if not mask:
        words.warn(word, "with 0.0.0.0 all clients share one server", "write 255.255.255.0, for instance")
    elif holes & (holes + 1):
        text = f"the ones of '{word.text}' are not all in front; clients that differ in its zeros share a server"
        words.warn(word, text, "write 255.255.255.0, for instance")
    return Granularity(4, mask)


def _engine(words: Words) -> str:
    word = words.take("a persistence engine")
    if word.text not in KNOWN_ENGINES:
        raise BadValue(f"there is no persistence engine '{word.text}'", f"write {' or '.join(KNOWN_ENGINES)}", word)
    return word.text


def _client_rule(words: Words) -> ClientRule:
    first = words.peek()
    try:
        return rule_of([each.text for each in words.rest()])
    except InvalidOperation as error:
        raise BadValue(str(error), f"write {SYNTAX}", first) from None


CLIENT_RULE = Type(SYNTAX.replace(" or limit", " limit").replace(",", " |"), _client_rule)
GROUP_ENTRY = Type("ADDRESS[-ADDRESS | /LENGTH] [PORT] | fwmark NUMBER [inet|inet6]", _group_entry)
SERVER = Type("ADDRESS [PORT]", _server)
SERVICE = Type("ADDRESS [PORT] | fwmark NUMBER | group NAME", _service)
WEIGHT, SERVICE_WEIGHT = _weight(0), _weight(1)
SCHEDULER = Type("|".join(SCHEDULERS), _scheduler)
FORWARDING = Type("NAT | DR | TUN [type ipip|gue port PORT|gre] [nocsum|csum|remcsum]", _forwarding)
PROTOCOL = Type("TCP|UDP|SCTP", _protocol)
ENGINE = Type("|".join(KNOWN_ENGINES), _engine)
PERSISTENCE = Type(f"[seconds, 1 to {MAX_PERSISTENCE_S}]", _persistence)
GRANULARITY = Type("an IPv4 netmask | an IPv6 prefix length", _granularity)


def hex_bytes(wild: bool = False, empty: bool = False) -> Type[Pattern]:
    """Make the type of bytes in hexadecimal, two digits each; the last byte of a word may have one digit.

    `wild` allows X for any digit; `empty` allows the keyword alone.
    """
    described = "bytes in hexadecimal" + (", X for any digit" if wild else "")
    syntax = f"[{described}]" if empty else described

    def parse(words: Words) -> Pattern:
        """Return the bytes, and a mask of the bits that count."""
        if not words and not empty:
            words.take("bytes in hexadecimal")
        value, mask = bytearray(), bytearray()
        for word in words.rest():
            digits = word.text.lower()
            if not digits or set(digits) - set("0123456789abcdef" + ("x" if wild else "")):
                raise BadValue(f"'{word.text}' is not hexadecimal", syntax, word)
            for at in range(0, len(digits), 2):
                pair = digits[at : at + 2].rjust(2, "0")
                value.append(int(pair.replace("x", "0"), 16))
                mask.append(int("".join("0" if digit == "x" else "f" for digit in pair), 16))
        return Pattern(bytes(value), bytes(mask))

    return Type(syntax, parse)


def _domain_name(words: Words) -> str:
    """Parse a domain name; "." is the root."""
    word = words.take("a domain name")
    labels = word.text.removesuffix(".").split(".")
    if word.text != "." and not all(1 <= len(label.encode()) <= MAX_LABEL for label in labels):
        raise BadValue(f"'{word.text}' is not a domain name", f"each label has 1 to {MAX_LABEL} bytes", word)
    if len(word.text.encode()) > MAX_NAME + 1:
        raise BadValue(f"a domain name has at most {MAX_NAME} bytes", "write a shorter one", word)
    return word.text


def _status_codes(words: Words) -> tuple[tuple[int, int], ...]:
    """Parse status codes to the first and last of each range; ignore invalid ones with a warning. There may be none."""
    found = []
    for word in (words.take("a status code"), *words.rest()):
        first, _, last = word.text.partition("-")
        codes = [int(each) if CODE.match(each) else 0 for each in (first, last or first)]
        if 0 < codes[0] <= codes[1]:
            found.append((codes[0], codes[1]))
        else:
            words.typo(word, f"'{word.text}' is not a status code", "such as 200, or 200-299")
    return tuple(found)


def _digest(words: Words) -> str:
    word = words.take("an MD5 sum")
    if not re.fullmatch(r"[0-9a-fA-F]{32}", word.text):
        raise BadValue(f"'{word.text}' is not an MD5 sum", "32 hexadecimal digits, as md5sum prints them", word)
    return word.text.lower()


def _regex_options(words: Words) -> tuple[str, ...]:
    """Parse PCRE2's options by keepalived's names; ignore unknown ones with a warning."""
    found = []
    for word in words.rest():
        if word.text in OPTIONS:
            found.append(word.text)
        else:
            near = did_you_mean(word.text, list(OPTIONS))
            words.typo(word, f"there is no regex option '{word.text}'; it is ignored", near)
    return tuple(found)


def _multiplier(words: Words) -> tuple[int, bool]:
    """Parse the factor for a file's number, and whether `reverse` negates it."""
    weight = integer(-MAX_INTEGER, MAX_INTEGER).parse(words)
    return weight, words.take_if("reverse") is not None


def _load_source(words: Words) -> tuple[LoadSource, str]:
    """Parse which value of the page is the load; return it, and the name of a `metric`."""
    word = words.take("what the load is")
    names = [source.value for source in LoadSource]
    if word.text not in names:
        advice = did_you_mean(word.text, names) or f"one of {LOAD_SOURCE.syntax}"
        raise BadValue(f"there is no load '{word.text}'", advice, word)
    source = LoadSource(word.text)
    if source is not LoadSource.METRIC:
        return source, ""
    metric = words.take("the metric's name")
    if not METRIC.match(metric.text):
        advice = "quote it, such as 'queue_length{pool=\"web\"}'"
        raise BadValue(f"'{metric.text}' is not the name of a metric", advice, metric)
    return source, metric.text


DOMAIN_NAME = Type("a domain name", _domain_name)
STATUS_CODES = Type("CODE | FIRST-LAST ...", _status_codes)
DIGEST = Type("an MD5 sum in hexadecimal", _digest)
REGEX_OPTIONS = Type("options of PCRE2, such as caseless, multiline, dotall", _regex_options)
MULTIPLIER = Type("NUMBER [reverse]", _multiplier)
LOAD_SOURCE = Type("load1_per_core | cpu_busy | metric NAME", _load_source)
