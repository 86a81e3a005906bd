"""The types of values that only virtual routers have: addresses, devices, peers, VMACs, passwords, tracks."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface
from typing import Any

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words, did_you_mean
from pylvs.config.schema.routing_types import interface_of, short_name
from pylvs.config.schema.types import (
    MAX_INTEGER,
    MAX_U32,
    SCRIPT,
    Written,
    address_in,
    address_of,
    at_least_one,
    choice,
    leading_number,
    leading_within,
    number_of,
    number_within,
    one_or_nothing,
    real,
    seconds,
)
from pylvs.model.addresses import Address
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import FOREVER, HeldAddress, Interface
from pylvs.model.vrrp import Ipvlan, IpvlanMode, LinkDelay, LinkPolling, OldChecksum, Peer, PolledLink, Vmac
from pylvs.netlink.iproute2 import Names, named

MAC = re.compile(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){4,5}\Z")
STANDARD_MACS = (bytes.fromhex("00005e0001"), bytes.fromhex("00005e0002"))  # RFC 9568 7.3
MAX_EXTRA_S = 86400
MAX_INTERVAL_S = 4294.967295  # 32 bits of microseconds
MAX_LINK_DELAY_S = 255.0
MAX_BFD_MS = 4294967  # 32 bits of microseconds
MAX_SENSIBLE_BFD_MS = 10_000
MAX_PASSWORD = 8  # octets that VRRP carries
MAX_WEIGHT = 253  # the distance of priorities 1 and 254
MAX_FILE_WEIGHT = 254
NUMBER = re.compile(r"-?[0-9]+\Z")
ENDLESS = 0xFFFFFFFF  # IFA_CACHEINFO has 32 bits; all bits set mean forever
ADDRESS_FLAGS = {
    "home": "home",
    "-nodad": "no_dad",
    "mngtmpaddr": "manage_temporary",
    "noprefixroute": "no_prefix_route",
    "autojoin": "join_group",
    "no_track": "tracked",
    "use_vmac": "own_vmac",
}
_IPVLAN_MODES = {each.name.lower(): each for each in IpvlanMode}
_POLLING = choice(*(each.value for each in LinkPolling))
ADDRESS_OPTIONS = ("label", "scope", "brd", "broadcast", "peer", "preferred_lft")


@dataclass(frozen=True, slots=True)
class TrackWeight:
    """A tracking weight; None stands for that of the definition."""

    value: int | None = None
    reverse: bool | None = None


@dataclass(frozen=True, slots=True)
class WrittenTrack:
    """One line of a track block; findings refer to `word`."""

    name: str
    weight: TrackWeight
    word: Word


def _device(words: Words) -> Written[str]:
    """Parse the name of a network device. Whether it exists is checked after all blocks are read."""
    word = words.take("a device")
    return Written(short_name(word, "device"), word, (word,))


def _delay(words: Words) -> Written[LinkDelay]:
    """Parse a device, seconds for down, and seconds for up if they differ."""
    device, delay = DEVICE.parse(words), seconds(0, MAX_LINK_DELAY_S)
    down = delay.parse(words)
    link = LinkDelay(device.value, down, delay.parse(words) if words else down)
    return Written(link, device.word, device.devices)


def _polled(words: Words) -> Written[PolledLink]:
    """Parse a device, and how its link is polled."""
    device = DEVICE.parse(words)
    polling = LinkPolling(_POLLING.parse(words)) if words else LinkPolling.MII
    return Written(PolledLink(device.value, polling), device.word, device.devices)


def _peer(words: Words) -> Peer:
    """Parse one unicast peer, and the TTLs that its packets may have."""
    address = address_in(words, words.take("an IP address"))
    limits = {"min_ttl": 0, "max_ttl": 255}
    word = words.peek()
    for word in words.rest():
        if word.text not in limits:
            words.typo(word, f"'{word.text}' is not known behind a peer and is ignored", "one peer a line")
            continue
        value = words.take(f"a number behind {word.text}")
        number = number_of(value)
        if not 0 <= number <= 255:
            words.warn(value, f"{word.text} {value.text} is not between 0 and 255 and is ignored")
        else:
            limits[word.text] = number
    minimum, maximum = limits.values()
    if word is not None and minimum > maximum:
        words.warn(word, f"min_ttl {minimum} is more than max_ttl {maximum}: every packet of {address} is discarded")
    return Peer(address, minimum, maximum)


def multicast(version: int = 0) -> Type[Address]:
    """Make the type of a multicast address, of one family if `version` is 4 or 6."""
    syntax = f"an IPv{version} multicast address" if version else "a multicast address"

    def parse(words: Words) -> Address:
        word = words.take(syntax)
        address = address_in(words, word)
        if version not in (0, address.version):
            raise BadValue(f"'{word.text}' is not an IPv{version} address", "", word)
        if not address.is_multicast:
            raise BadValue(f"{word.text} is no multicast address", "write one of 224.0.0.0/4 or ff00::/8", word)
        return address

    return Type(syntax, parse)


def _vmac(words: Words) -> Vmac:
    """Parse the optional name and MAC address of a VMAC; ignore invalid ones with a warning."""
    name, mac = "", None
    for word in words.rest():
        if MAC.match(word.text):
            octets = bytes(int(octet, 16) for octet in re.split("[:-]", word.text))
            if octets[:5] in STANDARD_MACS:
                words.warn(word, f"{word.text} is one of VRRP's own addresses and is ignored", "leave it out")
            else:
                mac = octets
        elif name:
            words.typo(word, f"the VMAC has a name already; '{word.text}' is ignored")
        else:
            try:
                name = short_name(word, "device")
            except BadValue as problem:
                words.warn(word, f"{problem.text}; it is ignored", problem.advice)
    return Vmac(name, mac)


def _ipvlan(words: Words) -> Vmac:
    """Parse the optional name, address and mode of an ipvlan; ignore repeated ones with a warning."""
    name, address, mode = "", None, None
    for word in words.rest():
        what = "mode" if word.text in _IPVLAN_MODES else "address" if _is_address(word.text) else "name"
        if (what == "mode" and mode) or (what == "address" and address) or (what == "name" and name):
            words.typo(word, f"the ipvlan has {'an' if what == 'address' else 'a'} {what} already; it is ignored")
        elif what == "mode":
            mode = _IPVLAN_MODES[word.text]
        elif what == "address":
            address = interface_of(word, words)
        else:
            name = short_name(word, "device")
    return Vmac(name, ipvlan=Ipvlan(mode or IpvlanMode.BRIDGE, address))


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("/")[0])
    except ValueError:
        return False
    return True


def _receive_policy(words: Words) -> int | str:
    """Parse what decides about receive buffers: the MTU, the advertisement's size, or octets."""
    word = words.take("MTU, ADVERT or a number")
    policy = word.text.upper()
    return policy if policy in ("MTU", "ADVERT") else number_within(word, 1, MAX_INTEGER)


