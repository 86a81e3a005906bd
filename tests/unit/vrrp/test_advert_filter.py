"""Which advertisements the kernel passes to which socket: the filters, in an interpreter and attached to sockets."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.model.addresses import Address
from pylvs.model.vrrp import OldChecksum, VrrpInstance
from pylvs.system.sockets import DROP, Instruction, attach
from pylvs.vrrp.advert_filter import (
    MOST_QUADS,
    Admission,
    Detail,
    Receiving,
    Relevant,
    everything,
    rule_of,
    unverified,
    verified,
)
from pylvs.vrrp.protocol.adverts import AH_BYTES, AH_PROTOCOL, AdvertEncoder, AdvertValidator, Datagram, InvalidAdvert
from pylvs.vrrp.sockets import protocol_of, vrid_of
from tests import classic_bpf
from tests.unit.vrrp.instances import (
    ALL,
    HERE,
    HERE_V6,
    PASS,
    PEERS,
    SEALED,
    SECOND,
    SIXTH,
    THERE,
    THERE_V6,
    THIRD,
    UNICAST,
    UNICAST_THIRD,
    held,
    without_pseudo_header,
)

OWN: dict[int, Address] = {4: HERE, 6: HERE_V6}
ELSEWHERE: dict[int, Address] = {4: ip_address("10.0.0.66"), 6: ip_address("fe80::66")}
UNICAST_SIXTH = replace(SIXTH, peers=(replace(PEERS[0], address=THERE_V6),))
STRICT = replace(UNICAST, check_source=True, peers=(replace(PEERS[0], least_ttl=254), replace(PEERS[1], most_ttl=64)))
LONG = replace(THIRD, addresses=held(*(f"10.1.0.{number}/24" for number in range(1, 40))))
INSTANCES = (*ALL, UNICAST_SIXTH, STRICT, LONG, replace(UNICAST_THIRD, old_checksum=OldChecksum.NEVER))
TRIES = 400  # changed packets of each instance


def receiving(*instances: VrrpInstance) -> Receiving:
    """Return what the sockets for instances of one family and protocol have in common."""
    first = instances[0]
    offset = AH_BYTES if protocol_of(first) == AH_PROTOCOL else 0
    vrids = {each.vrid: tuple(rule_of(other) for other in instances if other.vrid == each.vrid) for each in instances}
    return Receiving(first.family, offset, vrids, any(not each.peers for each in instances))


def passes(program: list[Instruction], packet: Datagram) -> bool:
    """Return whether the kernel passes a packet to a raw socket with this filter."""
    if packet.source.version == 4:
        return classic_bpf.run(program, packet.header + packet.payload) > 0
    fields = bytes(4) + len(packet.payload).to_bytes(2, "big") + bytes([112, packet.ttl])
    return classic_bpf.run(program, packet.payload, fields + packet.source.packed + packet.destination.packed) > 0


def packet_of(instance: VrrpInstance, priority: int = 100) -> Datagram:
    """Return an advertisement of another router to this one."""
    source = THERE if instance.family == 4 else THERE_V6
    sender = replace(instance, peers=(replace(PEERS[0], address=OWN[instance.family]),) if instance.peers else ())
    return AdvertEncoder(sender, source).packets(priority)[0]


def is_valid(instance: VrrpInstance, packet: Datagram) -> bool:
    """Return what a new validator says."""
    try:
        return AdvertValidator(instance, AdvertEncoder(instance, OWN[instance.family])).validate(packet) is not None
    except InvalidAdvert:
        return False


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda each: f"{each.version}-{each.family}-{len(each.peers)}")
def test_the_kernel_verifies_what_the_validator_verifies(instance: VrrpInstance) -> None:
    """Change right advertisements at random: each packet reaches one socket, and no invalid one the verified."""
    both = verified(receiving(instance)), unverified(receiving(instance))
    for program in both:
        classic_bpf.check(program)
    generator, right = random.Random(instance.version), packet_of(instance)
    sealed, summed = instance is SEALED, len(instance.addresses) * (4 if instance.family == 6 else 1) <= MOST_QUADS
    for number in range(TRIES):
        packet = changed(generator, right) if number else right
        sockets_reached = [passes(program, packet) for program in both]
        assert sum(sockets_reached) == (vrid_of(packet) >= 0), packet
        valid = is_valid(instance, packet)
        if vrid_of(packet) == instance.vrid and not sealed and packet.destination != ELSEWHERE[instance.family]:
            assert sockets_reached[0] or not valid, packet
            checksum_alone = instance.old_checksum is OldChecksum.NEVER or not summed
            assert valid or not sockets_reached[0] or checksum_alone or number == 0, packet
        if sealed and valid:
            assert sockets_reached[0]


def changed(generator: random.Random, right: Datagram) -> Datagram:
    """Return a packet that differs somewhere, or is the same as another router sends it."""
    payload, ttl, source, destination = bytearray(right.payload), right.ttl, right.source, right.destination
    kind = generator.randrange(6)
    if kind == 0:
        payload[generator.randrange(len(payload))] ^= 1 << generator.randrange(8)
    elif kind == 1:
        payload = payload[: generator.randrange(len(payload))]
    elif kind == 2:
        payload += bytes(4 * generator.randrange(1, 5))
    elif kind == 3:
        ttl = generator.choice((1, 63, 64, 65, 253, 254, 255))
    elif kind == 4:
        payload = bytearray(without_pseudo_header(bytes(payload)))
    else:
        payload[2:4] = generator.randbytes(2)
    header = right.header
    if header:
        header = header[:8] + bytes([ttl]) + header[9:]
    return Datagram(source, destination, ttl, right.protocol, header, bytes(payload))


@pytest.mark.parametrize(
    ("instance", "change"),
    [
        (SECOND, lambda each: replace(each, header=each.header[:16] + bytes([224, 0, 0, 19]))),
        (UNICAST, lambda each: replace(each, header=each.header[:16] + SECOND.multicast.packed)),
        (STRICT, lambda each: replace(each, header=each.header[:12] + ELSEWHERE[4].packed + each.header[16:])),
        (STRICT, lambda each: replace(each, header=each.header[:8] + b"\x40" + each.header[9:])),
        (SIXTH, lambda each: replace(each, destination=ELSEWHERE[6])),
    ],
)
def test_addresses_and_ttl(instance: VrrpInstance, change: Callable[[Datagram], Datagram]) -> None:
    right = packet_of(instance)
    assert passes(verified(receiving(instance)), right)
    assert not passes(verified(receiving(instance)), change(right))
    assert passes(unverified(receiving(instance)), change(right))


def test_a_receiver_of_unicast_alone_receives_no_multicast_of_ipv6() -> None:
    right = packet_of(SIXTH)
    assert passes(everything(6, multicast=True), right)
    for program in (everything(6, False), verified(receiving(UNICAST_SIXTH)), unverified(receiving(UNICAST_SIXTH))):
        assert not passes(program, right)


def test_the_checksum_of_old_keepalived_over_unicast() -> None:
    old = replace(UNICAST_THIRD, old_checksum=OldChecksum.ALWAYS, peers=(replace(PEERS[0], address=HERE),))
    (packet,) = AdvertEncoder(old, THERE).packets(100)
    assert passes(verified(receiving(UNICAST_THIRD)), packet)
    assert not passes(verified(receiving(replace(UNICAST_THIRD, old_checksum=OldChecksum.NEVER))), packet)


def test_behind_ip_options() -> None:
    right = packet_of(PASS)
    packet = replace(right, header=bytes([0x48]) + right.header[1:] + bytes(12))
    wrong = replace(packet, payload=packet.payload[:-2] + b"\1\0")
    assert [passes(verified(receiving(PASS)), each) for each in (packet, wrong)] == [True, False]
    assert [passes(unverified(receiving(PASS)), each) for each in (packet, wrong)] == [False, True]


def test_routers_of_one_vrid_have_alternative_rules() -> None:
    """A multicast router and a unicast one, of another version."""
    sockets = receiving(SECOND, replace(UNICAST_THIRD, vrid=SECOND.vrid))
    right = packet_of(SECOND), packet_of(replace(UNICAST_THIRD, vrid=SECOND.vrid))
    for advert in right:
        assert passes(verified(sockets), advert)
        assert not passes(unverified(sockets), advert)
    assert not passes(verified(sockets), packet_of(replace(THIRD, vrid=SECOND.vrid)))


def test_each_vrid_has_its_own_restriction() -> None:
    routers = [replace(SECOND, vrid=vrid) for vrid in (51, 52, 53)]
    restricted: Mapping[int, Admission] = {52: Relevant(100, (THERE,)), 53: False}
    program = verified(receiving(*routers), restricted)
    classic_bpf.check(program)

    def admitted(vrid: int, priority: int, source: str) -> bool:
        (made,) = AdvertEncoder(replace(SECOND, vrid=vrid), ip_address(source)).packets(priority)
        return passes(program, made)

    assert admitted(51, 1, "10.0.0.9")
    passed = [admitted(52, priority, "10.0.0.9") for priority in (0, 1, 99, 100, 101, 255)]
    assert passed == [True, False, False, True, True, True]
    assert admitted(52, 1, str(THERE)), "the master that it follows, at any priority"
    assert not admitted(53, 255, "10.0.0.9")
    assert not admitted(54, 255, "10.0.0.9")


def test_other_vrids_are_not_verified() -> None:
    foreign = packet_of(replace(SECOND, vrid=99))
    assert not passes(verified(receiving(SECOND)), foreign)
    assert passes(unverified(receiving(SECOND)), foreign)
    assert not passes(unverified(receiving(SECOND), foreign=False), foreign)
    cut = replace(packet_of(SECOND), payload=b"\x21\x33\x64")
    assert passes(unverified(receiving(SECOND), foreign=False), cut), "truncated, but of its own VRID"
    assert not passes(unverified(receiving(SECOND)), replace(cut, payload=b"\x21"))


def test_with_less_detail_the_process_verifies_the_rest() -> None:
    right = packet_of(PASS)
    no_sum = replace(right, payload=right.payload[:6] + b"\0\0" + right.payload[8:])
    no_password = replace(right, payload=right.payload[:-8] + bytes(8))
    for detail, expected in (
        (Detail.CHECKSUMS, [True, False, False]),
        (Detail.FIELDS, [True, True, False]),
        (Detail.VRIDS, [True, True, True]),
    ):
        made = verified(receiving(PASS), detail=detail), unverified(receiving(PASS), detail=detail)
        for program in made:
            classic_bpf.check(program)
        for each, passed in zip((right, no_sum, no_password), expected, strict=True):
            assert [passes(program, each) for program in made] == [passed, not passed], detail
    restricted = {PASS.vrid: Relevant(200)}
    assert passes(verified(receiving(PASS), restricted, Detail.VRIDS), right)
    assert not passes(verified(receiving(PASS), {PASS.vrid: False}, Detail.VRIDS), right)


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_takes_the_filters_of_all_vrids(family: int) -> None:
    """The least detail fits also where net.core.optmem_max is 20 KiB, with the former filter beside it."""
    kind = SECOND if family == 4 else SIXTH
    sockets = receiving(*(replace(kind, vrid=vrid) for vrid in range(1, 256)))
    restricted = {vrid: Relevant(vrid) for vrid in range(1, 256)}
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        for program in (verified(sockets, restricted, Detail.VRIDS), unverified(sockets, True, Detail.VRIDS)):
            assert len(program) < 1000
            attach(here, program)
        for detail in (Detail.FIELDS, Detail.CHECKSUMS):
            attach(here, [DROP])
            attach(here, verified(sockets, detail=detail))


def test_the_kernel_runs_the_filter_as_the_interpreter_does() -> None:
    right = packet_of(PASS)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    generator = random.Random(1)
    with here, there:
        here.setblocking(False)
        for program in (verified(receiving(PASS)), unverified(receiving(PASS))):
            attach(here, program)
            for number in range(TRIES):
                packet = changed(generator, right) if number else right
                there.send(packet.header + packet.payload)
                try:
                    taken = here.recv(2000) == packet.header + packet.payload
                except BlockingIOError:
                    taken = False
                assert taken is passes(program, packet), packet
