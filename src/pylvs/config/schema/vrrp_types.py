"""The types of values that only virtual routers have."""

from __future__ import annotations

import re

from pylvs.config.schema.addresses import short_name
from pylvs.config.schema.nouns import BadValue, Type, Words
from pylvs.config.schema.types import address_of, number_of
from pylvs.config.tree import Word
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import OldChecksum, Peer, Vmac

MAC = re.compile(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){4,5}\Z")
STANDARD_MACS = (bytes.fromhex("00005e0001"), bytes.fromhex("00005e0002"))  # RFC 9568 7.3
LONGEST_EXTRA_S = 86400


@dataclass(frozen=True, slots=True)
class Device:
    """A device's name and where it is written."""

    name: str
    word: Word

    @property
    def devices(self) -> tuple[Word, ...]:
        """What must exist on this machine."""
        return (self.word,)


@dataclass(frozen=True, slots=True)
class DeviceType(Type[Device]):
    """The name of a network device."""

    def parse(self, words: Words) -> Device:
        """The name; whether this machine has it is looked at when everything has been read."""
        word = words.take("a device")
        return Device(short_name(word, "device"), word)

    def __str__(self) -> str:
        return "a device"


@dataclass(frozen=True, slots=True)
class PeerLine(Type[Peer]):
    """One unicast peer; `limited` TTLs turn the check of senders on."""

    def parse(self, words: Words) -> Peer:
        """The address and between which TTLs its packets are taken."""
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
            least, most = limits.values()
            words.warn(word, f"min_ttl {least} is more than max_ttl {most}: every packet of {address} is discarded")
        return Peer(address, limits["min_ttl"], limits["max_ttl"])

    def __str__(self) -> str:
        return "ADDRESS [min_ttl 0 to 255] [max_ttl 0 to 255]"


def address_without_length(words: Words, what: str) -> Address:
    """An address; a prefix length behind it is ignored, as keepalived does, but not silently. Raises Wrong."""
    word = words.take(what)
    host, slash, length = word.text.partition("/")
    if slash and length.isdigit():
        words.warn(word, f"the prefix length /{length} has no meaning here and is ignored", f"write {host}")
        return address_of(Word(host, word.place, word.quoted))
    return address_of(word)


@dataclass(frozen=True, slots=True)
class SourceType(Type[Address]):
    """An address of this machine."""

    def parse(self, words: Words) -> Address:
        """The address."""
        return address_without_length(words, "an IP address")

    def __str__(self) -> str:
        return "an IP address"


@dataclass(frozen=True, slots=True)
class MulticastType(Type[Address]):
    """A multicast address, of one family or of any."""

    version: int = 0

    def parse(self, words: Words) -> Address:
        """The address."""
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
    """A device's name and a MAC address, both optional."""

    def parse(self, words: Words) -> Vmac:
        """Name and address; what cannot be taken is left to keepalived's rule."""
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
                except BadValue as wrong:
                    words.warn(word, f"{wrong.text}; it is ignored", wrong.advice)
        return Vmac(name, mac)

    def __str__(self) -> str:
        return "[a device's name] [a MAC address of 6 or 5 octets]"


@dataclass(frozen=True, slots=True)
class ExtraType(Type[tuple[bool, int]]):
    """Seconds, and whether devices other than VMACs count too."""

    def parse(self, words: Words) -> tuple[bool, int]:
        """Whether `all` was written, and the seconds."""
        everywhere = words.take_if("all") is not None
        word = words.take("seconds")
        seconds = number_of(word)
        if not 0 <= seconds <= LONGEST_EXTRA_S:
            raise BadValue(f"{word.text} is not between 0 and {LONGEST_EXTRA_S}", "", word)
        return everywhere, seconds

    def __str__(self) -> str:
        return f"[all] a whole number, 0 to {LONGEST_EXTRA_S}"


@dataclass(frozen=True, slots=True)
class ChecksumType(Type[OldChecksum]):
    """The keyword alone, or `never`."""

    def parse(self, words: Words) -> OldChecksum:
        """When the old checksum is used."""
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
    """A password, of which VRRP carries 8 octets."""

    most: int = 8

    def parse(self, words: Words) -> bytes:
        """Its octets."""
        word = words.take("a password")
        octets = word.text.encode(errors="surrogateescape")
        if len(octets) > self.most:
            words.warn(word, f"the password is longer than {self.most} octets; the rest is cut", "shorten it")
        return octets[: self.most]

    def __str__(self) -> str:
        return f"a password of at most {self.most} octets"


@dataclass(frozen=True, slots=True)
class AtLeastOne(Type[int]):
    """A whole number from 1 on; 0 counts as 1."""

    most: int = 0xFFFFFFFF

    def parse(self, words: Words) -> int:
        """The number."""
        word = words.take(str(self))
        value = number_of(word)
        if not 0 <= value <= self.most:
            raise BadValue(f"{word.text} is not between 1 and {self.most}", "", word)
        if value == 0:
            words.warn(word, f"{words.node.keyword} 0 counts as 1", "write 1")
        return max(1, value)

    def __str__(self) -> str:
        return f"a whole number, 1 to {self.most}"


@dataclass(frozen=True, slots=True)
class NameList(Type[tuple[Word, ...]]):
    """All words of a line, each a name."""

    what: str

    def parse(self, words: Words) -> tuple[Word, ...]:
        """The words, at least one."""
        return words.take(self.what), *words.rest()

    def __str__(self) -> str:
        return f"{self.what} [...]"


@dataclass(frozen=True, slots=True)
class Named:
    """A name and where it is written."""

    name: str
    word: Word


@dataclass(frozen=True, slots=True)
class NameType(Type[Named]):
    """The name of a block, by which others refer to it."""

    def parse(self, words: Words) -> Named:
        """The name."""
        word = words.take("a name")
        return Named(word.text, word)

    def __str__(self) -> str:
        return "NAME"


CHECKSUM = ChecksumType()
DEVICE = DeviceType()
NAME = NameType()
SOURCE = SourceType()
AT_LEAST_ONE = AtLeastOne()
