"""Which advertisements are valid: each error, and packets recorded from keepalived."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.vrrp import VRRP, VRRPv3

from pylvs.model.vrrp import MULTICAST_V4, Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.vrrp.protocol.adverts import (
    AH_BYTES,
    AddressMismatch,
    AdvertEncoder,
    AdvertError,
    Advertisement,
    AdvertValidator,
    Datagram,
    InvalidAdvert,
    add_ah,
    checksum,
    encode,
)
from tests.unit.vrrp.instances import (
    ALL,
    HERE,
    HERE_V6,
    PASS,
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

UNKNOWN = IPv4Address("10.0.0.77")


def datagram_from(encoder: AdvertEncoder, priority: int = 100) -> Datagram:
    """The datagram that the first destination receives."""
    return encoder.packets(priority)[0]


def pair(router: VrrpInstance) -> tuple[AdvertValidator, AdvertEncoder]:
    """A validator, and the encoder of another router with the same configuration."""
    here, there = (HERE, THERE) if router.family == 4 else (HERE_V6, THERE_V6)
    other = replace(router, peers=(Peer(here),)) if router.peers else router
    return AdvertValidator(router, AdvertEncoder(router, here)), AdvertEncoder(other, there)


def error_of(validator: AdvertValidator, datagram: Datagram) -> AdvertError:
    """Return the error of a datagram, and check that exactly this one is counted."""
    before = validator.counters.copy()
    with pytest.raises(InvalidAdvert) as dropped:
        validator.validate(datagram)
    before[dropped.value.error] += 1
    assert validator.counters == before
    assert validator.last_error is dropped.value.error
    return dropped.value.error


def with_checksum(payload: bytes) -> bytes:
    """Correct the checksum of a payload of version 2."""
    total = checksum(payload[:6] + bytes(2) + payload[8:])
    return payload[:6] + struct.pack("!H", total) + payload[8:]


@given(st.sampled_from(ALL), st.integers(0, 255))
def test_a_router_with_the_same_configuration_is_valid(router: VrrpInstance, priority: int) -> None:
    validator, other = pair(router)
    for _ in range(2):
        advert = validator.validate(datagram_from(other, priority))
        assert advert is not None
        assert (advert.version, advert.vrid, advert.priority) == (router.version, 51, priority)
        assert (advert.interval_s, advert.addresses) == (router.advert_interval_s, other.advertised)
    assert not validator.counters
    assert not validator.mismatches
    assert not validator.take_mismatches()


@pytest.mark.parametrize("router", ALL)
def test_its_own_packets_are_ignored(router: VrrpInstance) -> None:
    validator, _ = pair(router)
    own = AdvertEncoder(router, HERE if router.family == 4 else HERE_V6)
    assert validator.validate(datagram_from(own)) is None
    assert not validator.counters


@pytest.mark.parametrize("router", ALL)
def test_a_packet_truncated_anywhere_is_dropped(router: VrrpInstance) -> None:
    validator, other = pair(router)
    whole = datagram_from(other)
    for end in range(len(whole.payload)):
        error = error_of(validator, replace(whole, payload=whole.payload[:end]))
        whole_ah = router is SEALED and end >= AH_BYTES
        assert error is (AdvertError.DIGEST if whole_ah else AdvertError.TRUNCATED)
    assert error_of(validator, replace(whole, payload=whole.payload + bytes(4))) is (
        AdvertError.DIGEST if router is SEALED else AdvertError.TRAILING
    )


@given(st.sampled_from(ALL), st.data())
def test_a_packet_with_one_changed_bit_is_dropped(router: VrrpInstance, data: st.DataObject) -> None:
    validator, other = pair(router)
    whole = datagram_from(other)
    at = data.draw(st.integers(0, 8 * len(whole.payload) - 1))
    changed = bytearray(whole.payload)
    changed[at // 8] ^= 1 << at % 8
    error_of(validator, replace(whole, payload=bytes(changed)))


@given(st.sampled_from(ALL), st.binary(max_size=120), st.integers(0, 255))
def test_random_bytes_are_dropped_with_an_error(router: VrrpInstance, noise: bytes, ttl: int) -> None:
    validator, other = pair(router)
    error_of(validator, replace(datagram_from(other), payload=noise, ttl=ttl))


def changed(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Change one byte of a payload, and correct its checksum."""
    return lambda payload: with_checksum(payload[:offset] + bytes((value,)) + payload[offset + 1 :])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (changed(0, 0x31), AdvertError.VERSION),
        (changed(0, 0x41), AdvertError.VERSION),
        (changed(0, 0x22), AdvertError.TYPE),
        (changed(1, 52), AdvertError.VRID),
        (changed(3, 1), AdvertError.TRAILING),
        (changed(3, 3), AdvertError.TRUNCATED),
        (changed(4, 1), AdvertError.AUTHENTICATION),
        (changed(4, 3), AdvertError.AUTHENTICATION),
        (changed(5, 2), AdvertError.INTERVAL),
        (changed(5, 0), AdvertError.INTERVAL),
        (lambda payload: payload[:6] + b"\1\1" + payload[8:], AdvertError.CHECKSUM),
    ],
)
def test_each_error_of_a_payload(change: Callable[[bytes], bytes], error: AdvertError) -> None:
    validator, other = pair(SECOND)
    whole = datagram_from(other)
    assert error_of(validator, replace(whole, payload=change(whole.payload))) is error


