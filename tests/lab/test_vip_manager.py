"""VipManager on real devices that go down, are removed and return."""

from __future__ import annotations

import itertools
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from pylvs.model.routing import HeldAddress, NextHop, Route
from pylvs.model.vrrp import MULTICAST_V6, Peer, Vmac, VrrpConfiguration, VrrpInstance
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.protocol.adverts import AdvertEncoder, Datagram
from pylvs.vrrp.receivers import AdvertReceivers
from pylvs.vrrp.vip_manager import VipManager
from tests.interop.namespaces import inside, ip
from tests.waiting import PATIENCE_S, until_up

FOUR, SIX = "192.0.2.100", "2001:db8::100"


class Fixture:
    """A VipManager with one master, and the losses that it reported."""

    def __init__(self) -> None:
        self.lost: list[set[str]] = []
        self.exceptions: list[Exception] = []
        self._replaced: set[str] = set()
        self._marks = itertools.count()
        self.loop = Loop(self.exceptions.append)
        self.manager = VipManager(
            self.loop, lambda level, text: None, self._replaced.update, self._lost, lambda address, text, answer: None
        )
        on = tuple(HeldAddress(interface=ip_interface(each), device="eth1") for each in (f"{FOUR}/32", f"{SIX}/128"))
        hop = NextHop(via=ip_address("192.0.2.9"), device="eth1")
        route = Route(destination=ip_network("10.0.0.0/8"), next_hops=(hop,))
        self.instance = VrrpInstance(
            name="A", interface="eth0", vrid=51, version=3, multicast=MULTICAST_V6, excluded=on, routes=(route,)
        )
        self.manager.configure(VrrpConfiguration(instances=(self.instance,)))
        self.manager.add_resources(self.instance)
        self.settle()

    def _lost(self, name: str, lost: set[str]) -> None:
        self.lost.append(lost)
        self.manager.add_resources(self.instance)

    def settle(self) -> None:
        """Handle all changes so far: the kernel reports them in order, a new device last."""
        mark = f"mark{next(self._marks)}"
        ip(f"link add {mark} type bridge")
        self.until(lambda: mark in self._replaced)

    def until(self, holds: Callable[[], bool]) -> None:
        """Run the loop until `holds`."""
        self.loop.at(self.loop.now, lambda: self._check(holds))
        deadline = self.loop.at(self.loop.now + PATIENCE_S, self.loop.stop)
        self.loop.run()
        deadline.cancel()
        assert not self.exceptions
        assert holds()

    def _check(self, holds: Callable[[], bool]) -> None:
        if holds():
            self.loop.stop()
        else:
            self.loop.at(self.loop.now + 0.005, lambda: self._check(holds))


@pytest.fixture
def fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    monkeypatch.chdir(tmp_path)  # VMACs save former sysctls there
    with inside("vips"):
        for number in (0, 1):
            _make(number)
        made = Fixture()
        yield made
        made.manager.close()


def _make(number: int) -> None:
    for command in ("link add eth{0} type veth peer name peer{0}", "link set peer{0} up", "link set eth{0} up"):
        ip(command.format(number))
    until_up(f"peer{number}", f"eth{number}")
    ip(f"addr add 192.0.{number + 1}.1/24 dev eth{number}")


def shown() -> tuple[bool, bool, bool]:
    """Return whether both addresses and the route are present."""
    addresses = ip("addr show dev eth1")
    return FOUR in addresses, SIX in addresses, "10.0.0.0/8" in ip("route")


@contextmanager
def without_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_descriptors_addresses_are_removed_and_added_as_soon_as_there_are_some(fixture: Fixture) -> None:
    with without_descriptors():
        fixture.manager.remove_resources(fixture.instance)
    assert shown() == (True, True, True)
    fixture.until(lambda: shown() == (False, False, False))
    with without_descriptors():
        fixture.manager.add_resources(fixture.instance)
    assert shown() == (False, False, False)
    fixture.until(lambda: shown() == (True, True, True))