def _extra(minimum: int) -> Type[tuple[bool, int]]:
    """Make the type of garp_extra_if: whether `all` devices count, not only VMACs, and the interval; in any order."""

    def parse(words: Words) -> tuple[bool, int]:
        all_devices, interval = False, -1
        while words or interval < 0:
            if words.take_if("all"):
                all_devices = True
            else:
                interval = leading_within(words, words.take("seconds"), minimum, MAX_EXTRA_S)
        return all_devices, interval

    return Type(f"[all] a whole number, {minimum} to {MAX_EXTRA_S}", parse)


def _password(words: Words) -> bytes:
    """Parse a password, and cut it to the octets that VRRP carries."""
    word = words.take("a password")
    octets = word.text.encode(errors="surrogateescape")
    if len(octets) > MAX_PASSWORD:
        words.warn(word, f"the password is longer than {MAX_PASSWORD} octets; the rest is cut", "shorten it")
    return octets[:MAX_PASSWORD]


def names(what: str) -> Type[tuple[Word, ...]]:
    """Make the type of one or more names on a line."""
    return Type(f"{what} [...]", lambda words: (words.take(what), *words.rest()))


def _deleted(words: Words) -> Written[Script] | bool:
    """Parse notify_deleted's script. True: only the state that is reported changes."""
    return SCRIPT.parse(words) if words else True


