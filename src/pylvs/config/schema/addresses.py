"""Lines of virtual_ipaddress and static_ipaddress: an address, and what `ip address add` can say of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

from pylvs.config.schema.nouns import Type, Words, Wrong
from pylvs.config.schema.types import address_of, did_you_mean
from pylvs.config.tree import Word
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import FOREVER, HeldAddress, Interface
from pylvs.netlink.iproute2 import Names, named

LONGEST_NAME = 15  # IFNAMSIZ - 1
FLAGS = {
    "home": "home",
    "-nodad": "no_dad",
    "mngtmpaddr": "manage_temporary",
    "noprefixroute": "no_prefix_route",
    "autojoin": "join_group",
    "no_track": "tracked",
    "use_vmac": "own_vmac",
}
VALUES = ("label", "scope", "brd", "broadcast", "peer", "preferred_lft")
LONGEST_LIFE = 0xFFFFFFFE  # IFA_CACHEINFO has 32 bits, and all of them set is forever


@dataclass(frozen=True, slots=True)
class Held:
    """An address, and the words that name it, its devices and its group."""

    address: HeldAddress
    word: Word
    devices: tuple[Word, ...] = ()
    group: Word | None = None


def interface_of(word: Word, words: Words | None = None) -> Interface:
    """An address with its prefix length; without, the longest. Raises Wrong.

    With `words`, a wrong length is a complaint and the longest counts, as keepalived has it.
    """
    text, slash, length = word.text.partition("/")
    try:
        address = ip_address(text)
    except ValueError:
        raise Wrong(f"'{word.text}' is not an IP address", "", word) from None
    if slash and not (length.isascii() and length.isdigit() and int(length) <= address.max_prefixlen):
        text = f"'{length}' is not a prefix length of 0 to {address.max_prefixlen}"
        if words is None:
            raise Wrong(text, "", word)
        words.warn(word, f"{text}; /{address.max_prefixlen} counts")
        slash = ""
    return ip_interface(f"{address}/{int(length)}" if slash else f"{address}/{address.max_prefixlen}")


def short_name(word: Word, what: str) -> str:
    """A name of at most 15 characters; raises Wrong."""
    if len(word.text) > LONGEST_NAME:
        raise Wrong(f"{what} '{word.text}' is longer than {LONGEST_NAME} characters", "shorten it", word)
    return word.text


@dataclass(frozen=True, slots=True)
class HeldLine(Type[Held]):
    """An address; `fixed` for those that stay whoever is master."""

    fixed: bool = False

    def parse(self, words: Words) -> Held:
        """The address with its options; one that cannot be had as written is none at all."""
        first = words.take("an IP address")
        interface = interface_of(first, words)
        given: dict[str, Any] = {"interface": interface}
        if interface.version == 6 and interface.network.prefixlen == 128:
            given["preferred_lft_s"] = 0
        given["no_dad"] = interface.version == 6  # `-nodad` takes it away
        device: Word | None = None
        group: Word | None = None
        for word in words.rest():
            option = word.text
            if option in FLAGS and option in self._options():
                given[FLAGS[option]] = FLAGS[option] not in ("tracked", "no_dad")
            elif option not in self._options():
                near = did_you_mean(option, self._options())
                words.warn(word, f"'{option}' is not known behind an address and is ignored", near)
            elif option == "dev":
                if device is not None:
                    raise Wrong("a second device for one address", "write the address once for each", word)
                device = words.take("a device behind dev")
                given["device"] = device.text
            elif option == "track_group":
                group = words.take("the name of a track_group")
                given["track_group"] = group.text
            else:
                self._value(given, interface, option, words)
        return Held(HeldAddress(**given), first, (device,) if device else (), group)

    def _options(self) -> list[str]:
        flags = [flag for flag in FLAGS if not (self.fixed and flag == "use_vmac")]
        return [*flags, "dev", *VALUES, *(["track_group"] if self.fixed else [])]

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
            except Wrong as wrong:
                words.warn(value, f"{wrong.text}; the address gets no peer", wrong.advice)
            else:
                if peer.version != interface.version:
                    raise Wrong(f"peer {peer} is not of the address's family", "", value)
                given["peer"] = peer
        elif value.text == "forever":
            given["preferred_lft_s"] = FOREVER
        elif value.text.isascii() and value.text.isdigit() and int(value.text) <= LONGEST_LIFE:
            given["preferred_lft_s"] = int(value.text)
        else:
            words.warn(value, f"'{value.text}' is no lifetime and is ignored", "write seconds, or forever")

    def __str__(self) -> str:
        last = "track_group NAME" if self.fixed else "use_vmac"
        return (
            "ADDRESS[/LENGTH] [dev DEVICE] [label LABEL] [scope SCOPE] [brd ADDRESS|+|-] [peer ADDRESS] [home] [-nodad]"
            f" [mngtmpaddr] [noprefixroute] [autojoin] [preferred_lft SECONDS|forever] [no_track] [{last}]"
        )


def _broadcast(interface: Interface, word: Word) -> Address | None:
    """`+` sets the host's bits, `-` clears them."""
    if word.text in ("+", "-"):
        if interface.network.prefixlen >= interface.max_prefixlen - 1:
            raise Wrong(f"/{interface.network.prefixlen} leaves no bits for a broadcast address", "", word)
        return interface.network.broadcast_address if word.text == "+" else interface.network.network_address
    address = address_of(word)
    if address.version != 4 or interface.version != 4:
        raise Wrong("only IPv4 has broadcast addresses", "remove it", word)
    return address
