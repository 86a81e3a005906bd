"""Packets that must not reach a host that only holds an address, and reports that must not leave by a VMAC."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_interface
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Vmac, VrrpInstance, VrrpSettings
from pylvs.netlink.addresses import hold
from pylvs.system.namespaces import inside_network
from pylvs.vrrp import vmac
from pylvs.vrrp.firewall import Firewall
from pylvs.vrrp.netlink_monitor import NetlinkMonitor
from pylvs.vrrp.vmac import VmacPlan, plan_vmacs
from tests.interop.namespaces import inside, ip
from tests.waiting import PATIENCE_S, until_up

OTHER = f"pylvs-asker{os.getpid()}"
ETH_P_ALL = 3
MULTICAST = "224.0.0.77"


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network namespace with eth0, whose other end is in a namespace of its own and asks."""
    with inside("rules"):
        subprocess.run(["ip", "netns", "add", OTHER], check=True)
        try:
            ip("link add eth0 type veth peer name eth0 netns " + OTHER)
            ip("addr add 192.0.2.1/24 dev eth0")
            ip("addr add fd00::1/64 dev eth0 nodad")
            ip("link set eth0 up")
            ip(f"-n {OTHER} addr add 192.0.2.2/24 dev eth0")
            ip(f"-n {OTHER} addr add fd00::2/64 dev eth0 nodad")
            ip(f"-n {OTHER} link set eth0 up")
            until_up("eth0")
            yield
        finally:
            subprocess.run(["ip", "netns", "del", OTHER], check=True)


def answers(address: str, wait_s: float = PATIENCE_S) -> bool:
    """Return whether it answers an echo request of the other namespace."""
    command = ["ip", "netns", "exec", OTHER, "ping", "-c", "1", "-W", str(wait_s), address]
    return subprocess.run(command, capture_output=True).returncode == 0


def neighbour(address: str) -> list[Any]:
    """Return the neighbour entry of the other namespace."""
    found = json.loads(ip(f"-j -n {OTHER} neigh show {address}") or "[]")
    return [each["lladdr"] for each in found if "lladdr" in each]


def router(accept: bool, *addresses: str, **given: Any) -> VrrpInstance:
    held = tuple(HeldAddress(interface=ip_interface(each), no_dad=":" in each) for each in addresses)
    return VrrpInstance(name="A", interface="eth0", vrid=51, accept=accept, addresses=held, **given)


def held_by(instance: VrrpInstance, guard: Firewall) -> VmacPlan:
    """The plan of one that is master."""
    with closing(NetlinkMonitor()) as watch:
        found = plan_vmacs([instance], VrrpSettings(), watch.links)
        for device in found.devices:
            assert not vmac.create_vmac(device, watch.links)
        watch.read()
        assert guard.set([instance], found, watch.links) == []
        assert all(each.done for each in hold(found.placed(instance)))
    return found


def test_who_does_not_accept_answers_for_his_addresses_and_takes_no_packet_for_them() -> None:
    guard = Firewall()
    addresses = "192.0.2.100", "fd00::100", "fe80::100"
    held_by(router(False, *addresses), guard)
    assert answers("192.0.2.1")
    assert answers("fd00::1")
    for address in (*addresses[:2], addresses[2] + "%eth0"):
        assert not answers(address, wait_s=1), address
        assert neighbour(address.partition("%")[0]), address
    with closing(NetlinkMonitor()) as watch:
        guard.set([], VmacPlan(), watch.links)
    for address in (*addresses[:2], addresses[2] + "%eth0"):
        assert answers(address), address


def test_who_accepts_has_no_rules() -> None:
    held_by(router(True, "192.0.2.100"), Firewall())
    assert answers("192.0.2.100")
    assert not shutil.which("nft") or "pylvs" not in subprocess.check_output(["nft", "list", "ruleset"], text=True)


def test_foreign_rules_stay() -> None:
    if not shutil.which("nft"):
        pytest.skip("nft is not installed")
    subprocess.run(["nft", "add", "table", "ip", "mine"], check=True)
    guard = Firewall()
    found = held_by(router(False, "192.0.2.100", vmac=Vmac()), guard)
    listed = subprocess.check_output(["nft", "list", "ruleset"], text=True)
    assert "table ip pylvs-vrrp" in listed
    assert '"vrrp.51" : "eth0"' in listed
    with closing(NetlinkMonitor()) as watch:
        assert guard.set([], VmacPlan(), watch.links) == []
    assert subprocess.check_output(["nft", "list", "ruleset"], text=True).split() == ["table", "ip", "mine", "{", "}"]
    assert len(found.devices) == 1


def test_what_is_as_before_is_not_touched() -> None:
    guard = Firewall()
    instance = router(False, "192.0.2.100")
    held_by(instance, guard)
    first = subprocess.check_output(["nft", "-a", "list", "ruleset"], text=True)
    held_by(instance, guard)
    assert subprocess.check_output(["nft", "-a", "list", "ruleset"], text=True) == first


@contextlib.contextmanager
def frames_received() -> Iterator[socket.socket]:
    """Receive every frame in the other namespace."""
    with inside_network(f"/run/netns/{OTHER}"):
        receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with receiver:
        receiver.bind(("eth0", 0))
        receiver.settimeout(PATIENCE_S)
        yield receiver


def reporter(receiver: socket.socket, protocol: int, group: bytes) -> bytes:
    """The MAC address that the next report of a group comes from, by IGMP (0x800) or MLD (0x86dd).

    Both ends of the link also report other groups at any time.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        frame = receiver.recv(2048)
        if struct.unpack_from("!H", frame, 12)[0] != protocol or group not in frame[38:]:
            continue
        if (protocol == 0x800 and frame[23] == 2) or (protocol == 0x86DD and frame[20] == 0 and frame[62] == 143):
            return frame[6:12]
    raise AssertionError("no report")


def test_a_membership_is_reported_with_the_mac_address_of_the_base_device() -> None:
    own = bytes.fromhex(json.loads(ip("-j link show dev eth0"))[0]["address"].replace(":", ""))
    (device,) = held_by(router(True, "192.0.2.100", vmac=Vmac()), Firewall()).devices
    index = socket.if_nametoindex(device.name)
    with frames_received() as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        group = socket.inet_aton(MULTICAST)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", group, bytes(4), index))
        assert reporter(receiver, 0x800, group) == own


def test_a_membership_of_ipv6_likewise() -> None:
    own = bytes.fromhex(json.loads(ip("-j link show dev eth0"))[0]["address"].replace(":", ""))
    (device,) = held_by(router(True, "fe80::100", family=6, vmac=Vmac()), Firewall()).devices
    index = socket.if_nametoindex(device.name)
    with frames_received() as receiver, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
        group = socket.inet_pton(socket.AF_INET6, "ff02::77")
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("=i", index))
        assert reporter(receiver, 0x86DD, group) == own
