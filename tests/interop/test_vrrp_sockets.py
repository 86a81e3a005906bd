"""Sockets for advertisements on real links: which senders are received, and the end of a device."""

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
from pylvs.vrrp.packet import PROTOCOL
from pylvs.vrrp.seal import AH_PROTOCOL
from pylvs.vrrp.sockets import Datagram, Ear, Mouth
from pylvs.vrrp.speaking import Outgoing, Voice
from tests.interop.vrrp.segment import Segment, address, segment
from tests.unit.vrrp.routers import SEALED, SECOND, SIXTH, THIRD

PATIENCE_S = 60.0
LINK_LOCAL = {host: IPv6Address(f"fe80::66:ff:fe00:{number}") for number, host in enumerate(("a", "b"), 1)}
GROUPS: dict[int, Address] = {4: MULTICAST_V4, 6: MULTICAST_V6}
FLOOD = 3000  # more than a socket's buffer holds
EACH = pytest.mark.parametrize("router", [SECOND, THIRD, SEALED, SIXTH], ids=["v2", "v3", "AH", "IPv6"])


@pytest.fixture(scope="module")
def segment_of_three() -> Iterator[Segment]:
    with segment() as made:
        yield made


def protocol_of(router: VrrpInstance) -> int:
    return AH_PROTOCOL if router is SEALED else PROTOCOL


def own(router: VrrpInstance, host: str = "a") -> Address:
    """Return the address that it sends from."""
    return ip_address(address(host)) if router.family == 4 else LINK_LOCAL[host]


@contextmanager
def new_receiver(
    where: Segment, router: VrrpInstance, vrids: tuple[int, ...] | None = (51,), host: str = "b", device: str = "eth0"
) -> Iterator[Ear]:
    with ExitStack() as stack:
        groups = [GROUPS[router.family]] if device else []
        with inside_network(where.path(host)):
            receiver = stack.enter_context(closing(Ear(device, router.family, protocol_of(router), groups, vrids)))
        yield receiver


@contextmanager
def new_sender(where: Segment, router: VrrpInstance, host: str = "a", device: str = "eth0") -> Iterator[Mouth]:
    with inside_network(where.path(host)):
        sender = Mouth(device, router.family)
    with closing(sender):
        yield sender


def advertise(sender: Mouth, router: VrrpInstance, priority: int = 100) -> Outgoing:
    """Send an advertisement; it was sent to the last receiver when this returns."""
    for out in Voice(router, own(router)).packets(priority):
        sender.send(out.packet, out.source, out.destination, out.hops)
    return out


def received(receiver: Ear, count: int = 1) -> list[Datagram]:
    """Return this many advertisements, or fewer after a while."""
    found: list[Datagram] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        found += receiver.receive()
        time.sleep(0.002)
    return found


@EACH
def test_advertisements_are_received_complete(router: VrrpInstance, segment_of_three: Segment) -> None:
    with new_receiver(segment_of_three, router) as receiver, new_sender(segment_of_three, router) as sender:
        out = advertise(sender, router)
        (datagram,) = received(receiver)
    header = out.packet[:20] if router.family == 4 else b""
    payload = out.packet[len(header) :]
    expected = Datagram(out.source, out.destination, 255, protocol_of(router), header, payload)
    assert datagram == expected


@EACH
def test_other_virtual_routers_never_reach_the_process(router: VrrpInstance, segment_of_three: Segment) -> None:
    other = replace(router, vrid=52)
    with (
        new_receiver(segment_of_three, router, (7, 51, 200)) as receiver,
        new_receiver(segment_of_three, router, None) as everyone,
    ):
        with new_sender(segment_of_three, router) as sender:
            for _ in range(FLOOD):
                for out in Voice(other, own(router)).packets(255):
                    sender.send(out.packet, out.source, out.destination, out.hops)
            advertise(sender, router, 9)
        assert len(received(receiver)) == 1
        assert receiver.receive() == []
        assert len(received(everyone, 64)) >= 64


@EACH
def test_the_filter_of_virtual_routers_can_change(router: VrrpInstance, segment_of_three: Segment) -> None:
    with new_receiver(segment_of_three, router, ()) as receiver, new_sender(segment_of_three, router) as sender:
        for vrids, count in (((), 0), (range(1, 256), 1), ((52,), 0), ((51,), 1)):
            receiver.admit(vrids)
            advertise(sender, router)
            with new_receiver(segment_of_three, router) as witness:
                advertise(sender, router)
                assert len(received(witness)) == 1
            assert len(received(receiver, 2 * count)) == 2 * count
            assert receiver.receive() == []


@EACH
def test_own_advertisements_and_other_devices_are_not_received(router: VrrpInstance, segment_of_three: Segment) -> None:
    with (
        new_receiver(segment_of_three, router, host="a") as mine,
        new_receiver(segment_of_three, router, device="eth1") as elsewhere,
        new_receiver(segment_of_three, router) as receiver,
        new_sender(segment_of_three, router) as sender,
    ):
        advertise(sender, router)
        assert len(received(receiver)) == 1
        assert mine.receive() == []
        assert elsewhere.receive() == []


