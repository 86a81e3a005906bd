"""Ears and mouths for advertisements on real links: who is heard, who is not, and what a device's end does to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pylvs.model.addresses import Address
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, Peer, VrrpInstance
from pylvs.system.namespaces import inside_network
from pylvs.vrrp.protocol.adverts import AdvertEncoder, OutgoingPacket
from pylvs.vrrp.protocol.packet import AH_PROTOCOL, PROTOCOL, Datagram
from pylvs.vrrp.sockets import AdvertReceiver, AdvertSender
from tests.interop.vrrp.segment import Segment, address, segment
from tests.unit.vrrp.instances import SEALED, SECOND, SIXTH, THIRD

PATIENCE_S = 60.0
LINK_LOCAL = {host: IPv6Address(f"fe80::66:ff:fe00:{number}") for number, host in enumerate(("a", "b"), 1)}
GROUPS: dict[int, Address] = {4: MULTICAST_V4, 6: MULTICAST_V6}
FLOOD = 3000  # more than a socket's buffer holds
EACH = pytest.mark.parametrize("router", [SECOND, THIRD, SEALED, SIXTH], ids=["v2", "v3", "AH", "IPv6"])


@pytest.fixture(scope="module")
def place() -> Iterator[Segment]:
    with segment() as made:
        yield made


def protocol_of(router: VrrpInstance) -> int:
    return AH_PROTOCOL if router is SEALED else PROTOCOL


def own(router: VrrpInstance, host: str = "a") -> Address:
    """The address it speaks from."""
    return ip_address(address(host)) if router.family == 4 else LINK_LOCAL[host]


@contextmanager
def an_ear(
    where: Segment, router: VrrpInstance, vrids: tuple[int, ...] | None = (51,), host: str = "b", device: str = "eth0"
) -> Iterator[AdvertReceiver]:
    with ExitStack() as stack:
        groups = [GROUPS[router.family]] if device else []
        with inside_network(where.path(host)):
            ear = stack.enter_context(
                closing(AdvertReceiver(device, router.family, protocol_of(router), groups, vrids))
            )
        yield ear


@contextmanager
def a_mouth(where: Segment, router: VrrpInstance, host: str = "a", device: str = "eth0") -> Iterator[AdvertSender]:
    with inside_network(where.path(host)):
        mouth = AdvertSender(device, router.family)
    with closing(mouth):
        yield mouth


def say(mouth: AdvertSender, router: VrrpInstance, priority: int = 100) -> OutgoingPacket:
    """One advertisement, as it was sent to the last of those who should have it."""
    for out in AdvertEncoder(router, own(router)).packets(priority):
        mouth.send(out.packet, out.source, out.destination, out.hops)
    return out


def heard(ear: AdvertReceiver, count: int = 1) -> list[Datagram]:
    """So many, or fewer after a while."""
    found: list[Datagram] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        found += ear.receive()
        time.sleep(0.002)
    return found


@EACH
def test_what_is_said_is_heard_whole(router: VrrpInstance, place: Segment) -> None:
    with an_ear(place, router) as ear, a_mouth(place, router) as mouth:
        out = say(mouth, router)
        (datagram,) = heard(ear)
    header = out.packet[:20] if router.family == 4 else b""
    payload = out.packet[len(header) :]
    expected = Datagram(out.source, out.destination, 255, protocol_of(router), header, payload)
    assert datagram == expected


@EACH
def test_other_virtual_routers_never_reach_the_process(router: VrrpInstance, place: Segment) -> None:
    other = replace(router, vrid=52)
    with an_ear(place, router, (7, 51, 200)) as ear, an_ear(place, router, None) as everyone:
        with a_mouth(place, router) as mouth:
            for _ in range(FLOOD):
                for out in AdvertEncoder(other, own(router)).packets(255):
                    mouth.send(out.packet, out.source, out.destination, out.hops)
            say(mouth, router, 9)
        assert len(heard(ear)) == 1
        assert ear.receive() == []
        assert len(heard(everyone, 64)) >= 64


@EACH
def test_which_virtual_routers_are_let_in_can_change(router: VrrpInstance, place: Segment) -> None:
    with an_ear(place, router, ()) as ear, a_mouth(place, router) as mouth:
        for vrids, count in (((), 0), (range(1, 256), 1), ((52,), 0), ((51,), 1)):
            ear.admit(vrids)
            say(mouth, router)
            with an_ear(place, router) as witness:
                say(mouth, router)
                assert len(heard(witness)) == 1
            assert len(heard(ear, 2 * count)) == 2 * count
            assert ear.receive() == []


@EACH
def test_nobody_hears_himself_nor_another_device(router: VrrpInstance, place: Segment) -> None:
    with (
        an_ear(place, router, host="a") as mine,
        an_ear(place, router, device="eth1") as elsewhere,
        an_ear(place, router) as ear,
        a_mouth(place, router) as mouth,
    ):
        say(mouth, router)
        assert len(heard(ear)) == 1
        assert mine.receive() == []
        assert elsewhere.receive() == []


@pytest.mark.parametrize("family", [4, 6])
def test_unicast_goes_and_comes_by_any_device(family: int, place: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    peers = tuple(Peer(ip_address(address("b", link, family))) for link in (0, 1))
    router = replace(router, peers=peers, unicast_ttl=77)
    source = ip_address(address("a", 0, family))
    with an_ear(place, router, device="") as ear, a_mouth(place, router, device="") as mouth:
        for out in AdvertEncoder(router, source).packets(100):
            mouth.send(out.packet, out.source, out.destination, out.hops)
        found = heard(ear, 2)
    assert [(each.source, each.destination, each.ttl) for each in found] == [
        (source, peer.address, 77) for peer in peers
    ]


@pytest.mark.parametrize("family", [4, 6])
def test_an_ear_of_all_devices_hears_no_multicast(family: int, place: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    with an_ear(place, router, device="") as everywhere, an_ear(place, router) as ear, a_mouth(place, router) as mouth:
        say(mouth, router)
        assert len(heard(ear)) == 1
        assert everywhere.receive() == []


def test_no_more_is_received_at_a_time_than_asked_for(place: Segment) -> None:
    # Of raw sockets, the one that was opened last receives first: what the witness has, the ear has too.
    with an_ear(place, SECOND) as witness, an_ear(place, SECOND) as ear, a_mouth(place, SECOND) as mouth:
        for priority in range(10):
            say(mouth, SECOND, priority)
        assert len(heard(witness, 10)) == 10
        assert [len(ear.receive(most)) for most in (4, 4, 4, 4)] == [4, 4, 2, 0]


def test_a_packet_beyond_the_mtu_is_the_callers_error(place: Segment) -> None:
    with a_mouth(place, SECOND) as mouth, pytest.raises(OSError, match="too long"):
        mouth.send(say(mouth, SECOND).packet[:20] + bytes(3000), IPv4Address(address("a")), MULTICAST_V4)


@EACH
def test_a_device_that_goes_and_comes_is_heard_again(router: VrrpInstance, place: Segment) -> None:
    def add() -> None:
        place.ip("b", f"link add x0 type veth peer name x1 netns {place.path('a').name}")
        place.ip("b", "link set x0 up")
        place.ip("a", "link set x1 up")
        place.ip("a", "addr add 10.77.0.1/24 dev x1")
        place.ip("a", "addr add fe80::77/64 dev x1 nodad")

    def said() -> None:
        with a_mouth(place, router, device="x1") as mouth:
            source = ip_address("10.77.0.1" if router.family == 4 else "fe80::77")
            for out in AdvertEncoder(router, source).packets(1):
                mouth.send(out.packet, out.source, out.destination, out.hops)

    with an_ear(place, router, device="x0") as ear:
        for _ in range(3):
            with inside_network(place.path("b")):
                assert not ear.rejoin()
                assert ear.receive() == []
                add()
                assert ear.rejoin()
                assert ear.rejoin()
            said()
            assert len(heard(ear)) == 1
            place.ip("b", "link set x0 down")
            assert ear.receive() == []
            place.ip("b", "link set x0 up")
            deadline = time.monotonic() + PATIENCE_S
            while not ear.receive():  # IPv6 listens on a link only a while after it came up
                assert time.monotonic() < deadline
                said()
                time.sleep(0.05)
            with a_mouth(place, router, device="x1") as mouth:
                place.ip("b", "link del x0")
                with pytest.raises(OSError, match=r"\w"):
                    say(mouth, router)
            assert ear.receive() == []


def test_memberships_of_devices_that_went_do_not_fill_the_socket(place: Segment) -> None:
    """It has room for twenty."""
    with an_ear(place, SECOND, device="y0") as ear, inside_network(place.path("b")):
        for _ in range(25):
            place.ip("b", "link add y0 type veth peer name y1")
            assert ear.rejoin()
            place.ip("b", "link del y0")
            assert not ear.rejoin()


def test_a_mouth_of_no_device_is_an_error(place: Segment) -> None:
    with pytest.raises(OSError, match=r"\w"), a_mouth(place, SECOND, device="nothing"):
        pass
