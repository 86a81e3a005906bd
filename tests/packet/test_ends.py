"""Each packet that a device receives ends once: forwarded, passed, dropped or held, by one reason."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from pylvs.bpf import abi
from pylvs.bpf.maps import ArrayMap
from pylvs.bpf.reasons import reasons
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.modes import Mode
from pylvs.dataplane.ends import ends
from pylvs.dataplane.reader import ends_by_ifindex, forwarded_by_ifindex
from pylvs.dataplane.transaction import Book
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.errors import PylvsError
from pylvs.model.rows import NOTE, VERDICTS, DeviceEnds
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from pylvs.netlink import links
from pylvs.reference.packet import checksum
from tests.packet.frames import tcp, udp
from tests.packet.fuzz.steps import AddServer, AddService, Edit, SetStandby
from tests.packet.fuzz.traffic import Traffic, framed, ip_packet
from tests.packet.host import (
    HOOKS,
    SENT,
    SERVERS,
    TC_DROP,
    TC_PASS,
    TC_REDIRECT,
    VIP4,
    VIP6,
    XDP_DROP,
    XDP_PASS,
    Host,
    new_host,
    server4,
    server6,
)
from tests.packet.runner import SHORTEST, Runner
from tests.packet.wire import wire
from tests.waiting import until

SEED = 20261129
LONGEST = 1514  # of a frame of a device
HELD_BYTES = 8
ICMP, UNREACHABLE = 1, 3
VLAN_TAG = b"\x81\x00\x00\x07"
BROADCAST, FOREIGN = b"\xff" * 6, bytes.fromhex("0200000000aa")
TUNNELS = Tunnel(), Tunnel(TunnelKind.GRE), Tunnel(TunnelKind.GUE, 6080, TunnelFlag.CSUM)


@pytest.fixture
def host(director_host: Host) -> Host:
    return director_host


def tables() -> list[Edit]:
    """Return services of each kind and method; one has no servers, one only servers of weight 0."""
    edits: list[Edit] = []
    for vip, server in ((VIP4, server4), (VIP6, server6)):
        port = 80
        for protocol in Protocol.TCP, Protocol.UDP, Protocol.SCTP:
            for method, tunnel in [
                (Method.ROUTE, Tunnel()),
                (Method.MASQ, Tunnel()),
                *[(Method.TUNNEL, t) for t in TUNNELS],
            ]:
                key = ServiceKey(protocol, ip_address(vip), port)
                flags = (ServiceFlag(0), ServiceFlag.PERSISTENT, ServiceFlag.ONE_PACKET)[port % 3]
                if flags == ServiceFlag.ONE_PACKET and protocol != Protocol.UDP:
                    flags = ServiceFlag(0)
                edits.append(
                    AddService(VirtualService(key, "rr", flags, 300 if flags == ServiceFlag.PERSISTENT else 0))
                )
                for number in range(1, SERVERS + 1) if port % 10 else ():
                    to = DestinationKey(ip_address(server(number)), 8080 if method == Method.MASQ else port)
                    edits.append(AddServer(key, Destination(to, method, 0 if port % 10 == 9 else 1, tunnel=tunnel)))
                port += 1
    return edits


def fragments(frame: bytes, chance: random.Random) -> list[bytes]:
    """Return an IPv4 packet without options as fragments, some of them missing, twice or wrong; others as they are."""
    payload = frame[34:]
    if frame[12:15] != b"\x08\x00\x45" or len(payload) < 2 * HELD_BYTES:
        return [frame]
    cut = chance.randrange(HELD_BYTES, len(payload), HELD_BYTES)
    parts = []
    for offset, part in (0, payload[:cut]), (cut, payload[cut:]):
        more = 0x2000 if not offset else 0
        head = frame[14:16] + (20 + len(part)).to_bytes(2, "big") + frame[18:20]
        head += (more | offset // 8).to_bytes(2, "big") + frame[22:24] + b"\0\0" + frame[26:34]
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        parts.append(frame[:14] + head + part)
    chance.shuffle(parts)
    return parts * chance.choice((1, 1, 1, 2)) if chance.random() < 0.8 else parts[:1]


def about(frame: bytes, chance: random.Random) -> bytes:
    """Return an ICMP error about a packet of IPv4, as a router between here and the client sends it."""
    body = bytes((UNREACHABLE, chance.choice((1, 3, 4)), 0, 0, 0, 0, 5, 0)) + frame[14:62]
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    return framed(ip_packet(frame[26:30], frame[30:34], ICMP, body, chance, with_options=False))


def varied(frame: bytes, chance: random.Random) -> list[bytes]:
    """Return what comes instead of a frame: mostly itself."""
    kind = chance.random()
    if kind < 0.1:
        return fragments(frame, chance)
    if kind < 0.12 and frame[12:14] == b"\x08\x00":
        return [about(frame, chance)]
    if kind < 0.13:
        return [frame[:12] + VLAN_TAG + frame[12:]]
    if kind < 0.14:
        return [chance.choice((BROADCAST, FOREIGN)) + frame[6:]]
    return [frame]


class Sums(NamedTuple):
    """Packets by verdict, that the program has counted: at XDP and at TC forwarded, passed, dropped, held."""

    xdp: int
    tc: int
    passed: int
    dropped: int
    held: int


def of_device(host: Host, ifindex: int) -> Sums:
    found, layout = host.director.tables, abi.shipped()
    forwarded = forwarded_by_ifindex(
        layout, found.device_packets, found.statistics, found.book.get(0, "destination_top")
    )
    passed, dropped, held = ends_by_ifindex(layout, found.device_packets)[ifindex]
    xdp, tc = forwarded.get(ifindex, (0, 0))
    return Sums(xdp, tc, passed, dropped, held)


def of_all_devices(host: Host) -> dict[str, int]:
    """Return the sums of the devices' counts by verdict."""
    rows = [of_device(host, ifindex) for ifindex in ends_by_ifindex(abi.shipped(), host.director.tables.device_packets)]
    xdp, tc, *others = map(sum, zip(*rows, strict=True))
    return dict(zip(VERDICTS, (xdp + tc, *others), strict=True))


