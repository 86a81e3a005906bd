"""keepalived and pylvs send the same frames for the same virtual router, and tcpdump reads them."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read
from pylvs.model.addresses import Address
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.system.namespaces import inside_network
from pylvs.vrrp.protocol.adverts import AdvertEncoder, AdvertValidator, socket_device
from pylvs.vrrp.protocol.packet import AH_PROTOCOL, PROTOCOL, Datagram
from pylvs.vrrp.sockets import AdvertReceiver, AdvertSender
from tests.interop import keepalived
from tests.interop.vrrp.routers import Router, router
from tests.interop.vrrp.segment import Segment, address, segment

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PATIENCE_S = 60.0
SMALL_MTU = 600
OWNER, RELEASE = 255, 0
_IPV4, _IPV6 = 0x0800, 0x86DD
_ETHERNET_BYTES = 14

V4 = "10.66.0.100/24\n10.66.0.101/24 dev eth1"
V6 = "fe80::100/64\nfd00:66::100/64"
PASS = "authentication {\nauth_type PASS\nauth_pass secret\n}"
LONG = PASS.replace("secret", "more-than-eight")
AH = PASS.replace("PASS", "AH")
PEERS = f"unicast_src_ip {address('a')}\nunicast_peer {{\n{address('b')}\n{address('client')}\n}}"
PEERS_V6 = f"unicast_src_ip {address('a', family=6)}\nunicast_ttl 255\nunicast_peer {{\n{address('b', family=6)}\n}}"
MANY = "\n".join(f"10.66.2.{number}/32" for number in range(1, 146))

CASES = {
    "v2": (2, "", V4),
    "v2 PASS": (2, PASS, V4),
    "v2 long PASS": (2, LONG, V4),
    "v2 AH": (2, AH, V4),
    "v2 another source": (2, "mcast_src_ip 10.77.0.1", V4),
    "v2 unicast": (2, PEERS, V4),
    "v2 unicast PASS": (2, f"{PASS}\n{PEERS}", V4),
    "v2 unicast AH, TTL 64": (2, f"{AH}\nunicast_ttl 64\n{PEERS}", V4),
    "v2 more addresses than fit": (2, AH, MANY),
    "v3": (3, "advert_int 0.2", V4),
    "v3 unicast, TTL 64": (3, f"advert_int 0.2\nunicast_ttl 64\n{PEERS}", V4),
    "v3 unicast, old checksum": (3, f"advert_int 0.2\nold_unicast_checksum\n{PEERS}", V4),
    "v3 more addresses than fit": (3, "advert_int 0.2", MANY),
    "v3 IPv6": (3, "advert_int 0.2", V6),
    "v3 IPv6 unicast": (3, f"advert_int 0.2\n{PEERS_V6}", V6),
}


def configuration(device: str, version: int, words: str, addresses: str) -> str:
    """Return the configuration of an address owner, which takes over at once."""
    return f"""\
vrrp_instance ONE {{
    state MASTER
    interface {device}
    version {version}
    virtual_router_id 51
    priority {OWNER}
    {words}
    virtual_ipaddress {{
        {addresses}
    }}
}}
"""


@pytest.fixture(scope="module")
def segment_of_three() -> Iterator[Segment]:
    """Make two routers and a client."""
    with segment() as made:
        yield made


class Tap:
    """Frames with advertisements that reach a host."""

    def __init__(self, where: Segment, host: str, device: str) -> None:
        with inside_network(where.path(host)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind((device, 0))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Return what came since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, (_, _, direction, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if direction != socket.PACKET_OUTGOING and is_advertisement(frame):
                found.append(frame)

    def wait_for(self, count: int, speaker: Router) -> list[bytes]:
        """Return this many frames, and those that come with them."""
        return self.wait_until(lambda found: len(found) >= count, speaker)

    def wait_until(self, enough: Callable[[list[bytes]], bool], speaker: Router) -> list[bytes]:
        """Return what comes, until it is enough."""
        found: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_S
        while not enough(found):
            assert time.monotonic() < deadline, f"{len(found)} came: {speaker.log()}"
            time.sleep(0.01)
            found += self.frames()
        return found

    def close(self) -> None:
        self._socket.close()


def is_advertisement(frame: bytes) -> bool:
    (kind,) = struct.unpack_from("!H", frame, 12)
    at = {_IPV4: 23, _IPV6: 20}.get(kind)
    return at is not None and frame[at] in (PROTOCOL, AH_PROTOCOL)


def priority_of(frame: bytes) -> int:
    """Return the priority of the advertisement."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    behind = 40 if kind == _IPV6 else 20 + (24 if frame[23] == AH_PROTOCOL else 0)
    return frame[_ETHERNET_BYTES + behind + 2]


def source_of(one: VrrpInstance) -> Address:
    """Return the configured source address, or else the device's own."""
    if one.source is not None:
        return one.source
    return ip_address(address("a", int(one.interface[-1]))) if one.family == 4 else ip_address("fe80::66:ff:fe00:1")


