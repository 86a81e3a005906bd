"""Sockets for advertisements on real links: which senders are received, and the end of a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

import pytest

from pylvs.model.addresses import Address
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, Peer, VrrpInstance
from pylvs.system.namespaces import inside_network
from pylvs.vrrp.protocol.adverts import AH_PROTOCOL, PROTOCOL, AdvertEncoder, Datagram
from pylvs.vrrp.sockets import AdvertReceiver, AdvertSender
from tests.interop.vrrp.segment import Segment, address, segment
from tests.unit.vrrp.instances import SEALED, SECOND, SIXTH, THIRD
from tests.waiting import until, until_up

PATIENCE_S = 60.0
LINK_LOCAL = {host: IPv6Address(f"fe80::66:ff:fe00:{number}") for number, host in enumerate(("a", "b"), 1)}
GROUPS: dict[int, Address] = {4: MULTICAST_V4, 6: MULTICAST_V6}
EACH = pytest.mark.parametrize("router", [SECOND, THIRD, SEALED, SIXTH], ids=["v2", "v3", "AH", "IPv6"])


@pytest.fixture(scope="module")
def network() -> Iterator[Segment]:
    with segment() as network:
        yield network


def protocol_of(router: VrrpInstance) -> int:
    return AH_PROTOCOL if router is SEALED else PROTOCOL


def own(router: VrrpInstance, host: str = "a") -> Address:
    """Return the address that it sends from."""
    return ip_address(address(host)) if router.family == 4 else LINK_LOCAL[host]


@contextmanager
def receiver_on(
    where: Segment, router: VrrpInstance, host: str = "b", device: str = "eth0"
) -> Iterator[AdvertReceiver]:
    with ExitStack() as stack:
        groups = [GROUPS[router.family]] if device else []
        with inside_network(where.path(host)):
            receiver = stack.enter_context(closing(AdvertReceiver(device, router.family, protocol_of(router), groups)))
        yield receiver


@contextmanager
def sender_on(where: Segment, router: VrrpInstance, host: str = "a", device: str = "eth0") -> Iterator[AdvertSender]:
    with inside_network(where.path(host)):
        sender = AdvertSender(device, router.family)
    with closing(sender):
        yield sender


def send_advert(sender: AdvertSender, router: VrrpInstance, priority: int = 100) -> Datagram:
    """Send an advertisement and return the packet for the last destination."""
    for out in AdvertEncoder(router, own(router)).packets(priority):
        sender.send(out)
    return out


def received(receiver: AdvertReceiver, count: int = 1) -> list[Datagram]:
    """Return so many datagrams, or fewer after a timeout."""
    datagrams: list[Datagram] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(datagrams) < count and time.monotonic() < deadline:
        datagrams += receiver.receive()
        time.sleep(0.002)
    return datagrams


@EACH
def test_a_packet_is_received_complete(router: VrrpInstance, network: Segment) -> None:
    with receiver_on(network, router) as receiver, sender_on(network, router) as sender:
        out = send_advert(sender, router)
        (datagram,) = received(receiver)
    assert datagram == out
    assert (datagram.ttl, datagram.protocol) == (255, protocol_of(router))


@EACH
def test_own_packets_and_other_devices_are_not_received(router: VrrpInstance, network: Segment) -> None:
    with (
        receiver_on(network, router, host="a") as mine,
        receiver_on(network, router, device="eth1") as elsewhere,
        receiver_on(network, router) as receiver,
        sender_on(network, router) as sender,
    ):
        send_advert(sender, router)
        assert len(received(receiver)) == 1
        assert mine.receive() == []
        assert elsewhere.receive() == []


@pytest.mark.parametrize("family", [4, 6])
def test_unicast_uses_any_device(family: int, network: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    peers = tuple(Peer(ip_address(address("b", link, family))) for link in (0, 1))
    router = replace(router, peers=peers, unicast_ttl=77)
    source = ip_address(address("a", 0, family))
    with receiver_on(network, router, device="") as receiver, sender_on(network, router, device="") as sender:
        for out in AdvertEncoder(router, source).packets(100):
            sender.send(out)
        datagrams = received(receiver, 2)
    assert [(each.source, each.destination, each.ttl) for each in datagrams] == [
        (source, peer.address, 77) for peer in peers
    ]


@pytest.mark.parametrize("family", [4, 6])
def test_a_receiver_on_all_devices_gets_no_multicast(family: int, network: Segment) -> None:
    router = SECOND if family == 4 else SIXTH
    with (
        receiver_on(network, router, device="") as everywhere,
        receiver_on(network, router) as receiver,
        sender_on(network, router) as sender,
    ):
        send_advert(sender, router)
        assert len(received(receiver)) == 1
        assert everywhere.receive() == []


def test_receive_has_a_limit(network: Segment) -> None:
    # Of raw sockets the one opened last receives first: what the witness has, the other has, too.
    with (
        receiver_on(network, SECOND) as witness,
        receiver_on(network, SECOND) as receiver,
        sender_on(network, SECOND) as sender,
    ):
        for priority in range(10):
            send_advert(sender, SECOND, priority)
        assert len(received(witness, 10)) == 10
        assert [len(receiver.receive(most)) for most in (4, 4, 4, 4)] == [4, 4, 2, 0]


def test_a_packet_beyond_the_mtu_is_an_error(network: Segment) -> None:
    with sender_on(network, SECOND) as sender, pytest.raises(OSError, match="too long"):
        sender.send(replace(send_advert(sender, SECOND), payload=bytes(3000)))


@EACH
def test_a_replaced_device_is_received_from_again(router: VrrpInstance, network: Segment) -> None:
    def add() -> None:
        network.ip("b", f"link add x0 type veth peer name x1 netns {network.path('a').name}")
        network.ip("b", "link set x0 up")
        network.ip("a", "link set x1 up")
        network.ip("a", "addr add 10.77.0.1/24 dev x1")
        network.ip("a", "addr add fe80::77/64 dev x1 nodad")
        until_up("x0", namespace=network.path("b").name)
        until_up("x1", namespace=network.path("a").name)
        until(lambda: "fe80::77" in network.ip("a", "-6 route show table local"), "the address has a route")

    def send_from_x1() -> None:
        with sender_on(network, router, device="x1") as sender:
            source = ip_address("10.77.0.1" if router.family == 4 else "fe80::77")
            for out in AdvertEncoder(router, source).packets(1):
                sender.send(out)

    with receiver_on(network, router, device="x0") as receiver:
        for _ in range(3):
            with inside_network(network.path("b")):
                assert not receiver.rejoin()
                assert receiver.receive() == []
                add()
                assert receiver.rejoin()
                assert receiver.rejoin()
            send_from_x1()
            assert len(received(receiver)) == 1
            network.ip("b", "link set x0 down")
            assert receiver.receive() == []
            network.ip("b", "link set x0 up")
            deadline = time.monotonic() + PATIENCE_S
            while not receiver.receive():  # IPv6 receives on a link only some time after it is up
                assert time.monotonic() < deadline
                send_from_x1()
                time.sleep(0.05)
            with sender_on(network, router, device="x1") as sender:
                network.ip("b", "link del x0")
                with pytest.raises(OSError, match=r"\w"):
                    send_advert(sender, router)
            assert receiver.receive() == []


def test_memberships_of_removed_devices_do_not_fill_the_socket(network: Segment) -> None:
    """A socket has at most twenty."""
    with receiver_on(network, SECOND, device="y0") as receiver, inside_network(network.path("b")):
        for _ in range(25):
            network.ip("b", "link add y0 type veth peer name y1")
            assert receiver.rejoin()
            network.ip("b", "link del y0")
            assert not receiver.rejoin()


def test_a_sender_on_a_missing_device_is_an_error(network: Segment) -> None:
    with pytest.raises(OSError, match=r"\w"), sender_on(network, SECOND, device="nothing"):
        pass