def icmp_sent(host: Host) -> int:
    return host.reason("ICMP_SENT")


def without_notes(host: Host) -> dict[str, int]:
    """Return the sums of the reasons' counts by verdict."""
    counts = dict.fromkeys(VERDICTS, 0)
    for name, count in ends(host.director.tables).reasons.items():
        verdict = reasons()[name].verdict
        if verdict != NOTE:
            counts[verdict] += count
    return counts


@pytest.mark.parametrize(
    "frames",
    [100_000, pytest.param(1_000_000, marks=pytest.mark.nightly("takes two minutes; the gate counts 100,000 frames"))],
)
def test_every_frame_of_any_kind_is_counted_once(frames: int) -> None:
    """The sums by device, by reason, and of the verdicts that the kernel returns agree."""
    with new_host(connections=1 << 14, recycled=True) as host, closing(Standby()) as roles:
        chance, edits, count, seen = random.Random(SEED), tables(), 0, Counter[tuple[str, int]]()
        with host.director.batch():
            for edit in edits:
                edit.apply(host.director)
            attachments.release(host.director.tables, "d0")  # so that nothing else comes by it
        host.write_device(host.ifindex)
        host.director.tables.root.set(0, "settings.icmp_per_second", 0)
        xdp, tc = (Runner(host.program(hook), hook, host.ifindex) for hook in HOOKS)
        before, notes = of_device(host, host.ifindex), icmp_sent(host)
        while count < frames:
            for step in Traffic(edits, chance.getrandbits(60), roles=True).steps(25_000, edits=0.001):
                if not isinstance(step, bytes):
                    with suppress(PylvsError):
                        step.apply(roles) if isinstance(step, SetStandby) else step.apply(host.director)
                    continue
                for frame in varied(step, chance):
                    if len(frame) < SHORTEST:
                        continue
                    count += 1
                    verdict, _ = xdp(frame)
                    if verdict != XDP_PASS:
                        seen["xdp", verdict] += 1
                    else:
                        seen["tc", tc(frame)[0]] += 1
        grown = Sums(*(new - old for new, old in zip(of_device(host, host.ifindex), before, strict=True)))
        errors = icmp_sent(host) - notes
        assert sum(grown) == count == sum(seen.values()), (grown, seen)
        assert grown.xdp == sum(seen["xdp", verdict] for verdict in SENT["xdp"])
        assert grown.tc + errors == seen["tc", TC_REDIRECT]
        in_fragments = grown.passed - seen["tc", TC_PASS]  # for another host: the last one is consumed
        assert grown.dropped - errors + grown.held + in_fragments == seen["xdp", XDP_DROP] + seen["tc", TC_DROP]
        assert min(*grown, in_fragments) >= 0 < min(grown), grown
        assert without_notes(host) == of_all_devices(host)


@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
def test_the_kernel_has_received_what_the_programs_have_counted(mode: Mode) -> None:
    """Real frames come by a veth; its driver counts them."""
    with new_host(connections=1 << 14, mode=mode, recycled=True) as host, wire() as link:
        chance, edits, sent = random.Random(SEED), tables(), 0
        with host.director.batch():
            for edit in edits:
                edit.apply(host.director)
        before = device(host, "d0")
        for step in Traffic(edits, SEED).steps(1000, edits=0):
            for frame in varied(step, chance) if isinstance(step, bytes) else ():
                if len(frame) <= LONGEST:
                    sent += 1
                    link.send(frame)
        until(lambda: device(host, "d0").counted - before.counted >= sent, lambda: f"{device(host, 'd0')} of {sent}")
        found = device(host, "d0")
        assert found.difference == 0, found
        assert min(found.passed, found.dropped, found.held, found.forwarded.tc) > 0
        assert (found.forwarded.xdp > 0) == (mode != "tc")


