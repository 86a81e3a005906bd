"""Packets with unfinished transport checksums (CHECKSUM_PARTIAL) that come in by a device, and what leaves.

Virtual machines, containers and the kernel's GRO send such packets. The field has the sum of the pseudo header, and a
note beside the packet says so; here a virtio header is that note. All leave by a tap whose reader takes no unfinished
checksums, so the kernel completes and segments what it knows to be incomplete.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.modes import Mode
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.netlink import links
from pylvs.reference.packet import checksum, pseudo_header
from tests.iproute import ip_batch
from tests.packet.frames import CLIENT4, CLIENT6, TCP_CHECK, UDP_CHECK, tcp, udp
from tests.packet.host import VIP4, VIP6, Host
from tests.packet.test_sctp_offload import HEADER, NEEDS_CSUM, PACKET_VNET_HDR, SOL_PACKET
from tests.waiting import PATIENCE_S, until_up

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 1, 2, 0x1000, 0x4000
GUESTS = 1 | 2 | 4  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6: what qemu sets for a guest with Linux
IPIP, IPV6 = 4, 41
GSO = {4: 1, 6: 4}  # VIRTIO_NET_HDR_GSO_TCPV*
OUT, NEIGHBOUR = "o0", "02:00:00:00:02:02"
SHAPES = {  # protocol, bytes of payload, length of segments, whether the checksum is unfinished
    "finished": (Protocol.TCP, 300, 0, False),
    "unfinished": (Protocol.TCP, 300, 0, True),
    "finished UDP": (Protocol.UDP, 300, 0, False),
    "unfinished UDP": (Protocol.UDP, 300, 0, True),
    "merged, shorter than the MTU": (Protocol.TCP, 900, 300, True),
    "merged, longer than the MTU": (Protocol.TCP, 4200, 1400, True),
}
PROTOCOLS = (Protocol.TCP, Protocol.UDP)
HEADER_BYTES = {Protocol.TCP: 20, Protocol.UDP: 8}
METHODS = {81: Method.ROUTE, 82: Method.TUNNEL, 83: Method.MASQ}  # by the service's port
VIPS, CLIENTS, SERVER = {4: VIP4, 6: VIP6}, {4: CLIENT4, 6: CLIENT6}, {4: "10.99.0.11", 6: "fd99::11"}
REAL_PORT = 8080  # of NAT
_ports = itertools.count(2000)

Write = Callable[[bytes], object]


@dataclass(frozen=True)
class Input:
    """A device by which packets come in; `write` takes a virtio header and a frame, or an IP packet."""

    device: str
    number: int
    write: Write

    @property
    def reply_port(self) -> int:
        """Return the port of the NAT services whose server is on its link."""
        return 90 + self.number

    @property
    def server(self) -> dict[int, str]:
        """Return the address of a real server on its link, by IP version."""
        return {4: f"10.{100 + self.number}.0.11", 6: f"fd{self.number}::11"}


@dataclass(frozen=True)
class Site:
    """A director with services, inputs, and the tap by which packets leave."""

    host: Host
    inputs: Mapping[str, Input]
    out: int
    modes: dict[str, Mode] = field(default_factory=dict)

    def attach(self, device: str, mode: Mode) -> None:
        """Attach a device in another mode than before."""
        if self.modes.get(device) != mode:
            with self.host.director.batch():
                attachments.request(self.host.director.tables, device, mode)
            self.modes[device] = mode

    def forget(self) -> None:
        """Read what left before."""
        while select.select([self.out], [], [], 0)[0]:
            os.read(self.out, 1 << 16)

    def came(self) -> bytes:
        """Return the next IP frame to a neighbour on the way out."""
        end = time.monotonic() + PATIENCE_S
        while (left := end - time.monotonic()) > 0 and select.select([self.out], [], [], left)[0]:
            frame = os.read(self.out, 1 << 16)
            if frame[:6] == bytes.fromhex(NEIGHBOUR.replace(":", "")):
                return frame
        raise AssertionError(f"nothing came: {self.host.reasons()}")


def open_tun(name: str, flags: int, offload: int = 0) -> int:
    """Make a tap or tun device, and return its descriptor."""
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
    fcntl.ioctl(opened, TUNSETOFFLOAD, offload)
    return opened


def into_far_end(closing: ExitStack, device: str) -> Write:
    """Return what sends frames by the far end of a link."""
    there = closing.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    there.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    there.bind((device, 0))
    return there.send


def into_tun(closing: ExitStack, name: str, flags: int) -> Write:
    """Make a tap or tun device; return what sends frames to this host by it, as qemu does."""
    descriptor = open_tun(name, flags | IFF_VNET_HDR, GUESTS)
    closing.callback(os.close, descriptor)
    return lambda data: os.write(descriptor, data)


def _addresses(number: int, device: str) -> Iterator[str]:
    yield f"addr add 10.{number}.0.1/24 dev {device}"
    yield f"addr add fd{number % 100}::1/64 dev {device} nodad"
    if links.device(device).mac:
        for address in (f"10.{number}.0.11", f"fd{number % 100}::11"):
            yield f"neigh add {address} lladdr {NEIGHBOUR} nud permanent dev {device}"


@contextmanager
def new_site(host: Host, commands: Iterable[str], devices: Mapping[str, tuple[str, Write]]) -> Iterator[Site]:
    """Give devices that `ip` makes by commands their addresses, and add the services."""
    out = open_tun(OUT, IFF_TAP)
    try:
        ip_batch([*commands, f"link set {OUT} up"])
        inputs = {
            kind: Input(device, number, write) for number, (kind, (device, write)) in enumerate(devices.items(), 1)
        }
        numbered = {100 + each.number: each.device for each in inputs.values()} | {99: OUT}
        lines = [line for number, device in numbered.items() for line in _addresses(number, device)]
        for client, network in (CLIENT4, "198.18.0.0/16"), (CLIENT6, "2001:db8:7::/64"):
            lines += [
                f"route add {network} dev {OUT}",
                f"neigh add {client} lladdr {NEIGHBOUR} nud permanent dev {OUT}",
            ]
        ip_batch(lines)
        _serve(host, inputs.values())
        yield Site(host, inputs, out)
    finally:
        os.close(out)


def _serve(host: Host, inputs: Iterable[Input]) -> None:
    """Add a service for each method, protocol and IP version, and NAT services with servers behind each device."""
    ways = {port: (method, SERVER) for port, method in METHODS.items()}
    ways |= {each.reply_port: (Method.MASQ, each.server) for each in inputs}
    with host.director.batch():
        for (port, (method, server)), protocol, version in itertools.product(ways.items(), PROTOCOLS, VIPS):
            service = ServiceKey(protocol, ip_address(VIPS[version]), port)
            host.director.add_service(VirtualService(service, "rr"))
            real = DestinationKey(ip_address(server[version]), REAL_PORT if method == Method.MASQ else port)
            host.director.add_destination(service, Destination(real, method))


def _written(device: str, frame: bytes, protocol: Protocol, segment: int, unfinished: bool) -> bytes:
    """Return what is written so that a frame comes in by a device."""
    six = frame[12:14] == b"\x86\xdd"
    l4 = 54 if six else 34
    at = TCP_CHECK if protocol is Protocol.TCP else UDP_CHECK
    link = links.device(device).mac
    frame = link + frame[len(link) :]
    cut = 0 if link else 14
    if not unfinished:
        return bytes(HEADER.size) + frame[cut:]
    covered = frame[22:54] if six else frame[26:34]
    pseudo = ~checksum(
        pseudo_header(covered[: len(covered) // 2], covered[len(covered) // 2 :], protocol, len(frame) - l4)
    )
    frame = frame[: l4 + at] + struct.pack("!H", pseudo & 0xFFFF) + frame[l4 + at + 2 :]
    gso = GSO[6 if six else 4] if segment else 0
    header = HEADER.pack(NEEDS_CSUM, gso, l4 - cut + 20 if gso else 0, segment, l4 - cut, at)
    return header + frame[cut:]


def _segment_of(frame: bytes) -> bytes:
    """Return the transport header and payload of a frame, also in a tunnel. Fail the test if a checksum is wrong."""
    packet, six = frame[14:], frame[12:14] == b"\x86\xdd"
    while True:
        head = 40 if six else 20
        length = int.from_bytes(packet[4:6], "big") + head if six else int.from_bytes(packet[2:4], "big")
        assert six or checksum(packet[:head]) == 0
        protocol, packet, covered = packet[6 if six else 9], packet[:length], packet[8:40] if six else packet[12:20]
        if protocol not in (IPIP, IPV6):
            break
        packet, six = packet[head:], protocol == IPV6
    half = len(covered) // 2
    pseudo = pseudo_header(covered[:half], covered[half:], protocol, length - head)
    assert checksum(pseudo + packet[head:]) == 0, f"wrong checksum: {frame.hex()}"
    return packet[head:]


def _forward(site: Site, into: Input, shape: str, frames: Sequence[bytes], sport: int, at: int) -> None:
    """Send packets of these frames by a device, and assert what leaves; `sport` is the one that it leaves with."""
    protocol, _, merged, unfinished = SHAPES[shape]
    for frame in frames:
        body, got = frame[at:], b""
        into.write(_written(into.device, frame, protocol, merged if body else 0, unfinished))
        while True:
            segment = _segment_of(site.came())
            got += segment[HEADER_BYTES[protocol] :]
            if len(got) >= len(body):
                break
        assert got == body
        assert int.from_bytes(segment[:2], "big") == sport


def forward(site: Site, kind: str, shape: str, version: int) -> int:
    """Forward packets of a shape from a device by every method, and replies of NAT; assert each checksum.

    Return how many of them XDP left to TC.
    """
    into, vip, client = site.inputs[kind], VIPS[version], CLIENTS[version]
    protocol, size, *_ = SHAPES[shape]
    payload = bytes(n * 7 & 255 for n in range(size))
    at = 14 + (20 if version == 4 else 40) + HEADER_BYTES[protocol]
    before = site.host.reason("TO_TC")
    site.forget()

    def packets(flags: str, *ends: Any) -> list[bytes]:
        if protocol is Protocol.UDP:
            return [udp(*ends, payload=payload)] * 3
        return [tcp(flags, *ends), *[tcp("A", *ends, payload=payload)] * 3]

    for port in METHODS:
        sport = next(_ports)
        _forward(site, into, shape, packets("S", sport, port, client, vip), sport, at)
    sport, port = next(_ports), into.reply_port
    os.write(site.out, links.device(OUT).mac + packets("S", sport, port, client, vip)[0][6:])
    answers = packets("SA", REAL_PORT, sport, into.server[version], client)
    _forward(site, into, shape, answers, port, at)
    return site.host.reason("TO_TC") - before


def veth(name: str) -> list[str]:
    """Return the commands that make a link: its ends are NAME0 and NAME1."""
    return [f"link add {name}0 type veth peer name {name}1", f"link set {name}0 up", f"link set {name}1 up"]


def until_veth_up(*names: str) -> None:
    until_up(*(f"{each}0" for each in names))
