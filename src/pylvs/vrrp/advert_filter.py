"""Filters in classic BPF that sort advertisements in the kernel, for the two sockets of a receiver. Pure.

Anyone on the link can send advertisements. So one socket receives what the kernel has verified: version, type, length,
TTL, addresses, authentication, password, interval and checksum. The other one receives the rest, which is only counted
and logged. A flood of invalid packets fills the queue of the other socket, so it costs no valid advertisement.

The kernel cannot verify the digest of AH, and no checksum of more than MOST_QUADS times 4 bytes of addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.system.sockets import DROP, EQUALS, LOAD_1, LOAD_4, NETWORK_HEADER, TAKE, Instruction
from pylvs.vrrp.protocol.adverts import ADVERTISEMENT, AUTHENTICATIONS, HEAD_BYTES, PASSWORD_BYTES, PROTOCOL, TTL

MOST_QUADS = 31  # 4 bytes each, in the addresses whose checksum the kernel verifies
VRID_AT, PRIORITY_AT = 1, 2  # in an advertisement
_MIDDLE_AT = 4  # authentication and interval
_SUM_BITS = tuple(1 << bit for bit in reversed(range(MOST_QUADS.bit_length())))
_ONES = 0xFFFF  # sums of 16-bit numbers with their carries are equal modulo this number

# linux/filter.h, linux/bpf_common.h
_LOAD_LENGTH, _LOAD_MEMORY, _LOAD_IMMEDIATE = 0x80, 0x60, 0x00
_LOAD_4_X, _LOAD_2_X, _LOAD_1_X = 0x40, 0x48, 0x50  # at X + operand
_X_MEMORY, _X_IMMEDIATE = 0x61, 0x01
_X_IPV4_HEADER = 0xB1  # X becomes the length of the IPv4 header
_STORE, _STORE_X, _A_TO_X, _X_TO_A = 0x02, 0x03, 0x07, 0x87
_ADD, _ADD_X, _SUBTRACT, _SUBTRACT_X, _MODULO, _AND, _LEFT, _RIGHT = 0x04, 0x0C, 0x14, 0x1C, 0x94, 0x54, 0x64, 0x74
_JUMP, _GREATER, _AT_LEAST, _ANY_BIT = 0x05, 0x25, 0x35, 0x45

# The filter's memory, 4 bytes each. _AT is where the advertisement begins, and later the next address to add up.
_AT, _BYTES, _RULE, _HEAD, _MIDDLE, _SURPLUS, _QUADS, _PASSWORD, _PASSWORD_2, _TTL, _SUM, _SOURCE = range(12)

_MULTICAST = {4: 0xE0, 6: 0xFF}  # the first byte of such an address, or a greater one, which no host has


@dataclass(frozen=True, slots=True)
class _Header:
    """Offsets of an IP header."""

    ttl: int
    source: int
    destination: int
    quads: int  # of an address


_HEADERS = {
    4: _Header(8, 12, 16, 1),
    6: _Header(NETWORK_HEADER + 7, NETWORK_HEADER + 8, NETWORK_HEADER + 24, 4),
}


class Detail(Enum):
    """How much a filter verifies: the kernel limits its size by net.core.optmem_max."""

    CHECKSUMS = "all"
    FIELDS = "all but checksums"
    VRIDS = "VRIDs alone"  # the process drops what is not relevant


@dataclass(frozen=True, slots=True)
class Relevant:
    """What can matter to the routers of a VRID: advertisements of this priority or more, and of these masters."""

    priority: int
    masters: tuple[Address, ...] = ()

    def includes(self, priority: int) -> bool:
        """Return whether an advertisement matters from any sender; priority 0 ends a mastership."""
        return priority == 0 or priority >= self.priority


Admission = Relevant | bool  # of one VRID; True: all


@dataclass(frozen=True, slots=True)
class Rule:
    """What the kernel compares in the advertisements for one virtual router."""

    version: int
    middle: int | None = None  # the kind of authentication and the interval of version 2
    password: bytes | None = None  # padded; None: it is not compared
    group: Address | None = None  # None: unicast
    peers: tuple[Peer, ...] = ()
    peers_only: bool = False
    old_group: Address | None = None  # which the checksum of unicast may cover instead of the destination


def rule_of(instance: VrrpInstance) -> Rule:
    """Return the rule for the advertisements that `AdvertValidator` accepts."""
    middle = password = old_group = None
    if instance.version == 2:
        middle = AUTHENTICATIONS.index(instance.authentication) << 8 | round(instance.advert_interval_s)
        if instance.authentication is Authentication.PASS:
            password = instance.password[:PASSWORD_BYTES].ljust(PASSWORD_BYTES, b"\0")
    elif instance.peers and instance.multicast.version == 4 and instance.old_checksum is not OldChecksum.NEVER:
        old_group = instance.multicast
    group = None if instance.peers else instance.multicast
    return Rule(instance.version, middle, password, group, instance.peers, instance.check_source, old_group)


Rules = tuple[Rule, ...]  # of the virtual routers with one VRID on a device, of which one must match


@dataclass(frozen=True, slots=True)
class Receiving:
    """What both sockets of a receiver have in common; `offset` is that of an advertisement behind the IP header."""

    family: int
    offset: int
    vrids: Mapping[int, Rules]
    multicast: bool = True  # without it, an IPv6 socket receives unicast alone


def everything(family: int, multicast: bool) -> list[Instruction]:
    """Return a filter that passes all packets, without `multicast` only unicast."""
    code = _Code()
    _drop_multicast(code, family, multicast)
    return code.assemble(TAKE, DROP, DROP, "accept")


def verified(
    receiving: Receiving, restricted: Mapping[int, Admission] | None = None, detail: Detail = Detail.CHECKSUMS
) -> list[Instruction]:
    """Return the filter of a raw socket that passes what is valid; of restricted VRIDs, what is admitted besides."""
    return _program(receiving, restricted or {}, detail).assemble(TAKE, DROP, DROP)


def unverified(receiving: Receiving, foreign: bool = True, detail: Detail = Detail.CHECKSUMS) -> list[Instruction]:
    """Return the filter of a raw socket that passes the rest, with `foreign` also of VRIDs that are not configured."""
    return _program(receiving, {}, detail).assemble(DROP, TAKE, TAKE if foreign else DROP)


def accepting(program: Sequence[Instruction]) -> Instruction:
    """Return what one of these filters returns for the packets of its socket: as a filter alone, it loses none."""
    return program[-3]


class _Code:
    """A program with labels: conditional jumps of classic BPF reach 255 instructions, so they jump over others."""

    def __init__(self) -> None:
        self._lines: list[Instruction | str] = []  # a string is the label of a jump, or with a colon a target
        self._numbers: dict[str, int] = {}

    def add(self, operation: int, operand: int = 0) -> None:
        self._lines.append((operation, 0, 0, operand))

    def jump(self, label: str) -> None:
        self._lines.append(label)

    def when(self, operation: int, operand: int, label: str) -> None:
        """Jump if the comparison of A is true."""
        self._lines += [(operation, 0, 1, operand), label]

    def unless(self, operation: int, operand: int, label: str) -> None:
        """Jump if the comparison of A is false."""
        self._lines += [(operation, 1, 0, operand), label]

    def mark(self, label: str) -> None:
        self._lines.append(f"{label}:")

    def label(self, kind: str) -> str:
        """Return a new label."""
        self._numbers[kind] = number = self._numbers.get(kind, 0) + 1
        return f"{kind} {number}"

    def assemble(
        self, accept: Instruction, reject: Instruction, foreign: Instruction, last: str = "reject"
    ) -> list[Instruction]:
        """Return the instructions with these ends; `last` is where the code continues after its last line."""
        lines = [*self._lines, last, "accept:", accept, "reject:", reject, "foreign:", foreign]
        numbers: dict[str, int] = {}
        made: list[Instruction | str] = []
        for line in lines:
            if isinstance(line, str) and line.endswith(":"):
                numbers[line[:-1]] = len(made)
            else:
                made.append(line)
        return [
            (_JUMP, 0, 0, numbers[line] - number - 1) if isinstance(line, str) else line
            for number, line in enumerate(made)
        ]


def _program(receiving: Receiving, restricted: Mapping[int, Admission], detail: Detail) -> _Code:
    code = _Code()
    if detail is Detail.VRIDS:
        restricted = {vrid: False for vrid, admission in restricted.items() if admission is False}
    _drop_multicast(code, receiving.family, receiving.multicast)
    code.add(*((_X_IPV4_HEADER, 0) if receiving.family == 4 else (_X_IMMEDIATE, 0)))
    for each in ((_X_TO_A, 0), (_ADD, receiving.offset), (_A_TO_X, 0), (_STORE_X, _AT)):
        code.add(*each)
    code.add(_LOAD_1_X, VRID_AT)  # the kernel drops a packet that ends before it
    kinds = _choose(code, receiving.vrids, restricted)
    code.mark("known")
    if detail is Detail.VRIDS:
        code.jump("accept")
        return code
    _load(code, receiving.family)
    for number, (rules, admission) in enumerate(kinds):
        following = code.label("kind")
        code.add(_LOAD_MEMORY, _RULE)
        code.unless(EQUALS, number, following)
        if isinstance(admission, Relevant):
            _restrict(code, admission)
        for rule in rules:
            _compare(code, receiving.family, rule, detail)
        code.jump("reject")
        code.mark(following)
    code.jump("reject")
    if detail is Detail.CHECKSUMS:
        for version, old_group in sorted({_sum_of(rule) for rules, _ in kinds for rule in rules}, key=str):
            _sum(code, receiving.family, version, old_group)
    return code


def _drop_multicast(code: _Code, family: int, multicast: bool) -> None:
    if family == 6 and not multicast:
        code.add(LOAD_1, _HEADERS[6].destination)
        unicast = code.label("unicast")
        code.unless(EQUALS, _MULTICAST[6], unicast)
        code._lines.append(DROP)
        code.mark(unicast)


Kind = tuple[Rules, Admission]


def _choose(code: _Code, vrids: Mapping[int, Rules], restricted: Mapping[int, Admission]) -> list[Kind]:
    """Store the number of the rules that the VRID in A has; return all rules by number. Many VRIDs share theirs."""
    by_kind: dict[Kind, list[int]] = {}
    for vrid, rules in sorted(vrids.items()):
        by_kind.setdefault((rules, restricted.get(vrid, True)), []).append(vrid)
    kinds = [kind for kind in by_kind if kind[1] is not False]
    for kind, members in by_kind.items():
        for vrid in members:
            code.when(EQUALS, vrid, f"rules {kinds.index(kind)}" if kind in kinds else "reject")
    code.jump("foreign")
    for number in range(len(kinds)):
        code.mark(f"rules {number}")
        code.add(_LOAD_IMMEDIATE, number)
        code.add(_STORE, _RULE)
        code.jump("known")
    return kinds


def _load(code: _Code, family: int) -> None:
    """Store what rules compare, once for all of them. X is where the advertisement begins."""
    header = _HEADERS[family]
    steps = [(_LOAD_LENGTH, 0), (_SUBTRACT_X, 0), (_STORE, _BYTES)]
    for each in steps:
        code.add(*each)
    code.unless(_AT_LEAST, HEAD_BYTES, "reject")
    steps = [(_LOAD_4_X, 0), (_STORE, _HEAD), (_LOAD_2_X, _MIDDLE_AT), (_STORE, _MIDDLE)]
    steps += [(_LOAD_MEMORY, _BYTES), (_ADD_X, 0), (_SUBTRACT, PASSWORD_BYTES), (_A_TO_X, 0)]
    steps += [(_LOAD_4_X, 0), (_STORE, _PASSWORD), (_LOAD_4_X, 4), (_STORE, _PASSWORD_2)]
    steps += [(_LOAD_MEMORY, _HEAD), (_AND, 0xFF), (_LEFT, header.quads.bit_length() - 1), (_STORE, _QUADS)]
    steps += [(_LEFT, 2), (_ADD, HEAD_BYTES), (_A_TO_X, 0), (_LOAD_MEMORY, _BYTES), (_SUBTRACT_X, 0)]
    steps += [(_STORE, _SURPLUS), (LOAD_1, header.ttl), (_STORE, _TTL)]
    for number in range(header.quads):
        steps += [(LOAD_4, header.source + 4 * number), (_STORE, _SOURCE + number)]
    for each in steps:
        code.add(*each)


def _restrict(code: _Code, relevant: Relevant) -> None:
    """Reject what is not relevant."""
    admitted = code.label("admitted")
    for each in ((_LOAD_MEMORY, _HEAD), (_RIGHT, 8), (_AND, 0xFF)):
        code.add(*each)
    code.when(EQUALS, 0, admitted)
    code.when(_AT_LEAST, relevant.priority, admitted)
    for master in relevant.masters:
        another = code.label("master")
        _compare_source(code, master, another)
        code.jump(admitted)
        code.mark(another)
    code.jump("reject")
    code.mark(admitted)


def _compare(code: _Code, family: int, rule: Rule, detail: Detail) -> None:
    """Accept what matches a rule, and has a right checksum; continue otherwise."""
    other, header = code.label("rule"), _HEADERS[family]
    code.add(_LOAD_MEMORY, _HEAD)
    code.add(_RIGHT, 24)
    code.unless(EQUALS, rule.version << 4 | ADVERTISEMENT, other)
    code.add(_LOAD_MEMORY, _SURPLUS)
    code.unless(EQUALS, PASSWORD_BYTES if rule.version == 2 else 0, other)
    code.add(_LOAD_MEMORY, _MIDDLE)
    if rule.middle is None:
        code.unless(_ANY_BIT, 0x0FFF, other)  # an interval of 0
    else:
        code.unless(EQUALS, rule.middle, other)
    if rule.password is not None:
        for number, quad in enumerate(_quads(rule.password)):
            code.add(_LOAD_MEMORY, _PASSWORD + number)
            code.unless(EQUALS, quad, other)
    if rule.group is not None:
        code.add(_LOAD_MEMORY, _TTL)
        code.unless(EQUALS, TTL, other)
        for number, quad in enumerate(_quads(rule.group.packed)):
            code.add(LOAD_4, header.destination + 4 * number)
            code.unless(EQUALS, quad, other)
    else:
        code.add(LOAD_1, header.destination)
        code.when(_AT_LEAST, _MULTICAST[family], other)
        _compare_peers(code, rule, other)
    code.jump(_sum_label(rule) if detail is Detail.CHECKSUMS else "accept")
    code.mark(other)


def _compare_peers(code: _Code, rule: Rule, other: str) -> None:
    matches = code.label("peer matches")
    for peer in rule.peers:
        another = code.label("peer")
        _compare_source(code, peer.address, another)
        code.add(_LOAD_MEMORY, _TTL)
        code.unless(_AT_LEAST, peer.least_ttl, other)
        code.when(_GREATER, peer.most_ttl, other)
        code.jump(matches)
        code.mark(another)
    if rule.peers_only:
        code.jump(other)
    code.mark(matches)


def _compare_source(code: _Code, source: Address, other: str) -> None:
    for number, quad in enumerate(_quads(source.packed)):
        code.add(_LOAD_MEMORY, _SOURCE + number)
        code.unless(EQUALS, quad, other)


def _quads(octets: bytes) -> Iterator[int]:
    return (int.from_bytes(octets[at : at + 4], "big") for at in range(0, len(octets), 4))


def _sum_of(rule: Rule) -> tuple[int, Address | None]:
    return rule.version, rule.old_group


def _sum_label(rule: Rule) -> str:
    return f"sum {_sum_of(rule)}"


def _sum(code: _Code, family: int, version: int, old_group: Address | None) -> None:
    """Accept a right checksum, as `decode` does, and what is too long to add up."""
    code.mark(f"sum {(version, old_group)}")
    code.add(_LOAD_MEMORY, _QUADS)
    code.when(_GREATER, MOST_QUADS, "accept")
    code.add(_LOAD_IMMEDIATE, 0)
    if version == 2:
        for each in ((_LOAD_MEMORY, _PASSWORD), (_MODULO, _ONES), (_A_TO_X, 0), (_LOAD_MEMORY, _PASSWORD_2)):
            code.add(*each)
        for each in ((_MODULO, _ONES), (_ADD_X, 0)):
            code.add(*each)
    code.add(_STORE, _SUM)
    _add_quads(code, 0, HEAD_BYTES // 4)
    for bit in _SUM_BITS:  # binary digits of the count, because there are no loops
        skip = code.label("quads")
        code.add(_LOAD_MEMORY, _QUADS)
        code.unless(_ANY_BIT, bit, skip)
        _add_quads(code, HEAD_BYTES, bit)
        for each in ((_LOAD_MEMORY, _AT), (_ADD, 4 * bit), (_STORE, _AT)):
            code.add(*each)
        code.mark(skip)
    _compare_sums(code, family, version, old_group)


def _add_quads(code: _Code, start: int, count: int) -> None:
    for number in range(count):
        code.add(_X_MEMORY, _AT)
        code.add(_LOAD_4_X, start + 4 * number)
        _add_to_sum(code)


def _add_to_sum(code: _Code) -> None:
    for each in ((_MODULO, _ONES), (_X_MEMORY, _SUM), (_ADD_X, 0), (_STORE, _SUM)):
        code.add(*each)


def _compare_sums(code: _Code, family: int, version: int, old_group: Address | None) -> None:
    code.add(_LOAD_MEMORY, _SUM)
    code.add(_MODULO, _ONES)
    if family == 4:  # without a pseudo-header
        code.when(EQUALS, 0, "accept")
    if version == 3:
        header = _HEADERS[family]
        for number in range(header.quads):
            code.add(_LOAD_MEMORY, _SOURCE + number)
            _add_to_sum(code)
        code.add(_LOAD_MEMORY, _BYTES)
        code.add(_ADD, PROTOCOL)
        _add_to_sum(code)
        if old_group is not None:
            for each in ((_ADD, sum(_quads(old_group.packed)) % _ONES), (_MODULO, _ONES)):
                code.add(*each)
            code.when(EQUALS, 0, "accept")
        for number in range(header.quads):
            code.add(LOAD_4, header.destination + 4 * number)
            _add_to_sum(code)
        code.add(_MODULO, _ONES)
        code.when(EQUALS, 0, "accept")
    code.jump("reject")
