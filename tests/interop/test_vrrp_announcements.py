"""Announcements on a real link: neighbours accept them, conflicts are detected, and keepalived's are the same."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Announcements
from pylvs.system.namespaces import inside_network
from pylvs.vrrp.conflicts import MAX_FILTERED_ADDRESSES, ConflictSocket, ConflictTracker, neighbour_ip
from pylvs.vrrp.garp import (
    AddressBinding,
    FrameSender,
    GarpRateLimit,
    GarpScheduler,
    announcement_frame,
    forwards_ipv6,
    gratuitous_arp,
    parse_binding,
)
from tests.interop import keepalived
from tests.interop.namespaces import ip

PATIENCE_S = 60.0
HERE, THERE = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
OTHER_HOST = bytes.fromhex("02000000000c")
VMAC = bytes.fromhex("00005e000133")
VIPS = (ip_address("10.0.0.100"), ip_address("fd00::100"))
OTHERS = (ip_address("10.0.0.99"), ip_address("fd00::99"))
BOTH = pytest.mark.parametrize("vip", VIPS, ids=["IPv4", "IPv6"])


@pytest.fixture
def link() -> Iterator[tuple[str, str]]:
    """Make two network namespaces, each with `eth0` on one switch; the first also has a VMAC, vrrp.51."""
    switch, here, there = (f"pylvs-an{os.getpid()}{end}" for end in "sab")
    made = []
    try:
        for name in (switch, here, there):
            ip(f"netns add {name}")
            made.append(name)
            with inside_network(f"/run/netns/{name}"):
                Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
                Path("/proc/sys/net/ipv6/conf/all/accept_dad").write_text("0")
        ip(f"-n {switch} link add br0 type bridge")
        ip(f"-n {switch} link set br0 up")
        for number, (name, mac) in enumerate(((here, HERE), (there, THERE)), 1):
            ip(f"-n {switch} link add port{number} type veth peer name eth0 address {mac.hex(':')} netns {name}")
            ip(f"-n {switch} link set port{number} master br0 up")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} addr add 10.0.0.{number}/24 dev eth0")
            ip(f"-n {name} addr add fd00::{number}/64 dev eth0 nodad")
        ip(f"-n {here} link add link eth0 name vrrp.51 address {VMAC.hex(':')} type macvlan mode private")
        ip(f"-n {here} link set vrrp.51 up")
        # Until then the switch drops frames, which the tests send once.
        until(lambda: ip(f"-n {switch} -d link show").count("bridge_slave state forwarding") == 2)
        yield here, there
    finally:
        for name in made:
            ip(f"netns del {name}")


@contextmanager
def host(name: str) -> Iterator[None]:
    with inside_network(f"/run/netns/{name}"):
        yield


def until(answer: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not answer():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.01)


@contextmanager
def conflict_socket_on(
    name: str, *addresses: Address, own: tuple[bytes, ...] = (HERE, VMAC), device: str = "eth0", version: int = 0
) -> Iterator[ConflictSocket]:
    with host(name):
        conflicts = ConflictSocket(device, version or addresses[0].version)
        conflicts.watch(addresses, own)
    with closing(conflicts):
        yield conflicts


def next_conflicts(conflicts: ConflictSocket, most: int = 64) -> list[AddressBinding]:
    """Wait for the next conflicts."""
    assert select.select([conflicts], [], [], PATIENCE_S)[0], "no conflict"
    return conflicts.receive(most)


@contextmanager
def sender_of(name: str) -> Iterator[Callable[[bytes], None]]:
    """Return a function that sends frames on a host's eth0."""
    with host(name):
        sender = FrameSender()

    def send(frame: bytes) -> None:
        until(lambda: not sender.send("eth0", frame))

    with closing(sender):
        yield send


# --- neighbours ---


@BOTH
@pytest.mark.parametrize("router", [False, True], ids=["host", "router"])
def test_a_neighbour_sends_to_the_new_master_after_one_announcement(
    link: tuple[str, str], vip: Address, router: bool
) -> None:
    here, there = link
    ip(f"-n {there} neigh replace {vip} lladdr {OTHER_HOST.hex(':')} dev eth0 nud reachable")
    with host(here):
        Path("/proc/sys/net/ipv6/conf/eth0/forwarding").write_text(str(int(router)))
        assert forwards_ipv6("eth0") is router
        frame = announcement_frame("eth0", vip, HERE)
    with sender_of(here) as send:
        send(frame)
        until(lambda: HERE.hex(":") in ip(f"-n {there} neigh show {vip} dev eth0"))
    assert (" router" in ip(f"-n {there} neigh show {vip} dev eth0")) is (router and vip.version == 6)


