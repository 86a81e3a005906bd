"""Types of values that only virtual routers have: addresses with options, devices, peers, VMACs, passwords."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface
from typing import Any

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.config.schema.types import address_of, did_you_mean, number_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import FOREVER, HeldAddress, Interface
from pylvs.model.vrrp import OldChecksum, Peer, Vmac
from pylvs.netlink.iproute2 import Names, named

MAX_DEVICE_NAME = 15  # IFNAMSIZ - 1
ADDRESS_FLAGS = {
    "home": "home",
    "-nodad": "no_dad",
    "mngtmpaddr": "manage_temporary",
    "noprefixroute": "no_prefix_route",
    "autojoin": "join_group",
    "no_track": "tracked",
    "use_vmac": "own_vmac",
}
ADDRESS_OPTIONS = ("label", "scope", "brd", "broadcast", "peer", "preferred_lft")
MAX_LIFETIME_S = 0xFFFFFFFE  # IFA_CACHEINFO has 32 bits; all bits set mean forever


@dataclass(frozen=True, slots=True)
class WrittenAddress:
    """An address, and the words that findings about it, its devices and its group refer to."""

    address: HeldAddress
    word: Word
    devices: tuple[Word, ...] = ()
    group: Word | None = None


def interface_of(word: Word, words: Words | None = None) -> Interface:
    """Parse an address with a prefix length, by default the longest; raises BadValue.

    With `words`, an invalid length is only a warning and the longest counts, as in keepalived.
    """
    text, slash, length = word.text.partition("/")
    try:
        address = ip_address(text)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an IP address", "", word) from None
    if slash and not (length.isascii() and length.isdigit() and int(length) <= address.max_prefixlen):
        text = f"'{length}' is not a prefix length of 0 to {address.max_prefixlen}"
        if words is None:
            raise BadValue(text, "", word)
        words.warn(word, f"{text}; /{address.max_prefixlen} counts")
        slash = ""
    return ip_interface(f"{address}/{int(length)}" if slash else f"{address}/{address.max_prefixlen}")


def short_name(word: Word, what: str) -> str:
    """Return a name that fits into IFNAMSIZ; raises BadValue."""
    if len(word.text) > MAX_DEVICE_NAME:
        raise BadValue(f"{what} '{word.text}' is longer than {MAX_DEVICE_NAME} characters", "shorten it", word)
    return word.text


@dataclass(frozen=True, slots=True)
class AddressLine(Type[WrittenAddress]):
    """An address with `ip address`'s options; `static` if it does not depend on VRRP's state."""

    static: bool = False

    def parse(self, words: Words) -> WrittenAddress:
        first = words.take("an IP address")
        interface = interface_of(first, words)
        given: dict[str, Any] = {"interface": interface}
        if interface.version == 6 and interface.network.prefixlen == 128:
            given["preferred_lft_s"] = 0
        given["no_dad"] = interface.version == 6  # `-nodad` resets it
        device: Word | None = None
        group: Word | None = None
        for word in words.rest():
            option = word.text
            if option in ADDRESS_FLAGS and option in self._options():
                given[ADDRESS_FLAGS[option]] = ADDRESS_FLAGS[option] not in ("tracked", "no_dad")
            elif option not in self._options():
                near = did_you_mean(option, self._options())
                words.warn(word, f"'{option}' is not known behind an address and is ignored", near)
            elif option == "dev":
                if device is not None:
                    raise BadValue("a second device for one address", "write the address once for each", word)
                device = words.take("a device behind dev")
                given["device"] = device.text
            elif option == "track_group":
                group = words.take("the name of a track_group")
                given["track_group"] = group.text
            else:
                self._value(given, interface, option, words)
        return WrittenAddress(HeldAddress(**given), first, (device,) if device else (), group)

    def _options(self) -> list[str]:
        flags = [flag for flag in ADDRESS_FLAGS if not (self.static and flag == "use_vmac")]
        return [*flags, "dev", *ADDRESS_OPTIONS, *(["track_group"] if self.static else [])]

    @staticmethod
    def _value(given: dict[str, Any], interface: Interface, option: str, words: Words) -> None:
        value = words.take(f"a value behind {option}")
        if option == "label":
            given["label"] = short_name(value, "label")
        elif option == "scope":
            scope = named(Names.SCOPES, value.text, 255)
            if scope is None:
                words.warn(value, f"scope '{value.text}' is not known; global counts")
            given["scope"] = scope or 0
        elif option in ("brd", "broadcast"):
            given["broadcast"] = _broadcast(interface, value)
        elif option == "peer":
            try:
                peer = address_of(value)
            except BadValue as problem:
                words.warn(value, f"{problem.text}; the address gets no peer", problem.advice)
            else:
                if peer.version != interface.version:
                    raise BadValue(f"peer {peer} is not of the address's family", "", value)
                given["peer"] = peer
        elif value.text == "forever":
            given["preferred_lft_s"] = FOREVER
        elif value.text.isascii() and value.text.isdigit() and int(value.text) <= MAX_LIFETIME_S:
            given["preferred_lft_s"] = int(value.text)
        else:
            words.warn(value, f"'{value.text}' is no lifetime and is ignored", "write seconds, or forever")

    def __str__(self) -> str:
        last = "track_group NAME" if self.static else "use_vmac"
        return (
            "ADDRESS[/LENGTH] [dev DEVICE] [label LABEL] [scope SCOPE] [brd ADDRESS|+|-] [peer ADDRESS] [home] [-nodad]"
            f" [mngtmpaddr] [noprefixroute] [autojoin] [preferred_lft SECONDS|forever] [no_track] [{last}]"
        )


def _broadcast(interface: Interface, word: Word) -> Address | None:
    """Parse a broadcast address; `+` sets the host bits, `-` clears them."""
    if word.text in ("+", "-"):
        if interface.network.prefixlen >= interface.max_prefixlen - 1:
            raise BadValue(f"/{interface.network.prefixlen} leaves no bits for a broadcast address", "", word)
        return interface.network.broadcast_address if word.text == "+" else interface.network.network_address
    address = address_of(word)
    if address.version != 4 or interface.version != 4:
        raise BadValue("only IPv4 has broadcast addresses", "remove it", word)
    return address


MAC = re.compile(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){4,5}\Z")
STANDARD_MACS = (bytes.fromhex("00005e0001"), bytes.fromhex("00005e0002"))  # RFC 9568 7.3
MAX_EXTRA_S = 86400
MAX_INTERVAL_S = 4294.967295  # 32 bits of microseconds


@dataclass(frozen=True, slots=True)
class Device:
    """A device's name."""

    name: str
    word: Word

    @property
    def devices(self) -> tuple[Word, ...]:
        """The devices that must exist on this machine."""
        return (self.word,)