def _milliseconds(minimum: int) -> Type[float]:
    """Make the type of milliseconds with three digits behind the point, as BFD counts in microseconds."""
    syntax = f"milliseconds, {minimum} to {MAX_BFD_MS}"

    def parse(words: Words) -> float:
        value = real(minimum, MAX_BFD_MS).parse(words)
        if value > MAX_SENSIBLE_BFD_MS:
            words.warn(words.taken[-1], f"{value:g} ms is long: {words.node.keyword} is in milliseconds")
        return value

    return Type(syntax, parse)


DEVICE = Type("a device", _device)
BFD_MS, BFD_IDLE_MS = _milliseconds(1), _milliseconds(1000)
DELAY_LINE = Type(f"DEVICE SECONDS [SECONDS], 0 to {MAX_LINK_DELAY_S:g}: down, and up", _delay)
IPVLAN = Type("[a device's name] [an IP address] [bridge|private|vepa]", _ipvlan)
RECEIVE_POLICY = Type(f"MTU|ADVERT|a whole number, 1 to {MAX_INTEGER}", _receive_policy)
POLLED_LINE = Type("DEVICE [MII|ETHTOOL|IOCTL]", _polled)
PEER_LINE = Type("ADDRESS [min_ttl 0 to 255] [max_ttl 0 to 255]", _peer)
VMAC = Type("[a device's name] [a MAC address of 6 or 5 octets]", _vmac)
EXTRA, EXTRA_DEFAULT = _extra(0), _extra(1)
CHECKSUM = one_or_nothing("never", OldChecksum.NEVER, OldChecksum.ALWAYS)
PASSWORD = Type(f"a password of at most {MAX_PASSWORD} octets", _password)
AT_LEAST_ONE = at_least_one()
NAME = Type("NAME", lambda words: words.take("a name"))  # of a block, by which other blocks refer to it
DELETED = Type(f"[{SCRIPT.syntax}]", _deleted)


def track_weight(maximum: int = MAX_WEIGHT, keep: bool = False) -> Type[TrackWeight]:
    """Make the type of a weight, optionally with `reverse`. With `keep` one out of range counts, as in keepalived."""

    def parse(words: Words) -> TrackWeight:
        word = words.take("a weight")
        limit = MAX_INTEGER if keep else maximum
        value = leading_number(words, word, -limit, limit)
        if not -maximum <= value <= maximum:
            text = f"weight {word.text} is not between -{maximum} and {maximum}"
            if abs(value) > limit:
                raise BadValue(f"{text}; it is ignored", word=word)
            words.warn(word, f"{text}; it counts")
        return TrackWeight(value, True if words.take_if("reverse") else None)

    return Type(f"a whole number, -{maximum} to {maximum} [reverse]", parse)


def _optional_weight(words: Words) -> TrackWeight:
    """Parse the keyword alone, which is weight 0, or `weight` and a number."""
    if not words.take_if("weight"):
        return TrackWeight(0)
    word = words.take("a weight")
    return TrackWeight(number_within(word, -MAX_WEIGHT, MAX_WEIGHT, "weight", "write one that is"))


def track_line(
    what: str, maximum: int = MAX_WEIGHT, clamped: bool = False, keeps_line: bool = False
) -> Type[WrittenTrack]:
    """Make the type of a name with an optional weight in this block.

    With `clamped` a weight one beyond the maximum counts as the maximum. With `keeps_line` an unknown word in the place
    of `reverse` is ignored; otherwise it removes the line. keepalived does the same.
    """

    def parse(words: Words) -> WrittenTrack:
        """Parse the line; raises BadValue for a word because of which keepalived ignores the line."""
        word, weight = words.take(f"the name of {what}"), TrackWeight()
        with_weight = words.take_if("weight") is not None
        if with_weight:
            weight = _line_weight(words, maximum, clamped)
        extra = words.peek() if weight.reverse is None else None
        if extra is not None and with_weight and keeps_line:
            words.error(words.take(""), f"'{extra.text}' is not known here and is ignored", "write reverse, or nothing")
        elif extra is not None:
            raise BadValue(
                f"'{extra.text}' is not known here, so {word.text} is not watched",
                "write one name a line, and no more than 'weight N [reverse]' behind it",
                extra,
            )
        return WrittenTrack(word.text, weight, word)

    return Type(f"the name of {what} [weight -{maximum} to {maximum} [reverse|noreverse]]", parse)