def test_an_error_of_sending_is_a_message(link: tuple[str, str]) -> None:
    here, _ = link
    with host(here), closing(FrameSender()) as sender:
        frame = gratuitous_arp(IPv4Address("10.0.0.100"), HERE)
        assert sender.send("nowhere", frame) == "nowhere: No such device"
        ip(f"-n {here} link set eth0 down")
        assert sender.send("eth0", frame) == "eth0: Network is down"


# --- conflicts ---


@BOTH
@pytest.mark.parametrize("device", ["eth0", "vrrp.51"])
def test_announcements_of_other_hosts_are_conflicts_and_ours_are_not(
    link: tuple[str, str], vip: Address, device: str
) -> None:
    here, there = link
    with conflict_socket_on(here, vip, device=device) as conflicts, sender_of(here) as ours, sender_of(there) as theirs:
        ours(announcement_frame("eth0", vip, HERE))
        theirs(announcement_frame("eth0", vip, HERE))  # our own frame, returned by a loop
        theirs(announcement_frame("eth0", vip, VMAC))
        theirs(announcement_frame("eth0", vip, OTHER_HOST))
        assert next_conflicts(conflicts) == [AddressBinding(vip, OTHER_HOST, device)]


@BOTH
def test_an_answer_of_a_host_with_the_same_address_is_a_conflict(link: tuple[str, str], vip: Address) -> None:
    """Linux answers a neighbour that asks for the address; it sends no announcement."""
    family = socket.AF_INET6 if vip.version == 6 else socket.AF_INET
    here, there = link
    ip(f"-n {there} addr add {vip} dev eth0" + (" nodad" if vip.version == 6 else ""))
    with conflict_socket_on(here, vip) as conflicts, host(here), socket.socket(family, socket.SOCK_DGRAM) as ask:
        ask.sendto(b"", (str(vip), 9))
        (binding,) = next_conflicts(conflicts)
    assert binding == AddressBinding(vip, THERE, "eth0")


def test_the_log_names_the_usual_address_of_the_other_host(link: tuple[str, str]) -> None:
    here, _ = link
    with host(here), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.sendto(b"", ("10.0.0.2", 9))
        until(lambda: neighbour_ip(THERE) == "10.0.0.2")
        assert neighbour_ip(OTHER_HOST) == ""
        text, _ = ConflictTracker(neighbour_ip).respond(0.0, AddressBinding(VIPS[0], THERE, "eth0"))
    assert text == f"10.0.0.100 is claimed by {THERE.hex(':')} (10.0.0.2) on eth0"


@BOTH
def test_the_filter_drops_other_frames_in_the_kernel(link: tuple[str, str], vip: Address) -> None:
    """The first frame that the process reads is the first conflict."""
    here, there = link
    other = OTHERS[VIPS.index(vip)]
    frame = announcement_frame("eth0", vip, OTHER_HOST)
    tagged = frame[:12] + bytes.fromhex("81000005") + frame[12:]
    with conflict_socket_on(here, vip) as conflicts, sender_of(there) as theirs:
        for _ in range(100):
            theirs(announcement_frame("eth0", other, OTHER_HOST))
        theirs(announcement_frame("eth0", vip, HERE))
        theirs(tagged)
        theirs(frame)
        assert next_conflicts(conflicts, most=1) == [AddressBinding(vip, OTHER_HOST, "eth0")]


@BOTH
def test_the_watched_addresses_can_change(link: tuple[str, str], vip: Address) -> None:
    here, there = link
    other = OTHERS[VIPS.index(vip)]
    mine, second = (AddressBinding(address, OTHER_HOST, "eth0") for address in (vip, other))
    # Of two equal sockets the one opened last receives first: what the witness has, the other has, too.
    with (
        conflict_socket_on(here, vip, other) as witness,
        conflict_socket_on(here, version=vip.version) as conflicts,
        sender_of(there) as theirs,
        host(here),
    ):
        for expected in ([], [mine], [second], [], [mine, second]):
            conflicts.watch([binding.address for binding in expected], [HERE])
            theirs(announcement_frame("eth0", vip, OTHER_HOST))
            theirs(announcement_frame("eth0", other, OTHER_HOST))
            received = next_conflicts(witness)
            while len(received) < 2:
                received += next_conflicts(witness)
            assert conflicts.receive() == expected