@pytest.mark.parametrize("router", [SECOND, THIRD, SIXTH, SEALED])
@pytest.mark.parametrize("ttl", [0, 1, 254])
def test_multicast_needs_a_ttl_of_255(router: VrrpInstance, ttl: int) -> None:
    validator, other = pair(router)
    assert error_of(validator, replace(datagram_from(other), ttl=ttl)) is AdvertError.TTL


def test_unicast_needs_a_ttl_within_the_limits_of_the_peer() -> None:
    validator, other = pair(UNICAST)
    assert validator.validate(replace(datagram_from(other), ttl=1))
    near = replace(UNICAST, peers=(Peer(THERE, least_ttl=250, most_ttl=254),))
    validator, other = pair(near)
    for ttl, good in ((249, False), (250, True), (254, True), (255, False)):
        datagram = replace(datagram_from(other), ttl=ttl)
        if good:
            assert validator.validate(datagram)
        else:
            assert error_of(validator, datagram) is AdvertError.TTL


def test_an_unknown_source_is_valid_unless_check_unicast_src_is_set() -> None:
    datagram = datagram_from(AdvertEncoder(replace(UNICAST, peers=(Peer(HERE),)), UNKNOWN))
    assert pair(UNICAST)[0].validate(datagram)
    assert error_of(pair(replace(UNICAST, check_source=True))[0], datagram) is AdvertError.SOURCE


def test_multicast_and_unicast_routers_drop_each_other_s_packets() -> None:
    for ours, theirs in ((UNICAST, SECOND), (SECOND, UNICAST)):
        assert error_of(pair(ours)[0], datagram_from(pair(theirs)[1])) is AdvertError.DESTINATION


@pytest.mark.parametrize("ours", [SECOND, PASS, SEALED])
@pytest.mark.parametrize("theirs", [SECOND, PASS, SEALED])
def test_another_authentication_is_an_error(ours: VrrpInstance, theirs: VrrpInstance) -> None:
    datagram = datagram_from(pair(theirs)[1])
    if ours is not theirs:
        assert error_of(pair(ours)[0], datagram) is AdvertError.AUTHENTICATION


def test_ah_with_version_3_and_version_2_without_ah_are_errors() -> None:
    datagram = datagram_from(pair(SEALED)[1])
    assert error_of(pair(THIRD)[0], datagram) is AdvertError.AUTHENTICATION
    inner = replace(datagram, payload=datagram.payload[AH_BYTES:], protocol=112)
    assert error_of(pair(SEALED)[0], inner) is AdvertError.AUTHENTICATION


def test_another_password_is_an_error() -> None:
    for password in b"secreT", b"", b"secret12":
        other = AdvertEncoder(replace(PASS, password=password), THERE)
        assert error_of(pair(PASS)[0], datagram_from(other)) is AdvertError.PASSWORD
        other = AdvertEncoder(replace(SEALED, password=password), THERE)
        assert error_of(pair(SEALED)[0], datagram_from(other)) is AdvertError.DIGEST


def test_a_password_has_at_most_eight_bytes() -> None:
    for router in PASS, SEALED:
        validator, other = pair(replace(router, password=b"12345678"))
        assert validator.validate(datagram_from(other))