def device(host: Host, name: str) -> DeviceEnds:
    (found,) = (each for each in ends(host.director.tables).devices if each.device == name)
    return found


def of_service(host: Host, service: ServiceKey) -> dict[str, int]:
    """Return the counts of a service's packets by reason."""
    return {each.reason: each.count for each in ends(host.director.tables).services if each.service == service}


@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_service_does_not_forward_counts_for_it_until_it_is_deleted(host: Host, hook: str) -> None:
    service, other = host.new_key(), host.new_key()
    host.serve(service, 0)
    host.serve(other, 1)

    def receive(frame: bytes) -> None:
        if hook == "tc" or host.run(frame, "xdp").verdict == XDP_PASS:
            host.run(frame, "tc")

    for sport in range(5):
        receive(tcp(sport=sport, dport=service.port))
        receive(tcp("A", sport=sport, dport=other.port))
        receive(tcp(sport=sport, dport=other.port, ttl=1))
    assert of_service(host, service) == {"no destination": 5}
    assert of_service(host, other) == {"no flow": 5, "ttl": 5}
    host.director.delete_service(service)
    host.director.delete_service(other)
    assert (of_service(host, service), of_service(host, other)) == ({}, {})
    host.serve(service, 0)
    assert of_service(host, service) == {}, "another service of this key begins at 0"


def test_a_missing_program_lets_packets_pass_once() -> None:
    """Programs are never missing. If one were, the kernel must get a verdict that it knows."""
    with new_host() as host:
        service, programs = host.new_key(), abi.shipped().enum("prog")
        host.director.add_service(VirtualService(service, "rr"))
        server, tunnel = DestinationKey(ip_address(server4(1)), service.port), Tunnel(TunnelKind.GRE)
        host.director.add_destination(service, Destination(server, Method.TUNNEL, tunnel=tunnel))
        for hook in HOOKS:
            host.program(hook)
        for hook, program in ("xdp", "TAGGED"), ("tc", "ENCAP"), ("tc", "FWD_SLOW"):
            with closing(ArrayMap.open(host.director.tables.path(f"tailcalls_{hook}"))) as array:
                assert array.remove(programs[f"PROG_{program}"])
        frame = tcp(dport=service.port)
        assert host.run(frame[:12] + VLAN_TAG + frame[12:], "xdp").verdict == XDP_PASS
        before = of_device(host, host.ifindex)
        for ttl in 64, 1:
            assert host.run(tcp(dport=service.port, sport=ttl, ttl=ttl), "tc").verdict == TC_PASS
        grown = Sums(*(new - old for new, old in zip(of_device(host, host.ifindex), before, strict=True)))
        assert grown.passed >= 2  # with multicasts that kernels of test hosts send at any time
        assert grown._replace(passed=2) == Sums(0, 0, 2, 0, 0)
        assert of_service(host, service) == {"missed tail call": 2}
        assert host.reason("MISSED_TAIL_CALL") == 3


def test_counts_of_deleted_services_take_no_memory_for_long(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 0)
    host.run(tcp(dport=service.port), "tc")
    counts = host.director.tables.service_reasons
    assert len(counts) > 0
    host.director.delete_service(service)
    Book(host.director.tables).settle()
    assert len(counts) == 0


@pytest.mark.parametrize("again", [False, True])
def test_each_fragment_ends_once(host: Host, again: bool) -> None:
    """The last one stands for the whole packet, also if others come twice."""
    service = host.new_key(Protocol.UDP)
    host.serve(service, 1)
    frames = [*fragments(udp(dport=service.port, payload=bytes(64)), random.Random(2))]
    assert len(frames) == 2
    before, seen = of_device(host, host.ifindex), host.reasons()
    for frame in (*frames[:1] * (2 if again else 1), *frames[1:]):
        host.run(frame, "tc")
    grown = Sums(*(new - old for new, old in zip(of_device(host, host.ifindex), before, strict=True)))
    # Kernels of test hosts send multicasts by themselves at any time, which pass.
    assert grown._replace(passed=0) == Sums(0, 1, 0, int(again), 1)
    assert host.reason("FRAGMENTS_JOINED") == seen.get("fragments_joined", 0) + 1


def test_a_device_that_is_attached_again_continues_its_count() -> None:
    """What came while it was detached counts neither as received nor as lost."""
    with new_host(mode="tc", recycled=True) as host, wire() as link:
        service = host.new_key()
        host.serve(service, 1)
        link.send(tcp(dport=service.port))
        until(lambda: device(host, "d0").forwarded.tc == 1, "it is counted")
        with host.director.batch():
            attachments.release(host.director.tables, "d0")
        received = links.traffic("d0").in_packets
        link.send(tcp(sport=4001, dport=service.port))
        until(lambda: links.traffic("d0").in_packets > received, "the device receives it")
        with host.director.batch():
            attachments.request(host.director.tables, "d0", "tc")
        link.send(tcp(sport=4002, dport=service.port))
        until(lambda: device(host, "d0").forwarded.tc == 2, "it is counted")
        assert device(host, "d0").difference == 0