def test_unicast_without_an_interface_uses_the_device_of_the_route_to_the_peer(fixture: Fixture) -> None:
    peer = ip_address("192.0.2.2")
    unicast = VrrpInstance(name="B", vrid=52, peers=(Peer(peer),), source=ip_address("192.0.1.1"))
    mac = ip("-br link show peer1").split()[2]
    ip(f"neigh add {peer} lladdr {mac} dev eth1")
    received: list[Datagram] = []

    def receive(device: str, vrid: int, datagram: Datagram) -> bool:
        received.append(datagram)
        return True

    receivers = AdvertReceivers(fixture.loop, receive)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as far_end:
        far_end.bind(("peer1", 0x0800))
        far_end.settimeout(PATIENCE_S)
        fixture.manager.send_adverts(unicast, AdvertEncoder(unicast, ip_address("192.0.1.1")).packets(100))
        frame = far_end.recv(2000)
        assert (frame[23], frame[26:34]) == (112, bytes([192, 0, 1, 1, 192, 0, 2, 2]))
        assert receivers.configure([(unicast, fixture.manager.receive_device_of(unicast))]) == []
        (answer,) = AdvertEncoder(replace(unicast, peers=(Peer(ip_address("192.0.2.1")),)), peer).packets(90)
        far_end.send(_mac_of("eth1") + _mac_of("peer1") + b"\x08\x00" + answer.header + answer.payload)
        fixture.until(lambda: bool(received))
    assert [(each.source, each.destination) for each in received] == [(peer, ip_address("192.0.2.1"))]
    receivers.close()


def _mac_of(device: str) -> bytes:
    return bytes.fromhex(ip(f"-br link show {device}").split()[2].replace(":", ""))


def test_what_another_program_removed_is_reported_and_added(fixture: Fixture) -> None:
    assert shown() == (True, True, True)
    ip(f"addr del {SIX}/128 dev eth1")
    ip("route del 10.0.0.0/8")
    fixture.settle()
    assert (fixture.lost, shown()) == ([{SIX, "route 10.0.0.0/8"}], (True, True, True))


def test_what_the_kernel_removes_from_a_device_that_is_down_is_added_when_it_is_up(
    fixture: Fixture,
) -> None:
    ip("link set eth1 down")
    fixture.settle()
    assert (fixture.lost, shown()) == ([], (True, False, False))
    ip("link set eth1 up")
    fixture.until(lambda: shown() == (True, True, True))  # the kernel may report a moment later that it is up
    assert fixture.lost == [set()]


def test_a_device_that_is_removed_and_returns_gets_its_addresses(fixture: Fixture) -> None:
    ip("link del eth1")
    fixture.settle()
    assert fixture.lost == []
    _make(1)
    fixture.until(lambda: shown()[:2] == (True, True))
    assert set().union(*fixture.lost) == set()


def on_device(name: str) -> set[str]:
    return {each for each in (FOUR, SIX) if each in ip(f"addr show dev {name}")}


def test_a_renamed_device_loses_its_virtual_addresses_and_gets_them_back_with_its_name(fixture: Fixture) -> None:
    def rename(before: str, after: str) -> None:
        for command in (f"link set {before} down", f"link set {before} name {after}", f"link set {after} up"):
            ip(command)
        fixture.settle()

    rename("eth1", "moved")
    assert on_device("moved") == set()
    assert "192.0.2.1/24" in ip("addr show dev moved"), "its own address stays"
    _make_other("eth1")
    fixture.until(lambda: on_device("eth1") == {FOUR, SIX})
    assert on_device("moved") == set()
    ip("link del eth1")
    fixture.settle()
    rename("moved", "eth1")
    fixture.until(lambda: on_device("eth1") == {FOUR, SIX})