@dataclass(frozen=True, slots=True)
class DeviceType(Type[Device]):
    """The name of a network device. Whether it exists is checked after all blocks are read."""

    def parse(self, words: Words) -> Device:
        word = words.take("a device")
        return Device(short_name(word, "device"), word)

    def __str__(self) -> str:
        return "a device"


@dataclass(frozen=True, slots=True)
class PeerLine(Type[Peer]):
    """One unicast peer, and the TTLs that its packets may have."""

    def parse(self, words: Words) -> Peer:
        address = address_without_length(words, "an IP address")
        limits = {"min_ttl": 0, "max_ttl": 255}
        word = words.peek()
        for word in words.rest():
            if word.text not in limits:
                words.warn(word, f"'{word.text}' is not known behind a peer and is ignored", "one peer a line")
                continue
            value = words.take(f"a number behind {word.text}")
            number = number_of(value)
            if not 0 <= number <= 255:
                words.warn(value, f"{word.text} {value.text} is not between 0 and 255 and is ignored")
            else:
                limits[word.text] = number
        if word is not None and limits["min_ttl"] > limits["max_ttl"]:
            minimum, maximum = limits.values()
            words.warn(
                word, f"min_ttl {minimum} is more than max_ttl {maximum}: every packet of {address} is discarded"
            )
        return Peer(address, limits["min_ttl"], limits["max_ttl"])

    def __str__(self) -> str:
        return "ADDRESS [min_ttl 0 to 255] [max_ttl 0 to 255]"


def address_without_length(words: Words, what: str) -> Address:
    """Take an address; ignore a prefix length with a warning. Raises BadValue."""
    word = words.take(what)
    host, slash, length = word.text.partition("/")
    if slash and length.isdigit():
        words.warn(word, f"the prefix length /{length} has no meaning here and is ignored", f"write {host}")
        return address_of(Word(host, word.location, word.quoted))
    return address_of(word)


@dataclass(frozen=True, slots=True)
class SourceType(Type[Address]):
    """The source address of advertisements."""

    def parse(self, words: Words) -> Address:
        return address_without_length(words, "an IP address")

    def __str__(self) -> str:
        return "an IP address"