@pytest.mark.parametrize("family", [4, 6])
def test_unicast_uses_any_device(family: int, segment_of_three: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    peers = tuple(Peer(ip_address(address("b", link, family))) for link in (0, 1))
    router = replace(router, peers=peers, unicast_ttl=77)
    source = ip_address(address("a", 0, family))
    with (
        new_receiver(segment_of_three, router, device="") as receiver,
        new_sender(segment_of_three, router, device="") as sender,
    ):
        for out in Voice(router, source).packets(100):
            sender.send(out.packet, out.source, out.destination, out.hops)
        found = received(receiver, 2)
    assert [(each.source, each.destination, each.ttl) for each in found] == [
        (source, peer.address, 77) for peer in peers
    ]


@pytest.mark.parametrize("family", [4, 6])
def test_a_receiver_of_all_devices_gets_no_multicast(family: int, segment_of_three: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    with (
        new_receiver(segment_of_three, router, device="") as everywhere,
        new_receiver(segment_of_three, router) as receiver,
        new_sender(segment_of_three, router) as sender,
    ):
        advertise(sender, router)
        assert len(received(receiver)) == 1
        assert everywhere.receive() == []


def test_a_receiver_returns_at_most_the_requested_number(segment_of_three: Segment) -> None:
    # Of raw sockets the one that was opened last receives first: the receiver has what the witness has.
    with (
        new_receiver(segment_of_three, SECOND) as witness,
        new_receiver(segment_of_three, SECOND) as receiver,
        new_sender(segment_of_three, SECOND) as sender,
    ):
        for priority in range(10):
            advertise(sender, SECOND, priority)
        assert len(received(witness, 10)) == 10
        assert [len(receiver.receive(most)) for most in (4, 4, 4, 4)] == [4, 4, 2, 0]


def test_a_packet_beyond_the_mtu_is_the_callers_error(segment_of_three: Segment) -> None:
    with new_sender(segment_of_three, SECOND) as sender, pytest.raises(OSError, match="too long"):
        sender.send(advertise(sender, SECOND).packet[:20] + bytes(3000), IPv4Address(address("a")), MULTICAST_V4)


@EACH
def test_a_device_that_returns_is_received_again(router: VrrpInstance, segment_of_three: Segment) -> None:
    def add() -> None:
        segment_of_three.ip("b", f"link add x0 type veth peer name x1 netns {segment_of_three.path('a').name}")
        segment_of_three.ip("b", "link set x0 up")
        segment_of_three.ip("a", "link set x1 up")
        segment_of_three.ip("a", "addr add 10.77.0.1/24 dev x1")
        segment_of_three.ip("a", "addr add fe80::77/64 dev x1 nodad")

    def text() -> None:
        with new_sender(segment_of_three, router, device="x1") as sender:
            source = ip_address("10.77.0.1" if router.family == 4 else "fe80::77")
            for out in Voice(router, source).packets(1):
                sender.send(out.packet, out.source, out.destination, out.hops)

    with new_receiver(segment_of_three, router, device="x0") as receiver:
        for _ in range(3):
            with inside_network(segment_of_three.path("b")):
                assert not receiver.rejoin()
                assert receiver.receive() == []
                add()
                assert receiver.rejoin()
                assert receiver.rejoin()
            text()
            assert len(received(receiver)) == 1
            segment_of_three.ip("b", "link set x0 down")
            assert receiver.receive() == []
            segment_of_three.ip("b", "link set x0 up")
            deadline = time.monotonic() + PATIENCE_S
            while not receiver.receive():  # IPv6 joins groups with a delay after the link is up
                assert time.monotonic() < deadline
                text()
                time.sleep(0.05)
            with new_sender(segment_of_three, router, device="x1") as sender:
                segment_of_three.ip("b", "link del x0")
                with pytest.raises(OSError, match=r"\w"):
                    advertise(sender, router)
            assert receiver.receive() == []


def test_memberships_of_removed_devices_do_not_fill_the_socket(segment_of_three: Segment) -> None:
    """The kernel allows twenty."""
    with new_receiver(segment_of_three, SECOND, device="y0") as receiver, inside_network(segment_of_three.path("b")):
        for _ in range(25):
            segment_of_three.ip("b", "link add y0 type veth peer name y1")
            assert receiver.rejoin()
            segment_of_three.ip("b", "link del y0")
            assert not receiver.rejoin()


def test_a_sender_on_a_missing_device_is_an_error(segment_of_three: Segment) -> None:
    with pytest.raises(OSError, match=r"\w"), new_sender(segment_of_three, SECOND, device="nothing"):
        pass
