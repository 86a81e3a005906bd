"""Send questions on devices, and collect what comes back, in one loop with a deadline.

Packet sockets see what the kernel's stack would drop: a reply from a virtual address has a source of this host. What
is sent by them passes neither netfilter nor the table, so no connection and no counter of clients changes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address
from time import monotonic
from types import TracebackType

from pylvs.doctor.wire import packets
from pylvs.doctor.wire.packets import FIRST_PORT, QUESTIONS, Kind, Reply
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.netlink.links import Device
from pylvs.reference.packet import ICMP, ICMP6, TCP, UDP
from pylvs.system.sockets import (
    ANCILLARY,
    DROP,
    EQUALS,
    LOAD_1,
    LOAD_2,
    LOAD_4,
    NETWORK_HEADER,
    TAKE,
    Instruction,
    attach,
    closed_on_error,
    enlarge,
)

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 3, 0x0800, 0x0806, 0x86DD
PROTOCOL, PACKET_TYPE, VLAN_TAGGED = ANCILLARY, ANCILLARY + 4, ANCILLARY + 48
OUTGOING, _TO_THIS_HOST, _TO_ANOTHER_HOST, _AT_LEAST = 4, 0, 3, 0x35
_RECEIVE_BUFFER = 4 << 20
_LONGEST = 2048
_MOST_SOURCES = 60  # own addresses that the filter compares
_SETTLE_S = 0.05  # after the last answer: a second host may answer, too
_LOOPBACK = 772  # ARPHRD_LOOPBACK

Payload = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Question:
    """A frame to send by a device. `number` names it in replies; -1: replies name `address`.

    An exchange does not wait for the reply to an `optional` one.
    """

    device: Device
    frame: bytes
    number: int = -1
    address: Address | None = None
    optional: bool = False


class Answers:
    """What came back, by question and by address."""

    def __init__(self, replies: Sequence[Reply] = ()) -> None:
        self._by_number: dict[int, list[Reply]] = {}
        self._by_address: dict[tuple[Kind, Address], list[Reply]] = {}
        for reply in replies:
            self.add(reply)

    def add(self, reply: Reply) -> None:
        """Add a reply, unless it is known."""
        if reply.address is not None:
            known = self._by_address.setdefault((reply.kind, reply.address), [])
        else:
            known = self._by_number.setdefault(reply.number, [])
        if reply not in known:
            known.append(reply)

    def to(self, number: int) -> Sequence[Reply]:
        """Return the replies to a question."""
        return self._by_number.get(number, ())

    def macs(self, address: Address) -> Sequence[Reply]:
        """Return the replies of those who have an address, one for each link address."""
        return list({reply.mac: reply for reply in self._by_address.get((Kind.MAC, address), ())}.values())

    def is_alive(self, ifindex: int) -> bool:
        """Return whether a host on the link of a device has answered or asked by ARP or ND."""
        return any(each.ifindex == ifindex for some in self._by_address.values() for each in some)

    def of_mac(self, mac: bytes, ifindex: int) -> Sequence[Reply]:
        """Return what hosts with a link address on the link of a device have answered or asked by ARP or ND."""
        everything = (each for some in self._by_address.values() for each in some)
        return [each for each in everything if (each.mac, each.ifindex) == (mac, ifindex)]

    def replies_from(self, address: Address) -> Sequence[Reply]:
        """Return the segments that other hosts sent here from an own address; their `sender` is the client."""
        return self._by_address.get((Kind.REPLY, address), ())

    def asked(self, address: Address) -> Sequence[Reply]:
        """Return the requests of other hosts for an address."""
        return self._by_address.get((Kind.ASKED, address), ())


class Exchange:
    """Sockets for questions on all devices, whose sources are these own addresses. `answers` has all that came back."""

    def __init__(self, own: Collection[Address]) -> None:
        """Raises OSError."""
        self.answers = Answers()
        self._own = frozenset(own)
        self._start = monotonic()
        self._ident = int.from_bytes(os.urandom(2), "big")
        self._numbers = iter(range(1, QUESTIONS))
        self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with closed_on_error(self._out):
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            self._in = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        with closed_on_error(self._in), closed_on_error(self._out):
            attach(self._in, filter_of(self._own))
            enlarge(self._in, _RECEIVE_BUFFER)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._in.close()
        self._out.close()

    def who_has(self, device: Device, address: Address, source: Address | None) -> Question:
        """Return the question who has an address on the link of a device."""
        return Question(device, packets.who_has(address, device.mac, source), address=address)

    def broadcast_probe(self, device: Device, address: IPv4Address) -> Question:
        """Return the question who has an address, to which the reply is a broadcast."""
        return Question(device, packets.broadcast_probe(address, device.mac), address=address, optional=True)

    def number(self) -> int:
        """Return the number of a new question."""
        return next(self._numbers)

    def echo(self, number: int, size: int = 0) -> Payload:
        """Return an echo request of this exchange."""
        return packets.echo(number, self._ident, size)

    def ask(self, questions: Sequence[Question], limit_s: float, repeat_s: float, whole: bool = False) -> None:
        """Send the questions, again after `repeat_s` what has no answer; collect answers until `limit_s`.

        It ends soon after all have an answer; if `whole`, not before `limit_s`: silence is an answer, too.
        """
        start = monotonic()
        waiting = {(each.number, each.address) for each in questions if not each.optional}
        for moment in (start, start + repeat_s):
            first = moment == start
            self.send([each for each in questions if first or (each.number, each.address) in waiting])
            self._collect(waiting, start + (repeat_s if first else limit_s), whole)
            if not waiting and not whole:
                break

    def listen(self, until_s: float) -> None:
        """Collect answers until so many seconds after the first question."""
        self._collect(set(), self._start + until_s, whole=True)

    def send(self, questions: Sequence[Question]) -> None:
        """Send questions, and wait for nothing."""
        for question in questions:
            self._send(question)

    def _send(self, question: Question) -> None:
        with contextlib.suppress(OSError):  # the device is down, or its queue is full: no answer
            self._out.sendto(question.frame, (question.device.name, 0))

    def _collect(self, waiting: set[tuple[int, Address | None]], deadline: float, whole: bool) -> None:
        while (left := deadline - monotonic()) > 0:
            if not waiting and not whole:
                deadline = min(deadline, monotonic() + _SETTLE_S)
                whole = True
            if not select.select([self._in], [], [], left)[0]:
                return
            self._take(waiting)
        self._take(waiting)  # what came while this process had to wait for a CPU

    def _take(self, waiting: set[tuple[int, Address | None]]) -> None:
        for reply in self._received():
            self.answers.add(reply)
            if reply.kind not in (Kind.ASKED, Kind.RETURNED, Kind.ASTRAY, Kind.REPLY):
                waiting.discard((reply.number, reply.address))

    def _received(self) -> Iterator[Reply]:
        with contextlib.suppress(OSError):
            while True:
                data, (device, _, cast, hardware, mac) = self._in.recvfrom(_LONGEST)
                if hardware == _LOOPBACK or cast == OUTGOING:  # some may have come before the filter
                    continue
                reply = packets.decoded(data, self._ident, self._own)
                if reply is None or (reply.kind is Kind.REPLY and cast != _TO_THIS_HOST):
                    continue
                # A card without promiscuous mode drops it, and so does the kernel.
                astray = reply.address is None and cast == _TO_ANOTHER_HOST
                kind = Kind.ASTRAY if astray else reply.kind
                yield replace(reply, kind=kind, mac=reply.mac or mac, ifindex=_index(device))


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def filter_of(own: Collection[Address]) -> list[Instruction]:
    """Return a filter for replies: ARP, ICMP, and TCP and UDP to the ports of questions, and packets that came back."""
    few = list(own)[:_MOST_SOURCES]
    v4 = _of_ip(9, ICMP, 22, [int(each) for each in few if each.version == 4], 12)
    v6 = _of_ip(6, ICMP6, 42, [int(each) & 0xFFFFFFFF for each in few if each.version == 6], 20)
    return [
        *unless(PACKET_TYPE, OUTGOING),
        (LOAD_4, 0, 0, VLAN_TAGGED),
        (EQUALS, 1, 0, 0),
        DROP,
        (LOAD_4, 0, 0, PROTOCOL),
        (EQUALS, 0, 1, ETH_P_ARP),
        TAKE,
        (EQUALS, 0, len(v4), ETH_P_IP),
        *v4,
        (EQUALS, 0, len(v6), ETH_P_IPV6),
        *v6,
        DROP,
    ]


def unless(field: int, value: int) -> Iterator[Instruction]:
    """Yield the part of a filter that drops a packet whose field has the value."""
    yield LOAD_4, 0, 0, field
    yield EQUALS, 0, 1, value
    yield DROP


def _of_ip(protocol_at: int, icmp: int, port_at: int, own: Sequence[int], source_at: int) -> list[Instruction]:
    """Return the part for one version of IP: from loading the protocol to DROP."""
    program: list[Instruction] = [(LOAD_4, 0, 0, NETWORK_HEADER + source_at)]
    for each in own:
        program += [(EQUALS, 0, 1, each), TAKE]
    return [
        *program,
        (LOAD_1, 0, 0, NETWORK_HEADER + protocol_at),
        (EQUALS, 0, 1, icmp),
        TAKE,
        (EQUALS, 2, 0, TCP),
        (EQUALS, 1, 0, UDP),
        DROP,
        (LOAD_2, 0, 0, NETWORK_HEADER + port_at),
        (_AT_LEAST, 0, 1, FIRST_PORT),
        TAKE,
        DROP,
    ]
