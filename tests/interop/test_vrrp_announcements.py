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
from pylvs.vrrp.announcing import Announcer
from pylvs.vrrp.claim_filter import MOST_ADDRESSES
from pylvs.vrrp.claims import Claims
from pylvs.vrrp.frames import Claim, claim_of, gratuitous_arp
from pylvs.vrrp.link_socket import ClaimEar, Sender, announcement, forwards, known_as
from pylvs.vrrp.sending_limits import SendingLimits
from tests.interop import keepalived
from tests.interop.namespaces import ip

PATIENCE_S = 60.0
HERE, THERE = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
OTHER_MAC = bytes.fromhex("02000000000c")
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
        yield here, there
    finally:
        for name in made:
            ip(f"netns del {name}")


@contextmanager
def host(name: str) -> Iterator[None]:
    with inside_network(f"/run/netns/{name}"):
        yield


def until(answer: Callable[[], bool]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE_S
    while not answer():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@contextmanager
def receiver_of(
    name: str, *addresses: Address, own: tuple[bytes, ...] = (HERE, VMAC), device: str = "eth0"
) -> Iterator[ClaimEar]:
    with host(name):
        receiver = ClaimEar(device)
        receiver.watch(addresses, own)
    with closing(receiver):
        yield receiver


def received_claims(receiver: ClaimEar, most: int = 64) -> list[Claim]:
    """Return the next claims; fail if none come."""
    assert select.select([receiver], [], [], PATIENCE_S)[0], "no claim was received"
    return receiver.receive(most)


@contextmanager
def sender_of(name: str) -> Iterator[Callable[[bytes], None]]:
    """Return a function that sends frames on a host's eth0."""
    with host(name):
        sender = Sender()

    def send(frame: bytes) -> None:
        until(lambda: not sender.send("eth0", frame))

    with closing(sender):
        yield send


# --- our announcements at other hosts ---


@BOTH
@pytest.mark.parametrize("router", [False, True], ids=["host", "router"])
def test_a_neighbour_sends_to_the_new_master_after_one_announcement(
    link: tuple[str, str], vip: Address, router: bool
) -> None:
    here, there = link
    ip(f"-n {there} neigh replace {vip} lladdr {OTHER_MAC.hex(':')} dev eth0 nud reachable")
    with host(here):
        Path("/proc/sys/net/ipv6/conf/eth0/forwarding").write_text(str(int(router)))
        assert forwards("eth0") is router
        frame = announcement("eth0", vip, HERE)
    with sender_of(here) as send:
        send(frame)
        until(lambda: HERE.hex(":") in ip(f"-n {there} neigh show {vip} dev eth0"))
    assert (" router" in ip(f"-n {there} neigh show {vip} dev eth0")) is (router and vip.version == 6)


def test_an_announcement_that_cannot_be_sent_is_reported(link: tuple[str, str]) -> None:
    here, _ = link
    with host(here), closing(Sender()) as sender:
        frame = gratuitous_arp(IPv4Address("10.0.0.100"), HERE)
        assert sender.send("nowhere", frame) == "nowhere: No such device"
        ip(f"-n {here} link set eth0 down")
        assert sender.send("eth0", frame) == "eth0: Network is down"


# --- announcements of other hosts ---


@BOTH
@pytest.mark.parametrize("device", ["eth0", "vrrp.51"])
def test_foreign_announcements_are_received_and_ours_are_not(link: tuple[str, str], vip: Address, device: str) -> None:
    here, there = link
    with receiver_of(here, vip, device=device) as receiver, sender_of(here) as ours, sender_of(there) as theirs:
        ours(announcement("eth0", vip, HERE))
        theirs(announcement("eth0", vip, HERE))  # our own frames that a loop returns
        theirs(announcement("eth0", vip, VMAC))
        theirs(announcement("eth0", vip, OTHER_MAC))
        assert received_claims(receiver) == [Claim(vip, OTHER_MAC, device)]


@BOTH
def test_a_host_that_answers_for_our_address_is_detected(link: tuple[str, str], vip: Address) -> None:
    """A Linux host claims the address without an announcement: it answers a neighbour."""
    family = socket.AF_INET6 if vip.version == 6 else socket.AF_INET
    here, there = link
    ip(f"-n {there} addr add {vip} dev eth0" + (" nodad" if vip.version == 6 else ""))
    with receiver_of(here, vip) as receiver, host(here), socket.socket(family, socket.SOCK_DGRAM) as ask:
        ask.sendto(b"", (str(vip), 9))
        (claim,) = received_claims(receiver)
    assert claim == Claim(vip, THERE, "eth0")


def test_the_claimant_is_named_with_its_own_address(link: tuple[str, str]) -> None:
    here, _ = link
    with host(here), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.sendto(b"", ("10.0.0.2", 9))
        until(lambda: known_as(THERE) == "10.0.0.2")
        assert known_as(OTHER_MAC) == ""
        warnings = Claims(known_as).hear(0.0, Claim(VIPS[0], THERE, "eth0"))
    assert warnings.words == f"10.0.0.100 is claimed by {THERE.hex(':')} (10.0.0.2) on eth0"


@BOTH
def test_the_kernel_filters_frames_about_other_addresses(link: tuple[str, str], vip: Address) -> None:
    """The kernel's filter drops other frames: the first frame that is read is the first that matters."""
    here, there = link
    other = OTHERS[VIPS.index(vip)]
    frame = announcement("eth0", vip, OTHER_MAC)
    tagged = frame[:12] + bytes.fromhex("81000005") + frame[12:]
    with receiver_of(here, vip) as receiver, sender_of(there) as theirs:
        for _ in range(100):
            theirs(announcement("eth0", other, OTHER_MAC))
        theirs(announcement("eth0", vip, HERE))
        theirs(tagged)
        theirs(frame)
        assert received_claims(receiver, most=1) == [Claim(vip, OTHER_MAC, "eth0")]


@BOTH
def test_the_watched_addresses_can_change(link: tuple[str, str], vip: Address) -> None:
    here, there = link
    other = OTHERS[VIPS.index(vip)]
    mine, second = (Claim(address, OTHER_MAC, "eth0") for address in (vip, other))
    # Of two equal sockets the one that was opened last receives first: the receiver has what the witness has.
    with (
        receiver_of(here, vip, other) as witness,
        receiver_of(here) as receiver,
        sender_of(there) as theirs,
        host(here),
    ):
        for expected in ([], [mine], [second], [], [mine, second]):
            receiver.watch([claim.address for claim in expected], [HERE])
            theirs(announcement("eth0", vip, OTHER_MAC))
            theirs(announcement("eth0", other, OTHER_MAC))
            seen = received_claims(witness)
            while len(seen) < 2:
                seen += received_claims(witness)
            assert receiver.receive() == expected


def test_more_addresses_than_a_filter_holds_still_work(link: tuple[str, str]) -> None:
    here, there = link
    many = [ip_address(0x0B000000 + number) for number in range(MOST_ADDRESSES + 1)]
    with receiver_of(here, *many) as receiver, sender_of(there) as theirs:
        theirs(announcement("eth0", VIPS[0], OTHER_MAC))
        theirs(announcement("eth0", many[-1], HERE))
        theirs(announcement("eth0", many[-1], OTHER_MAC))
        while not (found := received_claims(receiver)):
            continue
        assert found == [Claim(many[-1], OTHER_MAC, "eth0")]


def test_a_flood_of_claims_is_read_in_small_portions(link: tuple[str, str]) -> None:
    here, there = link
    with receiver_of(here, *VIPS) as receiver, sender_of(there) as theirs:
        for number in range(10_000):
            theirs(announcement("eth0", VIPS[0], b"\2" + number.to_bytes(5, "big")))
        portions = []
        while select.select([receiver], [], [], 0.2)[0]:
            portions.append(len(receiver.receive(10)))
        assert max(portions) == 10
        assert sum(portions) < 10_000  # the kernel drops the rest
        theirs(announcement("eth0", VIPS[0], OTHER_MAC))
        assert received_claims(receiver) == [Claim(VIPS[0], OTHER_MAC, "eth0")]


def test_the_receiver_survives_failures_of_its_link_but_not_of_its_device(link: tuple[str, str]) -> None:
    here, there = link
    with receiver_of(here, *VIPS) as receiver, sender_of(there) as theirs:
        ip(f"-n {here} link set eth0 down")
        assert receiver.receive() == []
        assert not receiver.gone
        ip(f"-n {here} link set eth0 up")

        def is_received() -> bool:
            theirs(announcement("eth0", VIPS[0], OTHER_MAC))
            return bool(receiver.receive())

        until(is_received)
        ip(f"-n {here} link del eth0")
        assert receiver.receive() == []
        assert receiver.gone


def test_a_receiver_on_a_missing_device_is_an_error(link: tuple[str, str]) -> None:
    with host(link[0]), pytest.raises(OSError, match="No such device"):
        ClaimEar("nowhere")


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
    warnings = Announcements(repeat=2, delay_s=1, refresh_s=3, refresh_repeat=1)
    announcer = Announcer(warnings, SendingLimits(), "eth0")
    announcer.begin(0.0, [("eth0", address) for address in HELD])
    ours = []
    with host(here):
        Path("/proc/sys/net/ipv6/conf/eth0/forwarding").write_text(str(int(router)))
        while (due := announcer.due) is not None and due <= FIRST_S:
            ours += [announcement(device, address, HERE) for device, address in announcer.wake(due)]
    assert len(ours) == len(HELD) * 5

    (tmp_path / "k.conf").write_text(CONFIGURATION)
    files = [word for letter in "prc" for word in (f"-{letter}", str(tmp_path / letter))]
    with host(there):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind(("eth0", 3))
        wire.settimeout(PATIENCE_S)
    with wire:
        words = [keepalived.PROGRAM, "-n", "-l", "-P", "-f", str(tmp_path / "k.conf"), *files]
        with host(here), open(tmp_path / "log", "wb") as log:
            running = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        theirs: list[bytes] = []
        try:
            while len(theirs) < len(ours):
                frame, (_, _, kind, _, source) = wire.recvfrom(2048)
                claim = claim_of(frame)
                if kind != socket.PACKET_OUTGOING and source == HERE and claim and claim.address in HELD:
                    theirs.append(frame)
        finally:
            running.terminate()
            running.wait(PATIENCE_S)
    assert theirs == ours
