"""TC holds fragments until all have come, and forwards the packet in the same fragments."""

from __future__ import annotations

import itertools
import random
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers import inet, inet6
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from pylvs.bpf import abi
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane import load
from pylvs.model.service import Destination, DestinationKey, Protocol, VirtualService
from pylvs.reference.packet import checksum
from tests.packet.frames import CLIENT4, CLIENT6, build, ether
from tests.packet.host import DROPPED, MAC, PASSED, SENT, VIP4, VIP6, Host, key, new_host, server_mac
from tests.packet.wire import Wire, wire
from tests.waiting import Void, until_valid

SETS, WAYS, WAYS_ALONE = 32, 8, 16  # DEFRAG_SETS, DEFRAG_WAYS, LONE_WAYS
SERVICES = {4: key(53, Protocol.UDP), 6: key(53, Protocol.UDP, VIP6)}


@pytest.fixture
def host(director_host: Host) -> Host:
    for service in SERVICES.values():
        director_host.serve(service, 1)
    return director_host


def sent_to_server(link: Wire, *last: bytes) -> list[Any]:
    """Return the packets that left for the real server, the clones first."""
    frames = [Ether(frame) for frame in (*link.came(), *last)]
    return [frame.payload for frame in frames if frame.dst == server_mac(1)]


def fragments(family: int, sport: int, size: int, step: int, dport: int = 53) -> list[bytes]:
    """Return a datagram in fragments with these payload lengths."""
    data = UDP(sport=sport, dport=dport) / Raw(bytes(n * 7 & 255 for n in range(size)))
    if family == 4:
        whole: Packet = IP(src=CLIENT4, dst=VIP4, id=sport) / data
        cut4: Any = inet.fragment
        return [build(ether() / piece) for piece in cut4(IP(bytes(whole)), step)]
    header = IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrFragment(id=sport)
    cut6: Any = inet6.fragment6
    return [build(ether() / piece) for piece in cut6(header / data, step + 48)]


def packets_in(host: Host, family: int) -> tuple[int, int]:
    """Return packets and bytes that the service received, as `ipvsadm --stats` shows them."""
    row = host.director.service(SERVICES[family])
    return row.counters.in_packets, row.counters.in_bytes


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("order", ["as sent", "last first"])
def test_a_packet_leaves_when_all_its_fragments_are_there_and_counts_as_one(
    host: Host, family: int, order: str
) -> None:
    sport = 5000 + family + 10 * (order == "as sent")
    frames = fragments(family, sport, 3000, 1000)
    if order == "last first":
        frames.reverse()
    before, connections = packets_in(host, family), len(list(host.director.connections()))
    with wire() as link:
        for frame in frames[:-1]:
            done = host.run(frame, "tc")
            assert done.verdict == DROPPED["tc"]
        assert sent_to_server(link) == []
        assert packets_in(host, family) == before
        assert len(list(host.director.connections())) == connections
        assert host.run(frames[0], "tc").verdict == DROPPED["tc"], "a repetition changes nothing"
        left = sent_to_server(link, host.run(frames[-1], "tc").data)
    assert len(list(host.director.connections())) == connections + 1
    packets, octets = packets_in(host, family)
    assert (packets - before[0], octets - before[1]) == (1, 3000 + 8 + (20 if family == 4 else 40))
    came = sorted((Ether(frame).payload for frame in frames), key=offset_and_more)
    assert [offset_and_more(piece) for piece in left] == [offset_and_more(piece) for piece in came]
    assert [bytes(body(piece)) for piece in left] == [bytes(body(piece)) for piece in came]