def tcpdump(frames: list[bytes], file: Path) -> str:
    """Return the output of tcpdump about a frame."""
    records = [struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    file.write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records))
    done = subprocess.run(["tcpdump", "-nn", "-vvv", "-e", "-r", file], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("case", CASES)
def test_frames_are_the_same_and_both_programs_accept_them(
    case: str, segment_of_three: Segment, tmp_path: Path
) -> None:
    version, words, addresses = CASES[case]
    device, mtu = ("eth1", SMALL_MTU) if addresses is MANY else ("eth0", 1500)
    for host in "a", "b":
        segment_of_three.ip(host, f"link set {device} mtu {mtu}")
    theirs = router("keepalived", segment_of_three, "a", tmp_path / "keepalived")
    theirs.configuration.write_text(configuration(device, version, words, addresses))
    with inside_network(segment_of_three.path("a")):
        document, unread = read(str(theirs.configuration))
        (one,) = compile_document(document).configuration.vrrp.instances
    assert unread == ()
    voice = AdvertEncoder(one, source_of(one), mtu)
    there = ip_address(address("b", 0, one.family))
    other = replace(one, peers=(Peer(voice.source),)) if one.peers else one
    screen = AdvertValidator(other, AdvertEncoder(other, there, mtu))
    peers = {str(peer.address) for peer in one.peers}
    hosts = [host for host in ("b", "client") if address(host, 0, one.family) in peers] or ["b"]
    with ExitStack() as stack:
        taps = {host: stack.enter_context(closing(Tap(segment_of_three, host, device))) for host in hosts}
        protocol = AH_PROTOCOL if one.authentication is Authentication.AH else PROTOCOL
        with inside_network(segment_of_three.path("b")):
            receiver = AdvertReceiver(
                socket_device(one, device), one.family, protocol, () if one.peers else (one.multicast,), (one.vrid,)
            )
        stack.callback(receiver.close)

        stack.callback(theirs.kill)
        theirs.start()
        frames = {host: tap.wait_for(3, theirs) for host, tap in taps.items()}
        theirs.stop()
        for host, tap in taps.items():
            frames[host] += tap.wait_until(lambda found: found != [] and priority_of(found[-1]) == RELEASE, theirs)
        priorities = [priority_of(frame) for frame in frames["b"]]
        assert priorities == [OWNER] * (len(priorities) - 1) + [RELEASE]

        datagrams: list[Datagram] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(datagrams) < len(priorities):  # a tap receives a frame a moment before IP does
            assert time.monotonic() < deadline
            datagrams += receiver.receive()
        screened = [screen.validate(datagram) for datagram in datagrams]
        assert [each.priority for each in screened if each] == priorities
        assert not screen.mismatches

        with inside_network(segment_of_three.path("a")):
            sender = stack.enter_context(closing(AdvertSender(socket_device(one, device), one.family)))
        for priority in priorities:
            for out in voice.packets(priority):
                sender.send(out.packet, out.source, out.destination, out.hops)
        assert {host: tap.wait_for(len(frames[host]), theirs) for host, tap in taps.items()} == frames

    text = tcpdump(frames["b"], tmp_path / "pcap")
    assert text.count(f"vrid {one.vrid}, prio {OWNER}") == len(priorities) - 1
    assert text.count(f"vrid {one.vrid}, prio {RELEASE}") == 1
    found = [word for word in ("bad", "incorrect", "invalid", "[|", "trunc", "wrong", "error") if word in text.lower()]
    assert found == (["bad"] if one.old_checksum is OldChecksum.ALWAYS else []), text


def test_keepalived_becomes_backup_if_sequence_numbers_continue_its_own(
    segment_of_three: Segment, tmp_path: Path
) -> None:
    """It drops what is not greater than the last number of any sender, itself included."""
    theirs = router("keepalived", segment_of_three, "a", tmp_path / "keepalived")
    theirs.configuration.write_text(configuration("eth0", 2, AH, V4).replace(f"priority {OWNER}", "priority 100"))
    with inside_network(segment_of_three.path("a")):
        (one,) = compile_document(read(str(theirs.configuration))[0]).configuration.vrrp.instances
    here = ip_address(address("b"))
    voice = AdvertEncoder(one, here)
    screen = AdvertValidator(one, voice)
    with ExitStack() as stack:
        with inside_network(segment_of_three.path("b")):
            receiver = stack.enter_context(
                closing(AdvertReceiver("eth0", 4, AH_PROTOCOL, (one.multicast,), (one.vrid,)))
            )
            sender = stack.enter_context(closing(AdvertSender("eth0", 4)))
        tap = stack.enter_context(closing(Tap(segment_of_three, "b", "eth0")))
        stack.callback(theirs.kill)
        theirs.start()
        tap.wait_for(3, theirs)
        (first,) = voice.packets(200)
        sender.send(first.packet, first.source, first.destination)
        tap.wait_for(1, theirs)  # it is still the master
        deadline = time.monotonic() + PATIENCE_S
        while not any(f"Master received advert from {here} with higher priority" in line for line in theirs.log()):
            assert time.monotonic() < deadline, theirs.log()
            for datagram in receiver.receive():
                screen.validate(datagram)
            (packet,) = voice.packets(200)  # send again, because keepalived may have used this number
            sender.send(packet.packet, packet.source, packet.destination)
            time.sleep(0.1)
    assert any("sequence number 1 already processed" in line for line in theirs.log())
