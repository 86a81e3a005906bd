"""The types of the model survive the conversion to the bytes of maps and back."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane.tables import (
    MASK32,
    address_bit,
    address_bytes,
    bitmap,
    destination_of,
    service_key,
    service_of,
    tunnel_state,
    tunnel_word,
    version_fields,
)
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

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
ports = st.integers(0, 65535)
service_keys = st.one_of(
    st.builds(ServiceKey, st.sampled_from(Protocol), addresses, ports),
    st.builds(
        ServiceKey.of_mark, st.integers(1, 0xFFFFFFFF), st.sampled_from([int(socket.AF_INET), int(socket.AF_INET6)])
    ),
)


@given(
    st.builds(
        VirtualService,
        key=service_keys,
        scheduler=st.sampled_from(["none", *SCHEDULERS]),
        flags=st.integers(0, 0x3D).map(ServiceFlag),
        timeout_s=st.integers(0, 0xFFFFFFFF),
        netmask=st.integers(0, 0xFFFFFFFF),
        engine=st.sampled_from(["", "sip"]),
    )
)
def test_a_service_comes_back_as_it_went(service: VirtualService) -> None:
    codec = abi.struct("service_version")
    raw = codec.pack(version_fields(service, 8))
    assert service_of(codec.unpack_from(raw, whole=True)) == service


@given(
    st.builds(
        Destination,
        key=st.builds(DestinationKey, addresses, ports),
        method=st.sampled_from(Method),
        weight=st.integers(0, (1 << 31) - 1),
        upper=st.integers(0, (1 << 31) - 1),
        lower=st.integers(0, (1 << 31) - 1),
        tunnel=st.builds(Tunnel, st.sampled_from(TunnelKind), ports, st.integers(0, 3).map(TunnelFlag)),
    )
)
def test_a_destination_comes_back_as_it_went(destination: Destination) -> None:
    member = (
        destination.weight,
        destination.upper,
        destination.lower,
        int(destination.method),
        tunnel_word(destination.tunnel),
    )
    address = destination.key.address
    port = socket.htons(destination.key.port)
    back = destination_of(address_bytes(address), address.version, port, *member)
    assert back == destination


def test_the_tunnel_state_has_only_gre_and_gue_and_only_the_flags_of_each() -> None:
    """With 0 a packet takes the fast path of IPIP."""
    key, both = DestinationKey(IPv4Address("10.0.0.1"), 80), TunnelFlag.CSUM | TunnelFlag.REMCSUM
    gre, gue = Tunnel(TunnelKind.GRE, flags=both), Tunnel(TunnelKind.GUE, 6080, TunnelFlag.REMCSUM)
    assert tunnel_state(Destination(key, Method.TUNNEL, tunnel=Tunnel(flags=both))) == 0
    assert tunnel_state(Destination(key, Method.ROUTE, tunnel=gue)) == 0
    assert tunnel_state(Destination(key, Method.TUNNEL, tunnel=gre)) == 2 | 1 << 2
    assert tunnel_state(Destination(key, Method.TUNNEL, tunnel=gue)) == 1 | 2 << 2 | 6080 << 4


@given(service_keys, service_keys)
def test_different_services_have_different_keys(one: ServiceKey, other: ServiceKey) -> None:
    if one.address.version == other.address.version:
        assert (service_key(one) == service_key(other)) == (one == other)


def test_keys_are_laid_out_as_packets_have_them() -> None:
    key = ServiceKey(Protocol.TCP, IPv4Address("10.0.0.1"), 80)
    assert service_key(key) == bytes([10, 0, 0, 1, 0, 80, 6, 0])
    six = ServiceKey(Protocol.UDP, IPv6Address("2001:db8::1"), 53)
    assert service_key(six) == six.address.packed + bytes([0, 53, 17, 0])
    assert len(service_key(key)) == abi.struct("service_key4").size
    assert len(service_key(six)) == abi.struct("service_key6").size


@pytest.mark.parametrize("family", [4, 6])
def test_a_sender_cannot_choose_addresses_of_the_same_bit(family: int) -> None:
    """These have the same bit by a known factor, or by the same sum of their words."""
    chance, factor = Random(2), 0x61C88647
    keys = chance.getrandbits(64) | 1, chance.getrandbits(64), chance.getrandbits(64)
    vip = [chance.getrandbits(32) for _ in range(4 if family == 6 else 1)]
    chosen = []
    for number in (chance.getrandbits(15) for _ in range(1000)):
        if family == 6:
            chosen.append([vip[0] ^ number, vip[1] ^ number, vip[2], vip[3]])
        else:
            product = vip[0] * factor & MASK32 & ~0x7FFF | number
            chosen.append([product * pow(factor, -1, 1 << 32) & MASK32])
    bit, *others = (
        address_bit(b"".join(word.to_bytes(4, "little") for word in words).ljust(16, b"\0"), family, keys)
        for words in (vip, *chosen)
    )
    assert others.count(bit) < 10


@pytest.mark.parametrize("first", [0x0A000000, 0xC6336400])
@pytest.mark.parametrize("step", [1, 256, 1 << 12])
def test_beside_10000_virtual_addresses_few_foreign_packets_need_a_lookup(first: int, step: int) -> None:
    chance = Random(1)
    keys = chance.getrandbits(64) | 1, chance.getrandbits(64), chance.getrandbits(64)
    addresses = (IPv4Address((first + number * step) % (1 << 32)).packed + bytes(12) for number in range(10_000))
    words = bitmap(((each, 4) for each in addresses), keys)
    foreign = [address_bit(IPv4Address(chance.getrandbits(32)).packed + bytes(12), 4, keys) for _ in range(20_000)]
    assert sum(words[bit >> 6] >> (bit & 63) & 1 for bit in foreign) < 2_000
