"""Virtual routers on a simulated host whose changes of addresses fail; the devices that a virtual router tracks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pylvs.model.addresses import Address
from pylvs.model.routing import HeldAddress, NextHop, Route, RoutingRule
from pylvs.model.vrrp import (
    Ipvlan,
    Peer,
    Track,
    Tracks,
    Vmac,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpSettings,
)
from pylvs.netlink.addresses import Placed
from pylvs.netlink.changes import Outcome
from pylvs.vrrp.helper.link import LogLine, StateChanged
from pylvs.vrrp.loop import Call
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.vip_manager import RETRY_S, tracked_devices
from pylvs.vrrp.vmac import plan_vmacs
from tests.shortages import SHORTAGES, failing
from tests.unit.vrrp.fake_network import VIP, held, instance
from tests.unit.vrrp.simulation.host import Host
from tests.unit.vrrp.simulation.schedule import HostPlan
from tests.unit.vrrp.simulation.system import simulated

ROUTER = instance(name="VI_1")


class Recorder:
    """A network without other hosts."""

    now = 0.0

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.frames: list[bytes] = []
        self.sent: set[str] = set()  # devices of advertisements

    def transmit(self, host: Host, device: str, datagram: Datagram) -> None:
        self.sent.add(device)

    def announce(self, host: Host, device: str, frame: bytes) -> None:
        self.frames.append(frame)

    def message_sent(self, host: Host, message: Any) -> None:
        self.messages.append(message)

    def process(self, host: Host, datagram: Datagram, handle: Call) -> None:
        handle()

    def held(self, host: Host, device: str, address: Address, added: bool) -> None:
        pass

    def due(self, host: Host, when: float) -> None:
        pass

    def stepped(self, host: Host) -> None:
        pass

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.messages if isinstance(each, StateChanged)]

    @property
    def errors(self) -> list[str]:
        return [each.text for each in self.messages if isinstance(each, LogLine) and each.level == "error"]


@pytest.fixture
def network() -> Recorder:
    return Recorder()


@pytest.fixture
def host(network: Recorder) -> Iterator[Host]:
    plan = HostPlan(
        0.0, 1.0, 1000.0, VrrpConfiguration(instances=(ROUTER,)), (ip_address("10.0.0.1"), ip_address("10.0.1.1"))
    )
    with simulated():
        made = Host(0, plan, network)
        made.start()
        yield made


def run(host: Host, seconds: float) -> None:
    end = host.now + seconds
    host.step(host.now)  # reads what the kernel has reported
    while host.loop is not None and (due := host.loop.next_due()) is not None and due <= end:
        host.step(due)
    host.step(end)


def virtual(host: Host) -> set[Address]:
    return {address for _, address in host.virtual()}


@pytest.mark.parametrize("number", SHORTAGES)
def test_without_descriptors_a_master_adds_its_addresses_a_second_later(
    host: Host, network: Recorder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage:
        shortage.setattr(host, "hold", failing(number))
        run(host, 3.7)
        assert host.routers["VI_1"].state is State.MASTER
        assert network.states == ["BACKUP", "MASTER"]
        assert len(network.frames) == 5
        assert virtual(host) == set()
        run(host, RETRY_S)
    run(host, RETRY_S)
    assert virtual(host) == {VIP}
    text = f"addresses, routes or rules could not be changed: {os.strerror(number)}; retrying each second"
    assert network.errors == [f"VI_1: {text}"], "one line"


@pytest.mark.parametrize("number", SHORTAGES)
def test_without_descriptors_a_former_master_removes_its_addresses_a_second_later(
    host: Host, network: Recorder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(host, 5)
    assert virtual(host) == {VIP}
    with monkeypatch.context() as shortage:
        shortage.setattr(host, "release", failing(number))
        host.yield_for(60)
        assert network.states == ["BACKUP", "MASTER", "BACKUP"]
        assert host.roles.standby == {VIP}
        assert virtual(host) == {VIP}
        run(host, RETRY_S)
    run(host, RETRY_S)
    assert virtual(host) == set()
    assert len(network.errors) == 1


def test_what_a_master_holds_again_is_not_removed_late(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ip_address("10.0.0.101")
    host.reload(VrrpConfiguration(instances=(replace(ROUTER, addresses=(held(VIP), held(other))),)))
    run(host, 5)
    with monkeypatch.context() as shortage:
        shortage.setattr(host, "release", failing(SHORTAGES[0]))
        host.reload(VrrpConfiguration(instances=(replace(ROUTER, addresses=(held(VIP),)),)))
        assert virtual(host) == {VIP, other}
        host.reload(VrrpConfiguration(instances=(replace(ROUTER, addresses=(held(other),)),)))
    run(host, 2 * RETRY_S)
    assert virtual(host) == {other}


def test_a_failure_of_one_address_for_lack_of_memory_is_retried(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(placed: Sequence[Placed]) -> list[Outcome]:
        return [Outcome(False, "no memory", shortage=True) for _ in placed]

    with monkeypatch.context() as shortage:
        shortage.setattr(host, "hold", refuse)
        run(host, 3.7)
    run(host, RETRY_S)
    assert virtual(host) == {VIP}


def test_a_process_that_stops_removes_at_once_what_it_could_not(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    run(host, 5)
    release = host.release

    def fail_once(placed: Sequence[Placed]) -> list[Outcome]:
        monkeypatch.setattr(host, "release", release)
        raise OSError(SHORTAGES[0], "too many")

    monkeypatch.setattr(host, "release", fail_once)
    host.stop()
    assert virtual(host) == set()


ON_ETH1 = HeldAddress(interface=ip_interface("10.0.1.100/24"), device="eth1")
SIXTH = HeldAddress(interface=ip_interface("fd00::7/64"))


def route(*devices: str, tracked: bool = True) -> Route:
    hops = tuple(NextHop(device=each) for each in devices)
    return Route(destination=ip_network("10.9.0.0/16"), next_hops=hops, tracked=tracked)


def rule(**given: Any) -> RoutingRule:
    return RoutingRule(family=4, table=7, **given)


UNTRACKED = replace(ROUTER, track_primary=False)
IPVLAN = Vmac(ipvlan=Ipvlan(address=ip_interface("10.0.0.1/24")))
ADDRESS_VMAC = Vmac(here=False, for_addresses=True)


@pytest.mark.parametrize(
    ("router", "devices"),
    [
        (ROUTER, "eth0"),
        (replace(ROUTER, excluded=(ON_ETH1, SIXTH)), "eth0 eth1"),
        (replace(ROUTER, excluded=(replace(ON_ETH1, tracked=False),)), "eth0"),
        (replace(ROUTER, routes=(route("eth1"), route())), "eth0 eth1"),
        (replace(ROUTER, routes=(route("eth1", "eth2"), route("eth3", tracked=False))), "eth0"),
        (
            replace(ROUTER, rules=(rule(iif="eth1", oif="eth2"), rule(), rule(iif="eth3", tracked=False))),
            "eth0 eth1 eth2",
        ),
        (replace(ROUTER, interface="", vrf="red", excluded=(ON_ETH1,)), "red eth1"),
        (replace(UNTRACKED, excluded=(replace(SIXTH, device="eth0"),)), ""),
        (replace(UNTRACKED, excluded=(ON_ETH1,)), "eth1"),
        (replace(UNTRACKED, routes=(route("eth0"),)), "eth0"),
        (replace(UNTRACKED, rules=(rule(iif="eth0"),)), "eth0"),
        (replace(ROUTER, vmac=Vmac()), "eth0 vrrp.51"),
        (replace(ROUTER, vmac=Vmac(), excluded=(ON_ETH1, SIXTH)), "eth0 vrrp.51 eth1"),
        (replace(UNTRACKED, vmac=Vmac()), ""),
        (replace(ROUTER, vmac=ADDRESS_VMAC, excluded=(ON_ETH1,)), "eth0 eth1 vrrp.51"),
        (replace(UNTRACKED, vmac=ADDRESS_VMAC, excluded=(ON_ETH1,)), "eth1 vrrp.51"),
    ],
)
def test_a_virtual_router_tracks_the_devices_that_keepalived_tracks(router: VrrpInstance, devices: str) -> None:
    assert tracked_devices(router, plan_vmacs([router], VrrpSettings())) == tuple(devices.split())


def test_the_device_of_an_address_without_carrier_is_a_fault(host: Host, network: Recorder) -> None:
    host.reload(VrrpConfiguration(instances=(replace(ROUTER, excluded=(ON_ETH1,)),)))
    run(host, 5)
    assert network.states == ["BACKUP", "MASTER"]
    host.set_link("eth1", enabled=True, carrier=False)
    run(host, 1)
    assert network.states == ["BACKUP", "MASTER", "FAULT"]
    assert host.routers["VI_1"].own_faults == ["eth1 is down"]
    assert virtual(host) == set()
    host.set_link("eth1", enabled=True, carrier=True)
    run(host, 5)
    assert network.states[3:] == ["BACKUP", "MASTER"]


@pytest.mark.parametrize(
    ("device", "vmac", "bound"),
    [("eth1", None, "eth1"), ("", None, ""), ("eth1", Vmac(), "eth1"), ("eth1", IPVLAN, "ipvlan")],
    ids=["interface", "no interface", "VMAC", "ipvlan"],
)
def test_unicast_is_bound_to_the_interface_and_without_one_follows_the_routes(
    host: Host, network: Recorder, device: str, vmac: Vmac | None, bound: str
) -> None:
    """The peer's route leads through eth0. A VMAC has no address to send from: its interface has it."""
    peer, source = ip_address("10.0.0.2"), ip_address("10.0.0.1")
    addresses = (replace(held(VIP), device="eth0"),)
    unicast = replace(ROUTER, interface=device, vrid=52, peers=(Peer(peer),), source=source, addresses=addresses)
    assert host.service is not None
    service = host.service.host
    if vmac is IPVLAN:  # which has the source address
        service.configure(VrrpConfiguration(instances=(replace(unicast, vmac=vmac),)))
        bound = service.device_of(replace(unicast, vmac=vmac))
        assert bound != device
        elsewhere = replace(unicast, vmac=vmac, source=ip_address("10.0.0.9"))
        assert service.receive_device_of(elsewhere) == device
    assert service.receive_device_of(replace(unicast, vmac=vmac)) == bound
    if vmac is None:
        host.reload(VrrpConfiguration(instances=(unicast,)))
        run(host, 5)
        assert network.sent == {bound or "eth0"}
        assert {(each.device, each.groups) for each in host.receivers} == {(bound, ())}


