"""Scenarios in the real IPVS and in the reference: a bounded form of `./dev conformance`.

One of them always runs live. What the real IPVS did with the others is recorded; `./dev test-all` asks it again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import permutations
from typing import Any

import pytest

from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.reference.packet import ICMP, ICMP6
from tests.conformance.__main__ import drawn
from tests.conformance.live import ACK, SYN, Report, Wired, compare, difference, is_late, scheduler_example, scripted
from tests.conformance.recorded import answer
from tests.conformance.script import Guest, why_no_guest
from tests.packet.fuzz.steps import AddServer, AddService, DeleteServer, EditServer
from tests.packet.fuzz.traffic import framed, ip_packet, tcp
from tests.packet.host import PREDICTABLE, VIP4, VIP6, server4, server6

pytestmark = pytest.mark.timeout(3600)  # four boots of 900 s, if each of them dies

SEED = 3740251610  # the same scenarios each time; `./dev conformance` takes others
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
DESTINATION_OPTIONS = 60  # IPv6's extension header
OLD, NEW = 1, 2  # clients: of a connection from before an edit, and from after it
MISSING = why_no_guest("ipvsadm")


def _played(name: str, examples: Sequence[Sequence[Wired]]) -> list[dict[str, Any]]:
    """Compare the reference with the real IPVS, and return what that one did."""

    def live() -> list[dict[str, Any]]:
        report = Report()
        made = compare(Guest(), examples, report)
        assert not report.differences, "\n".join(report.differences)
        return made

    played: list[dict[str, Any]] = answer(name, [scripted(steps) for steps in examples], live, MISSING)
    assert [difference(steps, made) for steps, made in zip(examples, played, strict=True)] == [None] * len(examples)
    return played


def test_every_scheduler_chooses_as_ipvs() -> None:
    played = _played("schedulers", [scheduler_example(name, SEED, 200) for name in PREDICTABLE])
    assert len(played) == len(PREDICTABLE) > 10


def test_random_tables_forward_as_in_ipvs() -> None:
    played = _played("random_tables", drawn(5, SEED, 120))
    assert sum(len(out) for made in played for _, out in made["steps"]) > 200


# --- a server's method is edited under live connections ---


def _segment(client: int, flags: int, version: int) -> bytes:
    source = ip_address(f"198.18.0.{client}" if version == 4 else f"2001:db8::{client}").packed
    target = ip_address(VIP4 if version == 4 else VIP6).packed
    chance = random.Random(client)
    return framed(ip_packet(source, target, Protocol.TCP, tcp(source, target, 2000, 80, flags, b"", chance), chance))


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_about_an_earlier_packet_is_no_answer(version: int) -> None:
    """The stack sends it seconds later, from the address of the packet that no neighbour got."""
    now, earlier = (_segment(client, SYN, version) for client in (NEW, OLD))
    ends = (VIP4, "198.18.0.1") if version == 4 else (VIP6, "2001:db8::1")
    vip, client = (ip_address(each).packed for each in ends)
    kind, head = (ICMP, b"\x03\x01") if version == 4 else (ICMP6, b"\x01\x03")
    for about, late in (earlier, True), (now, False):
        error = framed(ip_packet(vip, client, kind, head + bytes(6) + about[14:], random.Random(1), with_options=False))
        assert is_late(error, now, frozenset({vip})) is late
        assert not is_late(error, now, frozenset())


def _edited(before: Method, after: Method, version: int) -> Iterator[Wired]:
    """Make connections of two methods with one server; after each edit another one sends first."""
    key = ServiceKey(Protocol.TCP, ip_address(VIP4 if version == 4 else VIP6), 80)
    server = DestinationKey(ip_address(server4(1) if version == 4 else server6(1)), 80)
    yield AddService(VirtualService(key, "rr"))
    yield AddServer(key, Destination(server, before))
    yield _segment(OLD, SYN, version)
    yield EditServer(key, Destination(server, after))
    yield _segment(NEW, SYN, version)
    for first, second in (NEW, OLD), (OLD, NEW):
        yield _segment(first, ACK, version)
        yield _segment(second, ACK, version)
        yield EditServer(key, Destination(server, after, 7))
    yield DeleteServer(key, server)
    yield AddServer(key, Destination(server, before))
    for client in NEW, OLD, NEW:
        yield _segment(client, ACK, version)


def test_after_an_edit_of_its_method_a_server_gets_what_the_route_of_ipvs_allows() -> None:
    edits = [(before, after, version) for version in (4, 6) for before, after in permutations(METHODS, 2)]
    examples = [list(_edited(*edit)) for edit in edits]
    played = _played("edited_methods", examples)
    assert len(played) == 12
    # In IPVS, packets of DR find no server by a route that NAT made.
    at = edits.index((Method.ROUTE, Method.MASQ, 4))
    steps, made = examples[at], played[at]
    silent = [number for number, (_, out) in enumerate(made["steps"]) if isinstance(steps[number], bytes) and not out]
    assert silent == [6, 14]
    assert steps[6] == steps[14] == _segment(OLD, ACK, 4)


# --- netfilter's connection tracking, which a service of FTP by NAT enables ---


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_ipvs_drops_a_syn_that_reopens_a_connection_if_ftp_by_nat_enables_tracking() -> None:
    key = ServiceKey(Protocol.TCP, ip_address(VIP6), 21)
    source, target = ip_address("2001:db8::1").packed, key.address.packed

    def packet(flags: int, before: bytes = b"", first: int = Protocol.TCP) -> bytes:
        segment = before + tcp(source, target, 2000, key.port, flags, b"", random.Random(1))
        return framed(ip_packet(source, target, first, segment, random.Random(2)))

    misplaced = b"".join(bytes((following, 0, 1, 4)) + bytes(4) for following in (0, Protocol.TCP))
    steps: list[Wired] = [
        AddService(VirtualService(key, "rr")),
        AddServer(key, Destination(DestinationKey(ip_address(server6(1)), 21), Method.MASQ)),
        packet(ACK, misplaced, DESTINATION_OPTIONS),  # passed to the stack, which refuses it without closing anything
        packet(SYN),
        packet(0),  # closes it
        packet(SYN),
    ]
    [made] = Guest().play([scripted(steps)])
    found = difference(steps, made)
    assert found is not None
    assert found[0] == 5
    assert made["steps"][5][1] == []
