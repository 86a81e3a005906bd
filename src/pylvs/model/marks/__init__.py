"""Rules that give packets firewall marks, like netfilter's mangle tables, and their evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntFlag
from ipaddress import IPv4Network, IPv6Network

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import InvalidOperation

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Final

ALL_BITS: Final = 0xFFFFFFFF
MOST_RULES: Final = 1024
MOST_RANGES: Final = 16  # of ports, on each side of one rule
TO_THE_END: Final = MOST_RULES  # skips every later rule
Network = IPv4Network | IPv6Network
Ranges = tuple[tuple[int, int], ...]
PROTOCOL_NAMES: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
WITH_PORTS: Final = (6, 17, 132)


class Not(IntFlag):
    """The inverted conditions of a rule, with the values of enum mark_flag in bpf/abi/marks.h."""

    SOURCE = 1 << 0
    TARGET = 1 << 1
    SOURCE_PORTS = 1 << 2
    TARGET_PORTS = 1 << 3
    PROTOCOL = 1 << 4
    DEVICE = 1 << 5
    LINK = 1 << 6
    TCP_FLAGS = 1 << 7
    TOS = 1 << 8
    MARK = 1 << 9


NOTHING_TURNED: Final = Not(0)


@dataclass(frozen=True, slots=True)
class MarkRule:
    """One rule: conditions that must all hold, and what it does to the mark: `mark & ~mask ^ value`.

    An omitted condition holds for every packet. A match skips `then_skip` rules, and no match skips `else_skip`.
    `family` is 4, 6, or 0 for both. Pairs of numbers are (value, mask), but ranges of ports are (first, last), both
    included.
    """

    mask: int = ALL_BITS
    value: int = 0
    family: int = 0
    protocol: int = 0
    source: Network | None = None
    target: Network | None = None
    source_ports: Ranges = ()
    target_ports: Ranges = ()
    device: str = ""
    link: bytes = b""  # the sender's MAC address
    tcp_flags: tuple[int, int] | None = None
    tos: tuple[int, int] | None = None
    mark: tuple[int, int] | None = None  # that earlier rules gave
    turned: Not = NOTHING_TURNED
    then_skip: int = 0
    else_skip: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Return whether the rule only skips other rules."""
        return not self.mask and not self.value

    def may_give(self, mark: int, family: int) -> bool:
        """Return whether a packet of the address family (4 or 6) may have this mark after a match."""
        if self.changes_nothing or self.family not in (0, family):
            return False
        return not (self.value ^ mark) & self.mask or bool(self.value & ~self.mask)


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of a packet that conditions use; ports are 0 where its protocol has none."""

    source: Address
    target: Address
    protocol: int = 6
    source_port: int = 0
    target_port: int = 0
    device: str = ""
    link: bytes = bytes(6)
    tcp_flags: int = 0
    tos: int = 0


def checked(rule: MarkRule) -> MarkRule:
    """Check a rule; return it with its family and without prefixes of length 0.

    Raises InvalidOperation.
    """
    families = {each.version for each in (rule.source, rule.target) if each is not None} | ({rule.family} - {0})
    if len(families) > 1:
        raise InvalidOperation("a mark rule with IPv4 and IPv6 addresses: no packet has both")
    for ranges in rule.source_ports, rule.target_ports:
        if len(ranges) > MOST_RANGES:
            raise InvalidOperation(
                f"a mark rule with {len(ranges)} ranges of ports; {MOST_RANGES} fit, use several rules"
            )
        if any(not 0 <= first <= last <= 0xFFFF for first, last in ranges):
            raise InvalidOperation("a mark rule with ports beyond 0 to 65535, or a range that ends before it begins")
    if not (0 <= rule.mask <= ALL_BITS and 0 <= rule.value <= ALL_BITS):
        raise InvalidOperation(f"a mark must be from 0 to {ALL_BITS}")
    checked_device(rule.device)
    rule = replace(rule, family=families.pop()) if families else rule
    if rule.source is not None and not rule.source.prefixlen and Not.SOURCE not in rule.turned:
        rule = replace(rule, source=None)
    if rule.target is not None and not rule.target.prefixlen and Not.TARGET not in rule.turned:
        rule = replace(rule, target=None)
    return rule


def checked_device(name: str) -> str:
    """Return the name if a device can have it. Raises InvalidOperation."""
    if not name.isprintable():
        raise InvalidOperation(f"{name}: no name of a network device")
    if len(name.encode()) > 15:
        raise InvalidOperation(f"{name}: too long for the name of a network device")
    return name


def matches(rule: MarkRule, packet: Packet, mark: int) -> bool:
    """Return whether a packet with this mark meets all conditions of a rule."""
    turned = rule.turned

    def says(yes: bool, which: Not) -> bool:
        return yes != bool(turned & which)

    has_ports = packet.protocol in WITH_PORTS
    return (
        rule.family in (0, packet.source.version)
        and (not rule.protocol or says(rule.protocol == packet.protocol, Not.PROTOCOL))
        and (not rule.device or says(rule.device == packet.device, Not.DEVICE))
        and (rule.source is None or says(packet.source in rule.source, Not.SOURCE))
        and (rule.target is None or says(packet.target in rule.target, Not.TARGET))
        and (not rule.link or says(rule.link == packet.link, Not.LINK))
        and (rule.tos is None or says(packet.tos & rule.tos[1] == rule.tos[0], Not.TOS))
        and (
            rule.tcp_flags is None
            or (packet.protocol == 6 and says(packet.tcp_flags & rule.tcp_flags[1] == rule.tcp_flags[0], Not.TCP_FLAGS))
        )
        and (
            not rule.source_ports
            or (has_ports and says(_within(packet.source_port, rule.source_ports), Not.SOURCE_PORTS))
        )
        and (
            not rule.target_ports
            or (has_ports and says(_within(packet.target_port, rule.target_ports), Not.TARGET_PORTS))
        )
        and (rule.mark is None or says(mark & rule.mark[1] == rule.mark[0], Not.MARK))
    )


def _within(port: int, ranges: Ranges) -> bool:
    return any(first <= port <= last for first, last in ranges)


def mark_of(rules: Sequence[MarkRule], packet: Packet, mark: int = 0) -> int:
    """Return the mark of a packet after a list of rules; `mark` is the one before them."""
    position = 0
    while position < len(rules):
        rule = rules[position]
        position += 1
        if matches(rule, packet, mark):
            mark = mark & ~rule.mask & ALL_BITS ^ rule.value
            position += rule.then_skip
        else:
            position += rule.else_skip
    return mark


def without(rules: Sequence[MarkRule], position: int) -> list[MarkRule]:
    """Return the list without one rule; earlier rules that skipped it keep their targets."""
    kept = _skipping(rules, position, -1)
    del kept[position]
    return kept


def with_rule(rules: Sequence[MarkRule], rule: MarkRule, position: int) -> list[MarkRule]:
    """Return the list with another rule at a position; earlier rules that skipped it keep their targets."""
    return [*_skipping(rules[:position], position, 1), rule, *rules[position:]]


def _skipping(rules: Sequence[MarkRule], position: int, more: int) -> list[MarkRule]:
    """Return the rules; those that skip the rule at a position skip that many more."""

    def changed(at: int, skip: int) -> int:
        return skip + more if at < position < at + 1 + skip and skip < TO_THE_END else skip

    return [
        replace(each, then_skip=changed(at, each.then_skip), else_skip=changed(at, each.else_skip))
        for at, each in enumerate(rules)
    ]


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same ports in the fewest ranges, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)