def test_unicast_routers_of_one_interface_share_a_socket_with_its_multicast(host: Host, network: Recorder) -> None:
    peers = [ip_address(f"10.0.0.{number}") for number in (2, 3)]
    routers = [replace(ROUTER, name=f"VI_{each}", vrid=52, peers=(Peer(each),)) for each in peers]
    host.reload(VrrpConfiguration(instances=(ROUTER, *routers)))
    assert {(each.device, each.groups) for each in host.receivers} == {("eth0", (ROUTER.multicast,))}
    run(host, 5)
    assert network.states.count("MASTER") == 3


def test_a_unicast_router_without_its_interface_is_in_fault(host: Host, network: Recorder) -> None:
    unicast = replace(ROUTER, interface="eth7", peers=(Peer(ip_address("10.0.0.2")),), source=ip_address("10.0.0.1"))
    host.reload(VrrpConfiguration(instances=(replace(unicast, name="VI_7", track_primary=False),)))
    run(host, 5)
    assert host.routers["VI_7"].own_faults == ["there is no device eth7"]
    assert network.sent == set()


WEIGHTED = Tracks(interfaces=(Track("eth1", -30),))


@pytest.mark.parametrize(
    ("router", "counts"),
    [
        (replace(ROUTER, tracks=WEIGHTED), True),
        (replace(ROUTER, tracks=WEIGHTED, excluded=(ON_ETH1,)), False),
        (replace(ROUTER, tracks=WEIGHTED, excluded=(replace(ON_ETH1, tracked=False),)), True),
        (replace(ROUTER, tracks=WEIGHTED, rules=(rule(iif="eth1"),)), False),
        (replace(ROUTER, tracks=WEIGHTED, interface="eth1"), False),
        (replace(ROUTER, tracks=WEIGHTED, interface="eth1", track_primary=False), True),
    ],
)
@pytest.mark.parametrize("by_group", [False, True])
def test_the_weight_of_a_device_counts_only_where_the_router_does_not_depend_on_it(
    host: Host, router: VrrpInstance, counts: bool, by_group: bool
) -> None:
    group = VrrpGroup(name="VG", members=("VI_1",), tracks=router.tracks)
    member = replace(router, tracks=Tracks()) if by_group else router
    host.reload(VrrpConfiguration(instances=(member,), groups=(group,) if by_group else ()))
    host.set_link("eth1", enabled=True, carrier=False)
    run(host, 5)
    assert host.routers["VI_1"].machine.priority == (70 if counts else 100)
    assert host.routers["VI_1"].state is (State.MASTER if counts else State.FAULT)
