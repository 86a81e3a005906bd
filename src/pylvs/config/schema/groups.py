"""`virtual_server_group`: addresses, ranges of addresses, and firewall marks with the same real servers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pylvs.config.schema.nouns import BadValue, Block, Twice, Type, Words
from pylvs.config.schema.types import MARK, TEXT, address_of, choice, port_of
from pylvs.config.tree import Word
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
FAMILY = choice(*FAMILIES)
LAST_PART = {4: re.compile(r"[0-9]{1,3}\Z"), 6: re.compile(r"[0-9a-fA-F]{1,4}\Z")}
MOST_OF_A_RANGE = 65536  # each address is a service of its own


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from `first` to `last`, one port; 0 is every port."""

    first: Address
    last: Address
    port: int
    word: Word

    def addresses(self) -> Iterator[Address]:
        """Each of them."""
        for number in range(int(self.first), int(self.last) + 1):
            yield ip_address(number) if self.first.version == 4 else IPv6Address(number)


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A firewall mark; `family` 0 is that of the real servers."""

    mark: int
    family: int
    word: Word


@dataclass(frozen=True, slots=True)
class MarkWords(Type[tuple[int, int]]):
    """A mark's number and, where the real servers do not say it, the family."""

    def parse(self, words: Words) -> tuple[int, int]:
        """Mark and family, 0 if none is given."""
        mark = MARK.parse(words)
        return mark, FAMILIES[str(FAMILY.parse(words))] if words else 0

    def __str__(self) -> str:
        return "fwmark NUMBER [inet|inet6]"


@dataclass(frozen=True, slots=True)
class GroupEntry(Type[Range | MarkEntry]):
    """One line of a group."""

    def parse(self, words: Words) -> Range | MarkEntry:
        """An address, `FIRST-LAST`, `NETWORK/LENGTH`, each with an optional port; or `fwmark NUMBER`."""
        word = words.take("an IP address")
        if word.text == "fwmark":
            return MarkEntry(*MarkWords().parse(words), word)
        first, last = _ends(word)
        size = int(last) - int(first) + 1
        if size > MOST_OF_A_RANGE:
            text = f"'{word.text}' is {size} addresses, and each is a service of its own; {MOST_OF_A_RANGE} are allowed"
            raise BadValue(text, "use a firewall mark", word)
        return Range(first, last, port_of(words.take("")) if words else 0, word)

    def __str__(self) -> str:
        return "ADDRESS[-ADDRESS | /LENGTH] [PORT] | fwmark NUMBER [inet|inet6]"


def _ends(word: Word) -> tuple[Address, Address]:
    """First and last address of what is written; raises Wrong."""
    if "/" in word.text:
        return _network(word)
    if "-" not in word.text:
        address = address_of(word)
        return address, address
    begin, _, end = word.text.partition("-")
    first = address_of(Word(begin, word.place))
    separator = ":" if first.version == 6 else "."
    if separator not in end:  # only the last part is written, as in 192.0.2.1-9
        if not LAST_PART[first.version].match(end):
            raise BadValue(f"'{end}' is not the end of a range of addresses", "such as 192.0.2.1-9", word)
        end = str(first.exploded).rpartition(separator)[0] + separator + end
    last = address_of(Word(end, word.place))
    if last.version != first.version or int(last) <= int(first):
        raise BadValue(
            f"the range '{word.text}' does not end behind its begin", "write the smaller address first", word
        )
    return first, last


def _network(word: Word) -> tuple[Address, Address]:
    try:
        network: IPv4Network | IPv6Network = ip_network(word.text, strict=False)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an address with a prefix length", "such as 192.0.2.8/29", word) from None
    if network.network_address != address_of(Word(word.text.partition("/")[0], word.place)):
        raise BadValue(f"'{word.text}' is not the begin of its network", f"write {network}", word)
    return network.network_address, network.broadcast_address


VIRTUAL_SERVER_GROUP = Block(
    "virtual_server_group",
    "several addresses and firewall marks with the same real servers",
    head=TEXT,
    lines=GroupEntry(),
    twice=Twice.MANY,
)