@dataclass(frozen=True, slots=True)
class MulticastType(Type[Address]):
    """A multicast address, of one family if `version` is 4 or 6."""

    version: int = 0

    def parse(self, words: Words) -> Address:
        word = words.take(str(self))
        address = address_of(word)
        if self.version not in (0, address.version):
            raise BadValue(f"'{word.text}' is not an IPv{self.version} address", "", word)
        if not address.is_multicast:
            raise BadValue(f"{word.text} is no multicast address", "write one of 224.0.0.0/4 or ff00::/8", word)
        return address

    def __str__(self) -> str:
        return f"an IPv{self.version} multicast address" if self.version else "a multicast address"


@dataclass(frozen=True, slots=True)
class VmacType(Type[Vmac]):
    """The optional name and MAC address of a VMAC; invalid ones are ignored with a warning."""

    def parse(self, words: Words) -> Vmac:
        name, mac = "", None
        for word in words.rest():
            if MAC.match(word.text):
                octets = bytes(int(octet, 16) for octet in re.split("[:-]", word.text))
                if octets[:5] in STANDARD_MACS:
                    words.warn(word, f"{word.text} is one of VRRP's own addresses and is ignored", "leave it out")
                else:
                    mac = octets
            elif name:
                words.warn(word, f"the VMAC has a name already; '{word.text}' is ignored")
            else:
                try:
                    name = short_name(word, "device")
                except BadValue as problem:
                    words.warn(word, f"{problem.text}; it is ignored", problem.advice)
        return Vmac(name, mac)

    def __str__(self) -> str:
        return "[a device's name] [a MAC address of 6 or 5 octets]"


@dataclass(frozen=True, slots=True)
class ExtraType(Type[tuple[bool, int]]):
    """The interval of garp_extra_if, and whether `all` devices count, not only VMACs."""

    def parse(self, words: Words) -> tuple[bool, int]:
        all_devices = words.take_if("all") is not None
        word = words.take("seconds")
        seconds = number_of(word)
        if not 0 <= seconds <= MAX_EXTRA_S:
            raise BadValue(f"{word.text} is not between 0 and {MAX_EXTRA_S}", "", word)
        return all_devices, seconds

    def __str__(self) -> str:
        return f"[all] a whole number, 0 to {MAX_EXTRA_S}"


@dataclass(frozen=True, slots=True)
class ChecksumType(Type[OldChecksum]):
    """When to use keepalived's old checksum: always, or `never`."""

    def parse(self, words: Words) -> OldChecksum:
        word = words.peek()
        if word is None:
            return OldChecksum.ALWAYS
        if words.take_if("never") is None:
            raise BadValue(f"'{word.text}' is not known here", "write never, or nothing", word)
        return OldChecksum.NEVER

    def __str__(self) -> str:
        return "[never]"


@dataclass(frozen=True, slots=True)
class PasswordType(Type[bytes]):
    """A password, cut to the 8 octets that VRRP carries."""

    maximum: int = 8

    def parse(self, words: Words) -> bytes:
        word = words.take("a password")
        octets = word.text.encode(errors="surrogateescape")
        if len(octets) > self.maximum:
            words.warn(word, f"the password is longer than {self.maximum} octets; the rest is cut", "shorten it")
        return octets[: self.maximum]

    def __str__(self) -> str:
        return f"a password of at most {self.maximum} octets"


@dataclass(frozen=True, slots=True)
class AtLeastOne(Type[int]):
    """A positive whole number; 0 counts as 1, with a warning."""

    maximum: int = 0xFFFFFFFF

    def parse(self, words: Words) -> int:
        word = words.take(str(self))
        value = number_of(word)
        if not 0 <= value <= self.maximum:
            raise BadValue(f"{word.text} is not between 1 and {self.maximum}", "", word)
        if value == 0:
            words.warn(word, f"{words.node.keyword} 0 counts as 1", "write 1")
        return max(1, value)

    def __str__(self) -> str:
        return f"a whole number, 1 to {self.maximum}"


@dataclass(frozen=True, slots=True)
class NameList(Type[tuple[Word, ...]]):
    """One or more names on a line."""

    what: str

    def parse(self, words: Words) -> tuple[Word, ...]:
        return words.take(self.what), *words.rest()

    def __str__(self) -> str:
        return f"{self.what} [...]"


@dataclass(frozen=True, slots=True)
class Named:
    """The name of a block."""

    name: str
    word: Word


@dataclass(frozen=True, slots=True)
class NameType(Type[Named]):
    """The name of a block, by which other blocks refer to it."""

    def parse(self, words: Words) -> Named:
        word = words.take("a name")
        return Named(word.text, word)

    def __str__(self) -> str:
        return "NAME"


CHECKSUM = ChecksumType()
DEVICE = DeviceType()
NAME = NameType()
SOURCE = SourceType()
AT_LEAST_ONE = AtLeastOne()