def test_more_addresses_than_a_filter_holds_are_compared_in_the_process(link: tuple[str, str]) -> None:
    here, there = link
    many = [ip_address(0x0B000000 + number) for number in range(MAX_FILTERED_ADDRESSES + 1)]
    with conflict_socket_on(here, *many) as conflicts, sender_of(there) as theirs:
        theirs(announcement_frame("eth0", VIPS[0], OTHER_HOST))
        theirs(announcement_frame("eth0", many[-1], HERE))
        theirs(announcement_frame("eth0", many[-1], OTHER_HOST))
        while not (found := next_conflicts(conflicts)):
            continue
        assert found == [AddressBinding(many[-1], OTHER_HOST, "eth0")]


def test_a_flood_is_read_in_small_portions_and_the_kernel_drops_the_rest(link: tuple[str, str]) -> None:
    here, there = link
    with conflict_socket_on(here, VIPS[0]) as conflicts, sender_of(there) as theirs:
        for number in range(10_000):
            theirs(announcement_frame("eth0", VIPS[0], b"\2" + number.to_bytes(5, "big")))
        last = AddressBinding(VIPS[0], OTHER_HOST, "eth0")
        received, most = [], 0

        def is_over() -> bool:
            """Send the last frame again: the kernel drops it while the queue is full."""
            nonlocal most
            theirs(announcement_frame("eth0", VIPS[0], OTHER_HOST))
            while found := conflicts.receive(10):
                received.extend(found)
                most = max(most, len(found))
            return last in received

        until(is_over)
        assert most == 10
        assert received.index(last) < 10_000  # the kernel dropped the rest


def test_a_socket_survives_a_link_that_is_down(link: tuple[str, str]) -> None:
    here, there = link
    with conflict_socket_on(here, VIPS[0]) as conflicts, sender_of(there) as theirs:
        ip(f"-n {here} link set eth0 down")
        assert conflicts.receive() == []
        ip(f"-n {here} link set eth0 up")

        def is_received() -> bool:
            theirs(announcement_frame("eth0", VIPS[0], OTHER_HOST))
            return bool(conflicts.receive())

        until(is_received)
        ip(f"-n {here} link del eth0")
        assert conflicts.receive() == []


def test_a_missing_device_is_an_error(link: tuple[str, str]) -> None:
    with host(link[0]), pytest.raises(OSError, match="No such device"):
        ConflictSocket("nowhere", 4)


# --- keepalived ---

CONFIGURATION = """
vrrp_instance A {
    interface eth0
    virtual_router_id 51
    version 3
    advert_int 0.1
    priority 200
    garp_master_delay 1
    garp_master_repeat 2
    garp_master_refresh 3
    virtual_ipaddress {
        10.0.0.100/24
        10.0.0.101/24
    }
    virtual_ipaddress_excluded {
        fd00::100/64
        10.0.0.102/24
    }
}
"""
HELD: tuple[Address, ...] = tuple(map(ip_address, ("10.0.0.100", "10.0.0.101", "fd00::100", "10.0.0.102")))
FIRST_S = 3.0  # the take-over, its second round and the first refresh


@pytest.mark.parametrize("router", [False, True], ids=["host", "router"])
@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
def test_keepalived_sends_the_same_frames_in_the_same_order(
    link: tuple[str, str], tmp_path: Path, router: bool
) -> None:
    here, there = link
    settings = Announcements(repeat=2, delay_s=1, refresh_s=3, refresh_repeat=1)
    scheduler = GarpScheduler(settings, GarpRateLimit(), "eth0")
    scheduler.begin(0.0, [("eth0", address) for address in HELD])
    ours = []
    with host(here):
        Path("/proc/sys/net/ipv6/conf/eth0/forwarding").write_text(str(int(router)))
        while (due := scheduler.due) is not None and due <= FIRST_S:
            ours += [announcement_frame(device, address, HERE) for device, address in scheduler.wake(due)]
    assert len(ours) == len(HELD) * 5

    (tmp_path / "k.conf").write_text(CONFIGURATION)
    files = [word for letter in "prc" for word in (f"-{letter}", str(tmp_path / letter))]
    with host(there):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind(("eth0", 3))
        wire.settimeout(PATIENCE_S)
    with wire:
        command = [keepalived.PROGRAM, "-n", "-l", "-P", "-f", str(tmp_path / "k.conf"), *files]
        with host(here), open(tmp_path / "log", "wb") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        theirs: list[bytes] = []
        try:
            while len(theirs) < len(ours):
                frame, (_, _, kind, _, source) = wire.recvfrom(2048)
                binding = parse_binding(frame)
                if kind != socket.PACKET_OUTGOING and source == HERE and binding and binding.address in HELD:
                    theirs.append(frame)
        finally:
            running.terminate()
            running.wait(PATIENCE_S)
    assert theirs == ours