def test_two_devices_that_exchange_their_names_exchange_the_addresses(fixture: Fixture) -> None:
    _make_other("spare")
    ip("link set spare down")
    ip("link set eth1 down")
    for before, after in (("eth1", "third"), ("spare", "eth1"), ("third", "spare")):
        ip(f"link set {before} name {after}")
    ip("link set spare up")
    ip("link set eth1 up")
    fixture.until(lambda: on_device("eth1") == {FOUR, SIX} and not on_device("spare"))


def _make_other(name: str) -> None:
    for command in (f"link add {name} type veth peer name far{name}", f"link set far{name} up", f"link set {name} up"):
        ip(command)


VMAC_ROUTER = VrrpInstance(
    name="V",
    interface="eth0",
    vrid=52,
    vmac=Vmac(),
    addresses=(HeldAddress(interface=ip_interface("192.0.1.100/24")),),
)


def test_a_vmac_that_is_set_down_is_a_fault_and_an_absent_or_new_one_is_none(fixture: Fixture) -> None:
    manager = fixture.manager
    assert manager.configure(VrrpConfiguration(instances=(VMAC_ROUTER,))) == []
    assert manager.link_fault(VMAC_ROUTER) == ""
    ip("link set vrrp.52 down")
    fixture.until(lambda: manager.link_fault(VMAC_ROUTER) == "vrrp.52 is down")
    ip("link set peer0 down")
    fixture.until(lambda: manager.link_fault(VMAC_ROUTER) == "eth0 is down")
    ip("link set peer0 up")
    ip("link set vrrp.52 up")
    fixture.until(lambda: manager.link_fault(VMAC_ROUTER) == "")
    ip("link set peer0 down")
    fixture.until(lambda: manager.link_fault(VMAC_ROUTER) == "eth0 is down")
    ip("link set peer0 up")
    fixture.until(lambda: manager.link_fault(VMAC_ROUTER) == "")
    ip("link del vrrp.52")
    fixture.settle()
    assert manager.link_fault(VMAC_ROUTER) == ""
    assert "00:00:5e:00:01:34" in ip("link show vrrp.52")


def test_without_tracking_of_the_interface_a_vmac_that_is_down_is_no_fault(fixture: Fixture) -> None:
    untracked = replace(VMAC_ROUTER, track_primary=False)
    assert fixture.manager.configure(VrrpConfiguration(instances=(untracked,))) == []
    ip("link set vrrp.52 down")
    fixture.settle()
    assert fixture.manager.link_fault(untracked) == ""


def base_of_the_vmac() -> str:
    found = ip("-br link show type macvlan").split()
    return found[0].partition("@")[2] if found else ""


@pytest.mark.parametrize("at_once", [False, True])
def test_a_vmac_moves_to_the_device_that_gets_the_name_of_its_base(fixture: Fixture, at_once: bool) -> None:
    assert fixture.manager.configure(VrrpConfiguration(instances=(VMAC_ROUTER,))) == []
    fixture.manager.add_resources(VMAC_ROUTER)
    assert base_of_the_vmac() == "eth0"
    _make_other("spare")
    for name in ("eth0", "spare"):
        ip(f"link set {name} down")
    ip("link set eth0 name moved")
    if not at_once:
        fixture.until(lambda: base_of_the_vmac() == "")
        assert fixture.manager.link_fault(VMAC_ROUTER) == "there is no device eth0"
    ip("link set spare name eth0")
    for name in ("eth0", "moved"):
        ip(f"link set {name} up")
    fixture.until(lambda: base_of_the_vmac() == "eth0")
    fixture.until(lambda: fixture.manager.link_fault(VMAC_ROUTER) == "")


def test_the_devices_of_addresses_routes_and_rules_are_tracked(fixture: Fixture) -> None:
    assert fixture.manager.link_fault(fixture.instance) == ""
    ip("link set peer1 down")
    fixture.until(lambda: fixture.manager.link_fault(fixture.instance) == "eth1 is down")
    ip("link del eth1")
    fixture.until(lambda: fixture.manager.link_fault(fixture.instance) == "there is no device eth1")
