"""Advertisements as packets, compared with scapy's parser."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.ipsec import AH
from scapy.layers.vrrp import VRRP, VRRPv3

from pylvs.model.vrrp import MULTICAST_V6, OldChecksum, VrrpInstance
from pylvs.vrrp.protocol.adverts import (
    AdvertEncoder,
    Datagram,
    advertised_addresses,
    checksum,
    decode,
    has_pseudo_header,
    verify_ah,
)
from tests.unit.vrrp.instances import HERE, HERE_V6, PASS, PEERS, SEALED, SECOND, SIXTH, THIRD, held


def whole(packet: Datagram) -> bytes:
    return packet.header + packet.payload


@given(st.sampled_from((SECOND, PASS, THIRD)), st.integers(0, 255))
def test_scapy_parses_every_field_and_checksum(router: VrrpInstance, priority: int) -> None:
    (sent,) = AdvertEncoder(router, HERE).packets(priority)
    read = IP(whole(sent))
    layer = read[VRRP] if router.version == 2 else read[VRRPv3]
    assert (read.src, read.dst, read.ttl, read.tos, read.proto) == ("10.0.0.1", "224.0.0.18", 255, 0xC0, 112)
    assert (layer.vrid, layer.priority) == (51, priority)
    assert layer.addrlist == ["10.0.0.100", "10.0.0.101"]
    assert read.len == len(whole(sent)) == len(bytes(read))
    checksums = read.chksum, layer.chksum
    for one in read, layer:
        del one.chksum
    again = IP(bytes(read))
    assert checksums == (again.chksum, (again[VRRP] if router.version == 2 else again[VRRPv3]).chksum)


@given(st.integers(0, 255), st.integers(0, 0xFFFFFFFE))
def test_scapy_parses_the_authentication_header(priority: int, sequence: int) -> None:
    (sent,) = AdvertEncoder(SEALED, HERE, sequence=sequence).packets(priority)
    read = IP(whole(sent))
    assert (read.proto, read[AH].nh, read[AH].seq, read[AH].spi) == (51, 112, sequence + 1, int(HERE))
    assert verify_ah(sent.header, sent.payload, b"secret") == (sequence + 1, sent.payload[24:])
    assert decode(sent.payload[24:], HERE, SEALED.multicast).priority == priority


def test_an_ipv6_packet_has_no_ip_header() -> None:
    (sent,) = AdvertEncoder(SIXTH, HERE_V6).packets(7)
    assert (sent.source, sent.destination, sent.ttl) == (HERE_V6, MULTICAST_V6, 255)
    advert = decode(sent.payload, HERE_V6, MULTICAST_V6)
    assert (advert.vrid, advert.priority, advert.interval_s) == (51, 7, 0.5)
    assert advert.addresses == (ip_address("fe80::100"), ip_address("fd00::100"))


def test_each_peer_gets_its_own_packet_with_the_same_sequence_number() -> None:
    encoder = AdvertEncoder(replace(SEALED, peers=PEERS, unicast_ttl=64), HERE)
    for number in 1, 2:
        sent = encoder.packets(100)
        assert [one.destination for one in sent] == [peer.address for peer in PEERS]
        for one in sent:
            read = IP(whole(one))
            assert (read.dst, read.ttl, read.id, read[AH].seq) == (str(one.destination), 64, number, number)
            assert verify_ah(one.header, one.payload, b"secret")[0] == number


def test_numbers_wrap_around_to_one() -> None:
    encoder = AdvertEncoder(SEALED, HERE, sequence=0xFFFFFFFE)
    sent = [whole(encoder.packets(1)[0]) for _ in range(0x10001)]
    assert [IP(packet)[AH].seq for packet in sent[:3]] == [0xFFFFFFFF, 1, 2]
    assert [IP(sent[at]).id for at in (0, 0xFFFE, 0xFFFF)] == [1, 0xFFFF, 1]
    assert all(checksum(packet[:20]) == 0 for packet in sent)


def test_its_sequence_number_exceeds_received_and_former_ones() -> None:
    encoder = AdvertEncoder(SEALED, HERE, sequence=5)
    encoder.advance_sequence(90)
    encoder.advance_sequence(70)
    assert IP(whole(encoder.packets(1)[0]))[AH].seq == 91
    later = AdvertEncoder(SEALED, IPv4Address("10.0.0.9"), before=encoder)
    assert IP(whole(later.packets(1)[0]))[AH].seq == 92


def test_a_jump_of_the_wall_clock_does_not_change_its_sequence_numbers() -> None:
    """Or a later start, after the clock was corrected, would use numbers that the peers have seen."""
    later = AdvertEncoder(SEALED, HERE, sequence=2_000_000_000, before=AdvertEncoder(SEALED, HERE, sequence=5))
    assert IP(whole(later.packets(1)[0]))[AH].seq == 6


@pytest.mark.parametrize("old", list(OldChecksum))
def test_the_old_checksum_of_unicast_covers_the_multicast_group(old: OldChecksum) -> None:
    router = replace(THIRD, peers=PEERS[:1], old_checksum=old)
    encoder = AdvertEncoder(router, HERE)
    body = encoder.packets(100)[0].payload
    covered = router.multicast if old is OldChecksum.ALWAYS else PEERS[0].address
    assert has_pseudo_header(body, HERE, covered)
    encoder.old_checksum = True
    assert has_pseudo_header(encoder.packets(100)[0].payload, HERE, router.multicast)
    for later in OldChecksum:
        again = AdvertEncoder(replace(router, old_checksum=later), HERE, before=encoder)
        assert again.old_checksum is (later is not OldChecksum.NEVER)


@pytest.mark.parametrize(
    ("router", "mtu", "most"),
    [
        (SECOND, 600, 137),
        (SEALED, 600, 131),
        (THIRD, 600, 139),
        (THIRD, 9000, 255),
        (SIXTH, 1500, 89),
        (SIXTH, 1280, 76),
    ],
)
def test_the_number_of_advertised_addresses_is_keepalived_s(router: VrrpInstance, mtu: int, most: int) -> None:
    """The limits that keepalived 2.2.7 prints."""
    many = [f"10.0.{n // 250}.{n % 250}/32" if router.family == 4 else f"fd00::{n:x}/128" for n in range(300)]
    full = replace(router, addresses=held(*many))
    assert advertised_addresses(full, mtu) == tuple(one.interface.ip for one in full.addresses[:most])
    (sent,) = AdvertEncoder(full, HERE if router.family == 4 else HERE_V6, mtu).packets(1)
    assert len(whole(sent)) + (40 if router.family == 6 else 0) <= mtu


def test_addresses_of_the_other_family_are_not_advertised() -> None:
    assert advertised_addresses(replace(THIRD, addresses=held("fd00::1/64", "10.0.0.1/24"))) == (
        ip_address("10.0.0.1"),
    )