def test_a_replayed_packet_is_dropped_and_senders_have_separate_windows() -> None:
    validator, other = pair(SEALED)
    first, second = datagram_from(other), datagram_from(other)
    assert validator.validate(second)
    assert error_of(validator, first) is AdvertError.REPLAYED
    assert error_of(validator, second) is AdvertError.REPLAYED
    assert validator.validate(datagram_from(AdvertEncoder(SEALED, UNKNOWN)))
    later = AdvertValidator(SEALED, AdvertEncoder(SEALED, HERE), before=validator)
    assert error_of(later, second) is AdvertError.REPLAYED
    assert later.counters[AdvertError.REPLAYED] == 3


def test_a_forged_number_does_not_lock_the_sender_out() -> None:
    validator, other = pair(SEALED)
    good = datagram_from(other)
    header = good.header
    forged = replace(good, payload=add_ah(header, good.payload[AH_BYTES:], b"other", 0xFFFFFFFF))
    assert error_of(validator, forged) is AdvertError.DIGEST
    assert validator.validate(good)


def test_our_sequence_number_exceeds_a_received_one() -> None:
    """keepalived drops a number that is not greater than the last one of any sender."""
    ours = AdvertEncoder(SEALED, HERE)
    AdvertValidator(SEALED, ours).validate(datagram_from(AdvertEncoder(SEALED, THERE, sequence=500)))
    ours.packets(100)
    assert ours.sequence == 502


def test_a_restart_after_the_clock_was_set_back_heals_when_a_peer_takes_over() -> None:
    """The first number is the clock. The peer drops what looks replayed, becomes master, and sends."""
    there = AdvertEncoder(SEALED, THERE)
    peer = AdvertValidator(SEALED, there)
    assert peer.validate(datagram_from(AdvertEncoder(SEALED, HERE, sequence=1_000_000)))
    restarted = AdvertEncoder(SEALED, HERE, sequence=5)
    assert error_of(peer, datagram_from(restarted)) is AdvertError.REPLAYED
    assert AdvertValidator(SEALED, restarted).validate(datagram_from(there))
    assert peer.validate(datagram_from(restarted))


def test_version_3_adopts_another_interval_and_version_2_drops_it() -> None:
    validator, _ = pair(THIRD)
    other = AdvertEncoder(replace(THIRD, advert_interval_s=2.0), THERE)
    advert = validator.validate(datagram_from(other))
    assert advert is not None
    assert advert.interval_s == 2.0
    assert (
        error_of(validator, datagram_from(AdvertEncoder(replace(THIRD, advert_interval_s=0.0), THERE)))
        is AdvertError.INTERVAL
    )
    assert (
        error_of(pair(SECOND)[0], datagram_from(AdvertEncoder(replace(SECOND, advert_interval_s=2.0), THERE)))
        is AdvertError.INTERVAL
    )


def test_an_owner_s_priority_is_valid() -> None:
    validator, other = pair(SECOND)
    advert = validator.validate(datagram_from(other, 255))
    assert advert is not None
    assert advert.priority == 255


@pytest.mark.parametrize("old", list(OldChecksum))
def test_the_old_checksum_is_accepted_and_adopted_unless_it_is_disabled(old: OldChecksum) -> None:
    router = replace(UNICAST_THIRD, old_checksum=old)
    encoder = AdvertEncoder(router, HERE)
    validator = AdvertValidator(router, encoder)
    theirs = datagram_from(AdvertEncoder(replace(router, peers=(Peer(HERE),), old_checksum=OldChecksum.ALWAYS), THERE))
    if old is OldChecksum.NEVER:
        assert error_of(validator, theirs) is AdvertError.CHECKSUM
    else:
        assert validator.validate(theirs)
    assert encoder.old_checksum is (old is not OldChecksum.NEVER)


def test_the_old_checksum_of_an_unknown_source_is_not_adopted() -> None:
    encoder = AdvertEncoder(UNICAST_THIRD, HERE)
    theirs = AdvertEncoder(replace(UNICAST_THIRD, peers=(Peer(HERE),), old_checksum=OldChecksum.ALWAYS), UNKNOWN)
    assert AdvertValidator(UNICAST_THIRD, encoder).validate(datagram_from(theirs))
    assert not encoder.old_checksum


def test_a_checksum_without_pseudo_header_is_an_error_where_old_ones_are_disabled() -> None:
    advert = Advertisement(3, 51, 100, 0.5, (ip_address("10.0.0.100"),))
    bare = without_pseudo_header(encode(advert, THERE, HERE))
    router = replace(UNICAST_THIRD, old_checksum=OldChecksum.NEVER)
    assert error_of(pair(router)[0], Datagram(THERE, HERE, 255, 112, b"", bare)) is AdvertError.CHECKSUM