def _line_weight(words: Words, maximum: int, clamped: bool) -> TrackWeight:
    """Take a weight; without a usable one that of the definition counts, as in keepalived."""
    word = words.take("a weight")
    kept: int | None = None
    try:
        kept = leading_number(words, word, -maximum, maximum)
    except BadValue as problem:
        words.typo(word, f"{problem.text}; it is ignored")
    if kept is not None and clamped and abs(kept) == maximum + 1:
        kept = maximum if kept > 0 else -maximum
        words.warn(word, f"weight {word.text} is not between -{maximum} and {maximum}; it counts as {kept}")
    elif kept is not None and abs(kept) > maximum:
        kept = None
        words.warn(word, f"weight {word.text} is not between -{maximum} and {maximum}; it is ignored")
    direction = words.take_if("reverse", "noreverse")
    return TrackWeight(kept, direction.text == "reverse" if direction else None)


def _initial(words: Words) -> tuple[int, bool]:
    """Parse the initial number of a track_file, and whether to overwrite an existing one; in any order."""
    number, overwrite = 0, False
    for word in words.rest():
        if word.text == "overwrite":
            overwrite = True
        elif not NUMBER.match(word.text):
            raise BadValue(f"'{word.text}' is neither a number nor 'overwrite'", "", word)
        else:
            number = number_of(word)
            if abs(number) > MAX_FILE_WEIGHT:
                limits = f"-{MAX_FILE_WEIGHT} and {MAX_FILE_WEIGHT}"
                words.warn(word, f"{word.text} is not between {limits}, where it would count")
    return number, overwrite


def _process(words: Words) -> tuple[str, ...]:
    return words.take("a command").text, *(word.text for word in words.rest())


OPTIONAL_WEIGHT = Type(f"[weight N], -{MAX_WEIGHT} to {MAX_WEIGHT}", _optional_weight)
FILE_WEIGHT = track_weight(MAX_FILE_WEIGHT)
INITIAL = Type("[a number] [overwrite]", _initial)
PROCESS = Type("a command [arguments ...]", _process)


def _address_line(static: bool) -> Type[Written[HeldAddress]]:
    """Make the type of an address with options; a `static` one does not depend on VRRP's state."""
    flags = {name: field for name, field in ADDRESS_FLAGS.items() if not (static and name == "use_vmac")}
    options = [*flags, "dev", *ADDRESS_OPTIONS, *(["track_group"] if static else [])]

    def parse(words: Words) -> Written[HeldAddress]:
        first = words.take("an IP address")
        interface = interface_of(first, words)
        given: dict[str, Any] = {"interface": interface, "no_dad": interface.version == 6}  # `-nodad` resets it
        device, group = None, None
        for word in words.rest():
            option = word.text
            if option in flags:
                given[flags[option]] = flags[option] not in ("tracked", "no_dad")
            elif option not in options:
                near = did_you_mean(option, options)
                words.typo(word, f"'{option}' is not known behind an address and is ignored", near)
            elif option == "dev":
                if device is not None:
                    raise BadValue("a second device for one address", "write the address once for each", word)
                device = words.take("a device behind dev")
                given["device"] = device.text
            elif option == "track_group":
                group = words.take("the name of a track_group")
            else:
                _address_option(given, interface, option, words)
        _combine(given, words, first)
        if interface.version == 6:  # or checks would start from the VIP; 2.2.7 prefers one with a prefix length
            longest = given["interface"].network.prefixlen == interface.max_prefixlen
            given.setdefault("preferred_lft_s", FOREVER if static and not longest else 0)
        return Written(HeldAddress(**given), first, (device,) if device else (), group)

    last = "track_group NAME" if static else "use_vmac"
    syntax = (
        "ADDRESS[/LENGTH] [dev DEVICE] [label LABEL] [scope SCOPE] [brd ADDRESS|+|-] [peer ADDRESS] [home] [-nodad]"
        f" [mngtmpaddr] [noprefixroute] [autojoin] [preferred_lft SECONDS|forever] [no_track] [{last}]"
    )
    return Type(syntax, parse)


