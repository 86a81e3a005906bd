"""Frames with an 802.1Q tag, on a device below VLAN devices that runs XDP: what TC has let through before is fast.

d0 stands for a VLAN device, and its far end d1 for the device below. `tests/interop/test_kernels.py` has real ones.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP

from pylvs.bpf import abi
from pylvs.dataplane.devices.modes import Mode
from pylvs.model.service import Method, Protocol, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network, parsed, tcp
from tests.packet.host import (
    VIP4,
    VIP6,
    XDP_PASS,
    XDP_TX,
    Host,
    ip,
    key,
    new_host,
    on_cpu,
    server4,
    server6,
    server_mac,
)
from tests.packet.wire import wire
from tests.waiting import until, until_up

VIPS, CLIENTS = {4: VIP4, 6: VIP6}, {4: CLIENT4, 6: CLIENT6}
VID, OTHER_VID = 10, 4094
PRIORITY = 5 << 13  # as a switch may set it
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(expires=False, recycled=True) as made, on_cpu(0):  # each CPU has a fast path of its own
        yield made


def write_device(host: Host, device: str, trunk: str = "", vid: int = 0) -> None:
    host.write_device(socket.if_nametoindex(device), 0, socket.if_nametoindex(trunk) if trunk else 0, vid)


def tagged(frame: bytes, vid: int) -> bytes:
    return frame[:12] + b"\x81\x00" + vid.to_bytes(2, "big") + frame[12:]


def by_trunk(host: Host, frame: bytes, vid: int) -> tuple[int, bytes]:
    """Run a tagged frame on the device below; return verdict and frame."""
    host.ifindex = socket.if_nametoindex("d1")
    done = host.run(tagged(frame, vid))
    host.ifindex = socket.if_nametoindex("d0")
    return done.verdict, done.data


def request(version: int, protocol: Protocol, service: ServiceKey, flags: str = "A") -> bytes:
    more = {"flags": "DF"} if version == 4 else {}  # else the number of an outer header is random
    header = ether() / network(CLIENTS[version], VIPS[version], ttl=64, **more)
    if protocol == Protocol.UDP:
        return build(
            header / UDP(sport=4000, dport=service.port) / bytes(40)
        )  # the fast path takes no shorter frames than cards send
    return build(header / TCP(sport=4000, dport=service.port, flags=flags) / b"data")


def connected(host: Host, version: int, method: Method, protocol: Protocol = Protocol.TCP) -> tuple[ServiceKey, bytes]:
    """Serve, and make a connection at TC of the VLAN device; return the service and the next request."""
    service = key(80, protocol, VIPS[version])
    host.serve(service, 1, method)
    for flags in "S", "A":
        host.run(request(version, protocol, service, flags), "tc")
    return service, request(version, protocol, service)


def fast(host: Host, frame: bytes, vid: int = VID) -> Callable[[], bool]:
    """Return a condition: after TC of the VLAN device has seen it, the next frame is sent by the device below."""

    def holds() -> bool:
        host.run(frame, "tc")
        return by_trunk(host, frame, vid | PRIORITY)[0] == XDP_TX

    return holds


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("version", [4, 6])
def test_a_tagged_packet_leaves_as_an_untagged_one_with_a_tag(
    host: Host, version: int, method: Method, protocol: Protocol
) -> None:
    _, frame = connected(host, version, method, protocol)
    expected = host.forwarded(frame)
    write_device(host, "d0", "d1", VID)
    until(fast(host, frame), "tagged packets are sent")
    host.run(frame, "tc")
    assert by_trunk(host, frame + bytes(6), VID) == (XDP_TX, tagged(expected, VID)), "without padding, too"
    for other in (VID + 1, 0):
        assert by_trunk(host, frame, other) == (XDP_PASS, tagged(frame, other))
    wrong_mac = bytes.fromhex("020000000099") + frame[6:]
    assert by_trunk(host, wrong_mac, VID) == (XDP_PASS, tagged(wrong_mac, VID))


@pytest.mark.parametrize("version", [4, 6])
def test_replies_of_nat_are_translated(host: Host, version: int) -> None:
    service, frame = connected(host, version, Method.MASQ)
    server = (server4 if version == 4 else server6)(1)
    reply = tcp("A", service.port, 4000, server, CLIENTS[version], b"reply")
    for each in (reply, frame, reply):
        host.run(each, "tc")
    expected = host.forwarded(reply)
    write_device(host, "d0", "d1", VID)
    until(fast(host, reply), "tagged replies are sent")
    host.run(reply, "tc")
    assert by_trunk(host, reply, VID) == (XDP_TX, tagged(expected, VID))


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_changes_the_vlan_on_the_same_device(host: Host, version: int) -> None:
    """The server is on another VLAN device; if that is not on the same device, TC forwards."""
    ip("link", "add", "e0", "type", "veth", "peer", "name", "e1")
    for name in "e0", "e1":
        ip("link", "set", name, "up")
    until_up("e0")
    with host.director.batch():
        pass  # attach e0
    server, mac = (server4 if version == 4 else server6)(1), "02:00:00:00:01:01"
    ip("route", "add", server, "dev", "e0")
    ip("neigh", "add", server, "lladdr", mac, "nud", "permanent", "dev", "e0")
    _, frame = connected(host, version, Method.ROUTE)
    write_device(host, "d0", "d1", VID)
    write_device(host, "e0", "e1", OTHER_VID)
    for _ in range(3):
        host.run(frame, "tc")
        assert by_trunk(host, frame, VID) == (XDP_PASS, tagged(frame, VID))
    write_device(host, "e0", "d1", OTHER_VID)
    until(fast(host, frame), "tagged packets are sent")
    host.run(frame, "tc")
    verdict, data = by_trunk(host, frame, VID)
    assert (verdict, data[:6], data[12:16]) == (XDP_TX, bytes.fromhex(mac.replace(":", "")), b"\x81\x00\x0f\xfe")


def test_packets_of_a_vlan_that_leave_elsewhere_take_nothing_from_untagged_ones(host: Host) -> None:
    """A server is behind d0; its clients come by d0, and by the VLAN device e0 on another device."""
    ip("link", "add", "e0", "type", "veth", "peer", "name", "e1")
    _, frame = connected(host, 4, Method.ROUTE)
    write_device(host, "e0", "e1", VID)

    def untagged_ones_stay_fast() -> bool:
        """Return whether a packet is sent although the general path does not know d0 any more."""
        write_device(host, "d0")
        host.run(frame)
        host.ifindex = socket.if_nametoindex("e0")
        host.run(frame, "tc")
        host.ifindex = socket.if_nametoindex("d0")
        host.director.tables.devices.clear(host.ifindex % abi.constant("DEVICES"))
        return host.run(frame).verdict == XDP_TX

    until(untagged_ones_stay_fast, "a packet on the fast path")


def test_what_is_not_fast_passes_unmodified(host: Host) -> None:
    service, frame = connected(host, 4, Method.ROUTE)
    write_device(host, "d0", "d1", VID)
    until(fast(host, frame), "tagged packets are sent")
    syn = request(4, Protocol.TCP, service, "S")
    expiring = bytearray(frame)
    expiring[22] = 1
    foreign = tcp("A", 4000, 80, target="10.77.0.77")
    short = build(ether() / IP(src=CLIENT4, dst=VIP4))
    for earlier in (syn, bytes(expiring), foreign, short, b"", frame[:30]):
        whole = (earlier or ether().build())[:1500]
        host.run(frame, "tc")
        assert by_trunk(host, whole, VID) == (XDP_PASS, tagged(whole, VID))
    assert parsed(frame)[TCP].dport == service.port


def test_the_counters_name_the_vlan_device(host: Host) -> None:
    service, frame = connected(host, 4, Method.ROUTE)
    write_device(host, "d0", "d1", VID)
    until(fast(host, frame), "tagged packets are sent")
    before = host.director.service(service).counters.in_packets
    host.run(frame, "tc")
    assert by_trunk(host, frame, VID)[0] == XDP_TX
    assert host.director.service(service).counters.in_packets == before + 2
    forwarded = host.director.packet_counts().forwarded
    assert forwarded.keys() == {"d0"}
    assert forwarded["d0"].xdp >= 2
    assert forwarded["d0"].tc >= 2


@pytest.mark.parametrize("mode", ["tc", "generic"])
@pytest.mark.parametrize(("vid", "is_served"), [(0, True), (VID, False)])
def test_a_tag_that_names_no_vlan_is_only_a_priority(vid: int, is_served: bool, mode: Mode) -> None:
    """IEEE 802.1Q 9.6: the stack removes such a tag, and IPVS serves the packet."""
    with new_host(mode=mode, recycled=True) as made, wire() as link:
        service = key(80)
        made.serve(service, 1)
        for flags in "S", "A":
            link.send(tagged(tcp(flags, 4000, service.port), PRIORITY | vid))
        left = [each for each in link.came() if each[:6].hex(":") == server_mac(1)]
        assert [each[12:14] for each in left] == [b"\x08\x00"] * 2 * is_served