def test_other_addresses_are_valid_and_reported_once_for_each_change() -> None:
    validator, same = pair(SECOND)
    other = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100", "10.0.0.102")), THERE)
    lost, more = (IPv4Address("10.0.0.101"),), (IPv4Address("10.0.0.102"),)
    for _ in range(3):
        assert validator.validate(datagram_from(other))
    expected = AddressMismatch(THERE, lost, more)
    assert validator.take_mismatches() == [expected]
    assert validator.mismatches == {THERE: expected}
    assert str(expected) == ("10.0.0.2 has other virtual addresses: it lacks 10.0.0.101 and has besides 10.0.0.102")
    validator = AdvertValidator(SECOND, AdvertEncoder(SECOND, HERE), before=validator)
    assert validator.validate(datagram_from(other))
    assert validator.take_mismatches() == []
    fewer = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), THERE)
    for _ in range(3):
        assert validator.validate(datagram_from(fewer))
    assert validator.take_mismatches() == [AddressMismatch(THERE, lost, ())]
    assert validator.validate(datagram_from(same))
    (mismatch,) = validator.take_mismatches()
    assert str(mismatch) == "10.0.0.2 has the same virtual addresses again"
    assert validator.mismatches == {}
    assert not validator.counters


def test_order_does_not_matter() -> None:
    validator, _ = pair(SECOND)
    assert validator.validate(datagram_from(AdvertEncoder(replace(SECOND, addresses=SECOND.addresses[::-1]), THERE)))
    assert validator.take_mismatches() == []


def test_with_skip_check_adv_addr_only_the_first_of_a_router_is_compared() -> None:
    validator, same = pair(replace(SECOND, skip_address_check=True))
    other = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), THERE)
    assert validator.validate(datagram_from(same))
    assert validator.validate(datagram_from(other))
    assert validator.take_mismatches() == []
    unknown = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), UNKNOWN)
    assert validator.validate(datagram_from(unknown))
    assert [mismatch.sender for mismatch in validator.take_mismatches()] == [UNKNOWN]


def test_many_senders_use_bounded_memory() -> None:
    validator, _ = pair(SECOND)
    router = replace(SECOND, addresses=held("10.0.0.9"))
    for number in range(2000):
        assert validator.validate(datagram_from(AdvertEncoder(router, IPv4Address(0x0B000000 + number))))
    assert len(validator.mismatches) <= 256
    assert len(validator.take_mismatches()) <= 256


@given(st.integers(0, 255), st.lists(st.ip_addresses(v=4), max_size=20), st.sampled_from((2, 3)))
def test_packets_from_scapy_are_valid(priority: int, addresses: list[IPv4Address], version: int) -> None:
    texts = [str(address) for address in addresses]
    layer = (
        VRRP(version=2, vrid=51, priority=priority, adv=1, authtype=0, addrlist=texts)
        if version == 2
        else VRRPv3(vrid=51, priority=priority, adv=50, addrlist=texts)
    )
    packet = bytes(IP(src=str(THERE), dst=str(MULTICAST_V4), ttl=255, proto=112) / layer)
    validator, _ = pair(SECOND if version == 2 else THIRD)
    advert = validator.validate(Datagram(THERE, MULTICAST_V4, 255, 112, packet[:20], packet[20:]))
    assert advert is not None
    assert (advert.priority, advert.addresses, advert.authentication) == (priority, tuple(addresses), None)
    missing = tuple(one.interface.ip for one in SECOND.addresses if one.interface.ip not in addresses)
    surplus = tuple(sorted(set(addresses) - {one.interface.ip for one in SECOND.addresses}))
    assert validator.mismatches == ({THERE: AddressMismatch(THERE, missing, surplus)} if missing or surplus else {})


def test_packets_with_ah_from_keepalived_are_valid() -> None:
    """Recorded from 2.2.7."""
    whole = bytes.fromhex(
        "45c0004400010000ff33d0b20a000001e0000012700400000a00000100000001172c2ea8c3d1b01d5330f327"
        "21339602020132000a0000640a0000650000000000000000"
    )
    validator = AdvertValidator(SEALED, AdvertEncoder(SEALED, THERE))
    advert = validator.validate(Datagram(HERE, MULTICAST_V4, 255, 51, whole[:20], whole[20:]))
    assert advert is not None
    assert (advert.priority, advert.authentication) == (150, Authentication.AH)
