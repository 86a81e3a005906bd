"""Virtual routers on real devices that go down, disappear and come back."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from pylvs.model.routing import HeldAddress, NextHop, Route
from pylvs.model.vrrp import MULTICAST_V6, Peer, VrrpConfiguration, VrrpInstance
from pylvs.vrrp.listening import Ears
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.place import Place
from pylvs.vrrp.sockets import Datagram
from pylvs.vrrp.speaking import Voice
from tests.interop.namespaces import inside, ip
from tests.lab.support import PATIENCE_S

FOUR, SIX = "192.0.2.100", "2001:db8::100"


class Seen:
    """A VIP manager with one master of addresses on both devices, and the losses that it reported."""

    def __init__(self) -> None:
        self.lost: list[set[str]] = []
        self.wrong: list[Exception] = []
        self._renewed: set[str] = set()
        self._marks = itertools.count()
        self.loop = Loop(self.wrong.append)
        self.place = Place(
            self.loop, lambda level, text: None, self._renewed.update, self._lost, lambda address, words, again: None
        )
        on = tuple(HeldAddress(interface=ip_interface(each), device="eth1") for each in (f"{FOUR}/32", f"{SIX}/128"))
        hop = NextHop(via=ip_address("192.0.2.9"), device="eth1")
        way = Route(destination=ip_network("10.0.0.0/8"), next_hops=(hop,))
        self.instance = VrrpInstance(
            name="A", interface="eth0", vrid=51, version=3, multicast=MULTICAST_V6, excluded=on, routes=(way,)
        )
        self.place.configure(VrrpConfiguration(instances=(self.instance,)))
        self.place.take(self.instance)
        self.settle()

    def _lost(self, name: str, things: set[str]) -> None:
        self.lost.append(things)
        self.place.take(self.instance)

    def settle(self) -> None:
        """Wait until every change so far is handled: the kernel reports changes in order, and this adds a last one."""
        mark = f"mark{next(self._marks)}"
        ip(f"link add {mark} type bridge")
        self.until(lambda: mark in self._renewed)

    def until(self, holds: Callable[[], bool]) -> None:
        """Run the loop until something holds."""
        self.loop.at(self.loop.now, lambda: self._look(holds))
        deadline = self.loop.at(self.loop.now + PATIENCE_S, self.loop.stop)
        self.loop.run()
        deadline.cancel()
        assert not self.wrong
        assert holds()

    def _look(self, holds: Callable[[], bool]) -> None:
        if holds():
            self.loop.stop()
        else:
            self.loop.at(self.loop.now + 0.005, lambda: self._look(holds))


@pytest.fixture
def seen() -> Iterator[Seen]:
    with inside("place"):
        for number in (0, 1):
            _make(number)
        made = Seen()
        yield made
        made.place.close()


def _make(number: int) -> None:
    for words in ("link add eth{0} type veth peer name peer{0}", "link set peer{0} up", "link set eth{0} up"):
        ip(words.format(number))
    ip(f"addr add 192.0.{number + 1}.1/24 dev eth{number}")


def shown() -> tuple[bool, bool, bool]:
    """Return whether both addresses and the route exist."""
    addresses = ip("addr show dev eth1")
    return FOUR in addresses, SIX in addresses, "10.0.0.0/8" in ip("route")


def test_unicast_uses_the_device_of_the_route_to_the_peer(seen: Seen) -> None:
    peer = ip_address("192.0.2.2")
    unicast = VrrpInstance(name="B", interface="eth0", vrid=52, peers=(Peer(peer),), source=ip_address("192.0.1.1"))
    mac = ip("-br link show peer1").split()[2]
    ip(f"neigh add {peer} lladdr {mac} dev eth1")
    received: list[Datagram] = []
    receivers = Ears(seen.loop, lambda device, vrid, datagram: received.append(datagram))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as far_end:
        far_end.bind(("peer1", 0x0800))
        far_end.settimeout(PATIENCE_S)
        seen.place.send(unicast, Voice(unicast, ip_address("192.0.1.1")).packets(100))
        frame = far_end.recv(2000)
        assert (frame[23], frame[26:34]) == (112, bytes([192, 0, 1, 1, 192, 0, 2, 2]))
        assert receivers.listen([(unicast, seen.place.heard_on(unicast))]) == []
        (back,) = Voice(replace(unicast, peers=(Peer(ip_address("192.0.2.1")),)), peer).packets(90)
        far_end.send(_mac_of("eth1") + _mac_of("peer1") + b"\x08\x00" + back.packet)
        seen.until(lambda: bool(received))
    assert [(each.source, each.destination) for each in received] == [(peer, ip_address("192.0.2.1"))]
    receivers.close()


def _mac_of(device: str) -> bytes:
    return bytes.fromhex(ip(f"-br link show {device}").split()[2].replace(":", ""))


def test_what_another_program_removed_is_reported(seen: Seen) -> None:
    assert shown() == (True, True, True)
    ip(f"addr del {SIX}/128 dev eth1")
    ip("route del 10.0.0.0/8")
    seen.settle()
    assert (seen.lost, shown()) == ([{SIX, "route 10.0.0.0/8"}], (True, True, True))


def test_what_the_kernel_removes_with_a_down_device_is_restored_without_a_report(
    seen: Seen,
) -> None:
    ip("link set eth1 down")
    seen.settle()
    assert (seen.lost, shown()) == ([], (True, False, False))
    ip("link set eth1 up")
    seen.until(lambda: shown() == (True, True, True))  # the kernel may report the device as up with a delay
    assert seen.lost == [set()]


def test_a_device_that_disappears_and_returns_gets_its_addresses(seen: Seen) -> None:
    ip("link del eth1")
    seen.settle()
    assert seen.lost == []
    _make(1)
    seen.until(lambda: shown()[:2] == (True, True))
    assert set().union(*seen.lost) == set()