def test_fragments_to_an_unresolved_neighbour_let_the_kernel_ask_for_it(director_host: Host) -> None:
    service, server = director_host.new_key(Protocol.UDP), ip_address("10.77.0.99")
    director_host.director.add_service(VirtualService(service, "rr"))
    director_host.director.add_destination(service, Destination(DestinationKey(server, service.port)))
    frames = fragments(4, 5500, 3000, 1000, service.port)
    with wire() as link:
        for frame in frames:
            link.send(frame)
        request, *_ = (Ether(each)[ARP] for each in link.came() if Ether(each).haslayer(ARP))
        assert request.pdst == str(server)
        link.send(bytes(Ether(dst=MAC, src=server_mac(9)) / request_answer(request)))
        for frame in frames:
            link.send(frame)
        left = [Ether(each) for each in link.came()]
    arrived = [each.payload for each in left if each.dst == server_mac(9)]
    assert [piece.frag for piece in arrived] == [0, 0, 125, 250, 375]  # the first one waited


def request_answer(request: Any) -> Any:
    """Return the ARP reply to a request."""
    return ARP(op=2, hwsrc=server_mac(9), psrc=request.pdst, hwdst=request.hwsrc, pdst=request.psrc)


def offset_and_more(packet: Any) -> tuple[int, int]:
    """Return the offset in units of 8 bytes, and whether more fragments follow."""
    if packet.version == 4:
        return packet.frag, int(packet.flags.MF)
    header = packet[IPv6ExtHdrFragment]
    return header.offset, header.m


def body(packet: Any) -> Any:
    return packet.payload if packet.version == 4 else packet[IPv6ExtHdrFragment].payload


def test_an_atomic_fragment_is_a_whole_packet(host: Host) -> None:
    """RFC 6946: the kernel gives IPVS the packet without its fragment header."""
    header = IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrFragment(id=5150)
    frame = build(ether() / header / UDP(sport=5150, dport=53) / Raw(bytes(800)))
    before = packets_in(host, 6)
    host.run(frame, "tc")
    packets, octets = packets_in(host, 6)
    assert (packets - before[0], octets - before[1]) == (1, 40 + 8 + 800)


@pytest.mark.parametrize("family", [4, 6])
def test_overlapping_fragments_are_all_dropped(host: Host, family: int) -> None:
    first, second, third = fragments(family, 5100 + family, 2500, 1000)
    spoilt = bytearray(second)  # 8 bytes earlier than it should be
    at = 14 + 6 if family == 4 else 14 + 40 + 2
    field = int.from_bytes(spoilt[at : at + 2], "big") - (1 if family == 4 else 8)
    spoilt[at : at + 2] = field.to_bytes(2, "big")
    if family == 4:
        packet = Ether(bytes(spoilt))
        del packet[IP].chksum
        spoilt = bytearray(build(packet))
    conflicts = host.reason("FRAGMENT_OVERLAP")
    for frame in first, bytes(spoilt), second, third:
        assert host.run(frame, "tc").verdict == DROPPED["tc"]
    assert host.reason("FRAGMENT_OVERLAP") == conflicts + 1
    assert not [row for row in host.director.connections() if f":{5100 + family}" in str(row)]


def test_a_sender_cannot_choose_packets_that_displace_each_other(host: Host) -> None:
    """Without a key, all of them are in one of the 32 sets, which holds 8 incomplete packets."""

    def set_without_key(ident: int) -> int:
        source, target = (int.from_bytes(socket.inet_aton(each), "little") for each in (CLIENT4, VIP4))
        mixed = int.from_bytes(ident.to_bytes(2, "big"), "little") ^ (17 | 1 << 9) << 16
        for word in source ^ target << 1, 0, 0, 0:
            mixed = (mixed ^ word) * 0x9E3779B1 & 0xFFFFFFFF
        return mixed >> 16 & 31

    chosen = [ident for ident in range(1, 65536) if set_without_key(ident) == 7][:64]
    before = host.reason("FRAGMENT_DISPLACED")
    for ident in chosen:
        first = IP(src=CLIENT4, dst=VIP4, id=ident, flags="MF") / UDP(sport=5300, dport=53) / Raw(bytes(800))
        assert host.run(build(ether() / first), "tc").verdict == DROPPED["tc"]
    assert host.reason("FRAGMENT_DISPLACED") - before < len(chosen) / 2


