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
from pylvs.vrrp.protocol.adverts import AH_PROTOCOL, PROTOCOL, AdvertEncoder, AdvertValidator, Datagram
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
def network() -> Iterator[Segment]:
    """Two routers and a client."""
    with segment() as made:
        yield made


class Tap:
    """The advertisements that a host receives, as frames."""

    def __init__(self, where: Segment, host: str, device: str) -> None:
        with inside_network(where.path(host)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind((device, 0))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Return the frames since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, (_, _, direction, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if direction != socket.PACKET_OUTGOING and is_advertisement(frame):
                found.append(frame)

    def wait_for(self, count: int, sender_router: Router) -> list[bytes]:
        """Wait for `count` frames, and return all that arrived."""
        return self.wait_until(lambda found: len(found) >= count, sender_router)

    def wait_until(self, enough: Callable[[list[bytes]], bool], sender_router: Router) -> list[bytes]:
        """Collect frames until `enough`."""
        found: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_S
        while not enough(found):
            assert time.monotonic() < deadline, f"{len(found)} frames: {sender_router.log()}"
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
def test_the_same_frames_that_are_believed_and_read(case: str, network: Segment, tmp_path: Path) -> None:
    version, words, addresses = CASES[case]
    device, mtu = ("eth1", SMALL_MTU) if addresses is MANY else ("eth0", 1500)
    for host in "a", "b":
        network.ip(host, f"link set {device} mtu {mtu}")
    theirs = router("keepalived", network, "a", tmp_path / "keepalived")
    theirs.configuration.write_text(configuration(device, version, words, addresses))
    with inside_network(network.path("a")):
        document, unread = read(str(theirs.configuration))
        (one,) = compile_document(document).configuration.vrrp.instances
    assert unread == ()
    encoder = AdvertEncoder(one, source_of(one), mtu)
    there = ip_address(address("b", 0, one.family))
    other = replace(one, peers=(Peer(encoder.source),)) if one.peers else one
    validator = AdvertValidator(other, AdvertEncoder(other, there, mtu))
    peers = {str(peer.address) for peer in one.peers}
    hosts = [host for host in ("b", "client") if address(host, 0, one.family) in peers] or ["b"]
    with ExitStack() as stack:
        taps = {host: stack.enter_context(closing(Tap(network, host, device))) for host in hosts}
        protocol = AH_PROTOCOL if one.authentication is Authentication.AH else PROTOCOL
        with inside_network(network.path("b")):
            receiver = AdvertReceiver(device, one.family, protocol, () if one.peers else (one.multicast,))
        stack.callback(receiver.close)

        stack.callback(theirs.kill)
        theirs.start()
        sent = {host: tap.wait_for(3, theirs) for host, tap in taps.items()}
        theirs.stop()
        for host, tap in taps.items():
            sent[host] += tap.wait_until(lambda found: found != [] and priority_of(found[-1]) == RELEASE, theirs)
        priorities = [priority_of(frame) for frame in sent["b"]]
        assert priorities == [OWNER] * (len(priorities) - 1) + [RELEASE]

        datagrams: list[Datagram] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(datagrams) < len(priorities):  # a tap receives a frame a moment before IP does
            assert time.monotonic() < deadline
            datagrams += receiver.receive()
        adverts = [validator.validate(datagram) for datagram in datagrams]
        assert [each.priority for each in adverts if each] == priorities
        assert not validator.mismatches

        with inside_network(network.path("a")):
            sender = stack.enter_context(closing(AdvertSender(device, one.family)))
        for priority in priorities:
            for out in encoder.packets(priority):
                sender.send(out)
        assert {host: tap.wait_for(len(sent[host]), theirs) for host, tap in taps.items()} == sent

    text = tcpdump(sent["b"], tmp_path / "pcap")
    assert text.count(f"vrid {one.vrid}, prio {OWNER}") == len(priorities) - 1
    assert text.count(f"vrid {one.vrid}, prio {RELEASE}") == 1
    found = [word for word in ("bad", "incorrect", "invalid", "[|", "trunc", "wrong", "error") if word in text.lower()]
    assert found == (["bad"] if one.old_checksum is OldChecksum.ALWAYS else []), text


def test_keepalived_becomes_backup_after_sequence_numbers_beyond_its_own(network: Segment, tmp_path: Path) -> None:
    """It drops numbers that are not greater than the last one of any router, itself included."""
    theirs = router("keepalived", network, "a", tmp_path / "keepalived")
    theirs.configuration.write_text(configuration("eth0", 2, AH, V4).replace(f"priority {OWNER}", "priority 100"))
    with inside_network(network.path("a")):
        (one,) = compile_document(read(str(theirs.configuration))[0]).configuration.vrrp.instances
    here = ip_address(address("b"))
    encoder = AdvertEncoder(one, here)
    validator = AdvertValidator(one, encoder)
    with ExitStack() as stack:
        with inside_network(network.path("b")):
            receiver = stack.enter_context(closing(AdvertReceiver("eth0", 4, AH_PROTOCOL, (one.multicast,))))
            sender = stack.enter_context(closing(AdvertSender("eth0", 4)))
        tap = stack.enter_context(closing(Tap(network, "b", "eth0")))
        stack.callback(theirs.kill)
        theirs.start()
        tap.wait_for(3, theirs)
        (too_low,) = encoder.packets(200)
        sender.send(too_low)
        tap.wait_for(1, theirs)  # it is still master
        deadline = time.monotonic() + PATIENCE_S
        while not any(f"Master received advert from {here} with higher priority" in line for line in theirs.log()):
            assert time.monotonic() < deadline, theirs.log()
            for datagram in receiver.receive():
                validator.validate(datagram)
            (accepted,) = encoder.packets(200)  # again, because keepalived may have used this number, too
            sender.send(accepted)
            time.sleep(0.1)
    assert any("sequence number 1 already processed" in line for line in theirs.log())