def _address_option(given: dict[str, Any], interface: Interface, option: str, words: Words) -> None:
    value = words.take(f"a value behind {option}")
    if option == "label":
        given["label"] = short_name(value, "label")
    elif option == "scope":
        scope = named(Names.SCOPES, value.text, 255)
        if scope is None:
            words.typo(value, f"scope '{value.text}' is not known; global counts")
        given["scope"] = scope or 0
    elif option in ("brd", "broadcast"):
        given["broadcast"] = _broadcast(interface, value)
    elif option == "peer":
        _peer_option(given, interface, value, words)
    elif value.text == "forever":
        given["preferred_lft_s"] = FOREVER
    else:
        try:
            lifetime = leading_within(words, value, 0, MAX_U32)
        except BadValue:
            words.typo(value, f"'{value.text}' is no lifetime and is ignored", "write seconds, or forever")
        else:
            given["preferred_lft_s"] = lifetime if lifetime < ENDLESS else FOREVER


def _peer_option(given: dict[str, Any], interface: Interface, word: Word, words: Words) -> None:
    """Take the address of the other end; as in keepalived, the address has none if it is invalid."""
    try:
        peer = address_of(word)
    except BadValue as problem:
        words.warn(word, f"{problem.text}; the address gets no peer", problem.advice)
        return
    if peer.version != interface.version:
        words.warn(word, f"peer {peer} is not of the address's family; the address gets no peer", "remove it")
    elif "peer" in given:
        words.warn(word, f"the address has peer {given['peer']} already; {peer} is ignored", "remove one of them")
    else:
        given["peer"] = peer


def _broadcast(interface: Interface, word: Word) -> Address | str:
    """Parse a broadcast address; `+` and `-` depend on the prefix length. Raises BadValue."""
    if interface.version != 4:
        raise BadValue("only IPv4 has broadcast addresses", "remove it", word)
    if word.text in ("+", "-"):
        return word.text
    address = address_of(word)
    if address.version != 4:
        raise BadValue("only IPv4 has broadcast addresses", "remove it", word)
    return address


def _combine(given: dict[str, Any], words: Words, first: Word) -> None:
    """Apply keepalived's rules about several options of one address, which drop an option but never the address."""
    interface: Interface = given["interface"]
    broadcast, peer, longest = given.get("broadcast"), given.get("peer"), interface.max_prefixlen
    if peer is not None and interface.network.prefixlen < longest:
        text = f"an address with a peer has no prefix length; /{longest} counts"
        words.warn(first, text, f"write {interface.ip}")
        given["interface"] = interface = ip_interface(f"{interface.ip}/{longest}")
    if broadcast is not None and peer is not None:
        words.warn(first, "an address with a peer has no broadcast address; brd is ignored", "remove brd")
        given["broadcast"] = None
    elif isinstance(broadcast, str):
        if interface.network.prefixlen >= longest - 1:
            text = f"/{interface.network.prefixlen} leaves no bits for a broadcast address; brd is ignored"
            words.warn(first, text, "remove brd, or write a shorter prefix")
            given["broadcast"] = None
        else:  # `+` sets the host bits, `-` clears them
            network = interface.network
            given["broadcast"] = network.broadcast_address if broadcast == "+" else network.network_address
    if interface.version == 6:
        for option in ("label", "scope"):
            if given.pop(option, None):
                words.warn(first, f"an IPv6 address has no {option}; it is ignored", f"remove {option}")


ADDRESS_LINE, STATIC_ADDRESS_LINE = _address_line(False), _address_line(True)