def first_fragments(number: int, first: int) -> list[bytes]:
    """Return first fragments without the rest, each of another client."""
    packet = IP(src="198.19.0.0", dst=VIP4, id=1, flags="MF") / UDP(sport=5400, dport=53) / Raw(bytes(56))
    frame, found = bytearray(build(ether() / packet)), []
    for client in range(first, first + number):
        struct.pack_into("!HI", frame, 24, 0, 198 << 24 | 19 << 16 | client)
        struct.pack_into("!H", frame, 24, checksum(frame[14:34]))
        found.append(bytes(frame))
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_a_flood_of_first_fragments_leaves_other_packets(host: Host, family: int) -> None:
    """Between the fragments of a packet come 10 ms of 250,000 first fragments a second."""
    packets = [fragments(family, 5600 + number, 2500, 1000) for number in range(20)]
    before = packets_in(host, family)[0]
    for number, packet in enumerate(packets):
        for index, frame in enumerate(packet if number % 2 else reversed(packet)):
            if index == 1:
                for other in first_fragments(2500, 3000 * number):
                    host.run(other, "tc")
            host.run(frame, "tc")
    assert packets_in(host, family)[0] - before >= 0.95 * len(packets)


def set_of(host: Host, ident: int) -> int:
    """Return the set of queues that the packet path chooses for a datagram of the client."""
    seeds: list[int] = host.director.tables.pool.get(0, "seeds")
    full = (1 << 64) - 1
    source, target = (int.from_bytes(socket.inet_aton(each), "little") for each in (CLIENT4, VIP4))
    mixed: int = socket.htons(ident) | (17 | 1 << 9) << 32
    for word in source | target << 32, 0, 0, 0:
        mixed = (mixed ^ word) * seeds[0] & full
        mixed ^= mixed >> 32
    return (mixed * seeds[1] & full) >> 32 & SETS - 1


@pytest.fixture
def empty_host() -> Iterator[Host]:
    """Return a host without the packets of other tests."""
    with new_host(recycled=True) as host:
        host.serve(SERVICES[4], 1)
        yield host


def test_the_oldest_of_the_packets_of_one_tick_is_displaced(empty_host: Host) -> None:
    """Ten packets in each set of eight: the eight that came last are complete in the end."""
    host, sets = empty_host, defaultdict[int, list[int]](list)
    for ident in range(1024, 65536):  # also the source port: IPVS schedules no packet from port 20
        sets[set_of(host, ident)].append(ident)
    assert len(sets) == SETS
    for chosen in sets.values():
        packets = [fragments(4, ident, 3500, 1800) for ident in chosen[: WAYS + 2]]  # 1800 bytes start a queue at once
        before, displaced = packets_in(host, 4)[0], host.reason("FRAGMENT_DISPLACED")
        for first, _ in packets:
            assert host.run(first, "tc").verdict == DROPPED["tc"]
        assert host.reason("FRAGMENT_DISPLACED") - displaced == 2
        for _, last in packets[2:]:
            host.run(last, "tc")
        assert packets_in(host, 4)[0] - before == WAYS


def age(host: Host, ticks: int) -> None:
    """Let time pass for the fragments that wait."""
    tables, born = host.director.tables, struct.Struct("<I")
    sizes = {"lone_sets": (WAYS_ALONE * 4, WAYS_ALONE), "frag_queues": (abi.struct("frag_queue").offset("created"), 1)}
    for name, (first, count) in sizes.items():
        with ArrayMap.open(tables.path(name)) as map_:
            for index in range(map_.max_entries):
                element = bytearray(map_.get(index) or b"")
                if any(element):
                    for at in range(first, first + 4 * count, 4):
                        born.pack_into(element, at, born.unpack_from(element, at)[0] - ticks & 0xFFFFFFFF)
                    map_.put(index, bytes(element))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("came", [1, 2])
def test_a_packet_must_be_complete_within_the_timeout_of_the_kernel(empty_host: Host, family: int, came: int) -> None:
    """ipfrag_time is 30 s, and ip6frag_time 60 s; whether one fragment waits or several."""
    host = empty_host
    host.serve(SERVICES[6], 1)
    timeout_s, sports = 30 if family == 4 else 60, itertools.count(7000)

    def completes_after(spent_s: float) -> bool:
        frames = fragments(family, next(sports), 1000 * came + 500, 1000)  # one more
        assert len(frames) == came + 1
        before = packets_in(host, family)[0]
        for frame in frames[:came]:
            assert host.run(frame, "tc").verdict == DROPPED["tc"]
        age(host, round(spent_s * load.ticks_per_second()))
        for frame in frames[came:]:
            host.run(frame, "tc")
        return packets_in(host, family)[0] == before + 1

    def completes_in_time() -> None:
        """Check that it does, if the machine does not pause for the rest of the timeout."""
        if not completes_after(timeout_s * 0.9):
            raise Void("the packet was too late")

    until_valid(f"fragments, IPv{family}, {came} came", completes_in_time)
    expired = host.reason("FRAGMENT_TIMEOUT")
    assert not completes_after(timeout_s * 1.1)
    assert host.reason("FRAGMENT_TIMEOUT") == expired + 1


def test_a_fragment_whose_set_another_cpu_uses_is_counted(empty_host: Host) -> None:
    host, (first, last) = empty_host, fragments(4, 100, 3500, 1800)
    with ArrayMap.open(host.director.tables.path("frag_locks")) as locks:
        locks.put(set_of(host, 100), struct.pack("=I", 1))
        assert host.run(first, "tc").verdict == DROPPED["tc"]
        assert host.reasons() == {"fragment_locked": 1}
        locks.put(set_of(host, 100), bytes(4))
    for frame in first, last:
        host.run(frame, "tc")
    assert packets_in(host, 4)[0] == 1


def test_xdp_passes_fragments_unmodified(host: Host) -> None:
    for family in 4, 6:
        for frame in fragments(family, 5200, 2500, 1000):
            done = host.run(frame, "xdp")
            assert (done.verdict, done.data) == (PASSED["xdp"], frame)


@pytest.mark.parametrize("family", [4, 6])
def test_random_fragments_never_crash_and_open_a_connection_only_when_complete(host: Host, family: int) -> None:
    """Offsets, lengths, ends and bytes are random. A packet without a last fragment is never complete."""
    chance = random.Random(20261121 + family)
    before, connections = packets_in(host, family), len(list(host.director.connections()))
    for number in range(3000):
        size, offset = chance.choice((0, 1, 7, 8, 16, 40, 800)), chance.choice((0, 1, 2, 5, 100, 1983, 8189, 8191))
        data = Raw(chance.randbytes(size))
        ident = chance.randrange(40)
        if family == 4:
            header: Any = IP(src=CLIENT4, dst=VIP4, proto=17, id=ident, flags="MF", frag=offset)
        else:
            header = IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrFragment(nh=17, id=ident, m=1, offset=offset)
        frame = bytearray(build(ether() / header / data))
        for _ in range(chance.randrange(3)):
            if family == 6:
                frame[chance.randrange(14 + 8, len(frame))] = chance.randrange(256)
                frame[14 + 24 : 14 + 40] = socket.inet_pton(socket.AF_INET6, VIP6)
                frame[14 + 40 + 3] |= 1
        done = host.run(bytes(frame), "tc")
        assert done.verdict in (DROPPED["tc"], PASSED["tc"]), f"frame {number}: {frame.hex()}"
        assert done.verdict not in SENT["tc"]
    assert packets_in(host, family) == before
    assert len(list(host.director.connections())) == connections
