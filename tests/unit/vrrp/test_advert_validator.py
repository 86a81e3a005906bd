"""What counts and what does not: every flaw by its name, and packets of keepalived's as they come."""

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
from pylvs.vrrp.protocol.adverts import AddressMismatch, AdvertEncoder, AdvertValidator, LogRateLimiter
from pylvs.vrrp.protocol.packet import (
    AH_BYTES,
    AdvertError,
    Advertisement,
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
)

STRANGER = IPv4Address("10.0.0.77")


def said_by(voice: AdvertEncoder, priority: int = 100) -> Datagram:
    """What the first of those it speaks to gets."""
    out = voice.packets(priority)[0]
    if out.source.version == 6:
        return Datagram(out.source, out.destination, out.hops, 112, b"", out.packet)
    header, payload = out.packet[:20], out.packet[20:]
    return Datagram(out.source, out.destination, header[8], header[9], header, payload)


def pair(router: VrrpInstance) -> tuple[AdvertValidator, AdvertEncoder]:
    """This one's screen, and the voice of another router that is told the same."""
    here, there = (HERE, THERE) if router.family == 4 else (HERE_V6, THERE_V6)
    other = replace(router, peers=(Peer(here),)) if router.peers else router
    return AdvertValidator(router, AdvertEncoder(router, here)), AdvertEncoder(other, there)


def flaw_of(screen: AdvertValidator, datagram: Datagram) -> AdvertError:
    """Why it is dropped: counted once, and nothing else is."""
    before = screen.counters.copy()
    with pytest.raises(InvalidAdvert) as dropped:
        screen.validate(datagram)
    before[dropped.value.error] += 1
    assert screen.counters == before
    return dropped.value.error


def summed(payload: bytes) -> bytes:
    """Of version 2, with its checksum made right again."""
    total = checksum(payload[:6] + bytes(2) + payload[8:])
    return payload[:6] + struct.pack("!H", total) + payload[8:]


@given(st.sampled_from(ALL), st.integers(0, 255))
def test_another_router_that_is_told_the_same_is_heard(router: VrrpInstance, priority: int) -> None:
    screen, other = pair(router)
    for _ in range(2):
        told = screen.validate(said_by(other, priority))
        assert told is not None
        assert (told.version, told.vrid, told.priority) == (router.version, 51, priority)
        assert (told.interval_s, told.addresses) == (router.advert_interval_s, other.advertised)
    assert not screen.counters
    assert not screen.mismatches
    assert not screen.take_mismatches()


@pytest.mark.parametrize("router", ALL)
def test_its_own_packets_that_come_back_are_nothing(router: VrrpInstance) -> None:
    screen, _ = pair(router)
    own = AdvertEncoder(router, HERE if router.family == 4 else HERE_V6)
    assert screen.validate(said_by(own)) is None
    assert not screen.counters


@pytest.mark.parametrize("router", ALL)
def test_cut_anywhere_it_is_dropped(router: VrrpInstance) -> None:
    screen, other = pair(router)
    whole = said_by(other)
    for end in range(len(whole.payload)):
        flaw = flaw_of(screen, replace(whole, payload=whole.payload[:end]))
        sealed_whole = router is SEALED and end >= AH_BYTES
        assert flaw is (AdvertError.DIGEST if sealed_whole else AdvertError.TRUNCATED)
    assert flaw_of(screen, replace(whole, payload=whole.payload + bytes(4))) is (
        AdvertError.DIGEST if router is SEALED else AdvertError.TRAILING
    )


@given(st.sampled_from(ALL), st.data())
def test_no_changed_bit_is_believed(router: VrrpInstance, data: st.DataObject) -> None:
    screen, other = pair(router)
    whole = said_by(other)
    at = data.draw(st.integers(0, 8 * len(whole.payload) - 1))
    changed = bytearray(whole.payload)
    changed[at // 8] ^= 1 << at % 8
    flaw_of(screen, replace(whole, payload=bytes(changed)))


@given(st.sampled_from(ALL), st.binary(max_size=120), st.integers(0, 255))
def test_noise_is_dropped_by_a_name(router: VrrpInstance, noise: bytes, ttl: int) -> None:
    screen, other = pair(router)
    flaw_of(screen, replace(said_by(other), payload=noise, ttl=ttl))


def changed(offset: int, value: int) -> Callable[[bytes], bytes]:
    """One byte of the payload, and the checksum after it."""
    return lambda payload: summed(payload[:offset] + bytes((value,)) + payload[offset + 1 :])


@pytest.mark.parametrize(
    ("change", "flaw"),
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
def test_each_flaw_of_a_payload_has_its_name(change: Callable[[bytes], bytes], flaw: AdvertError) -> None:
    screen, other = pair(SECOND)
    whole = said_by(other)
    assert flaw_of(screen, replace(whole, payload=change(whole.payload))) is flaw


@pytest.mark.parametrize("router", [SECOND, THIRD, SIXTH, SEALED])
@pytest.mark.parametrize("ttl", [0, 1, 254])
def test_multicast_comes_with_a_ttl_of_255_or_through_a_router(router: VrrpInstance, ttl: int) -> None:
    screen, other = pair(router)
    assert flaw_of(screen, replace(said_by(other), ttl=ttl)) is AdvertError.TTL


def test_unicast_may_come_from_far_unless_the_peer_is_told_to_be_near() -> None:
    screen, other = pair(UNICAST)
    assert screen.validate(replace(said_by(other), ttl=1))
    near = replace(UNICAST, peers=(Peer(THERE, least_ttl=250, most_ttl=254),))
    screen, other = pair(near)
    for ttl, good in ((249, False), (250, True), (254, True), (255, False)):
        datagram = replace(said_by(other), ttl=ttl)
        if good:
            assert screen.validate(datagram)
        else:
            assert flaw_of(screen, datagram) is AdvertError.TTL


def test_a_stranger_is_heard_unless_sources_are_checked() -> None:
    datagram = said_by(AdvertEncoder(replace(UNICAST, peers=(Peer(HERE),)), STRANGER))
    assert pair(UNICAST)[0].validate(datagram)
    assert flaw_of(pair(replace(UNICAST, check_source=True))[0], datagram) is AdvertError.SOURCE


def test_multicast_and_unicast_routers_do_not_hear_each_other() -> None:
    for ours, theirs in ((UNICAST, SECOND), (SECOND, UNICAST)):
        assert flaw_of(pair(ours)[0], said_by(pair(theirs)[1])) is AdvertError.DESTINATION


@pytest.mark.parametrize("ours", [SECOND, PASS, SEALED])
@pytest.mark.parametrize("theirs", [SECOND, PASS, SEALED])
def test_another_kind_of_authentication_is_named(ours: VrrpInstance, theirs: VrrpInstance) -> None:
    datagram = said_by(pair(theirs)[1])
    if ours is not theirs:
        assert flaw_of(pair(ours)[0], datagram) is AdvertError.AUTHENTICATION


def test_ah_around_version_3_or_around_nothing_is_named() -> None:
    datagram = said_by(pair(SEALED)[1])
    assert flaw_of(pair(THIRD)[0], datagram) is AdvertError.AUTHENTICATION
    inner = replace(datagram, payload=datagram.payload[AH_BYTES:], protocol=112)
    assert flaw_of(pair(SEALED)[0], inner) is AdvertError.AUTHENTICATION


def test_another_password_is_named() -> None:
    for password in b"secreT", b"", b"secret12":
        other = AdvertEncoder(replace(PASS, password=password), THERE)
        assert flaw_of(pair(PASS)[0], said_by(other)) is AdvertError.PASSWORD
        other = AdvertEncoder(replace(SEALED, password=password), THERE)
        assert flaw_of(pair(SEALED)[0], said_by(other)) is AdvertError.DIGEST


def test_no_more_than_eight_octets_of_a_password_count() -> None:
    for router in PASS, SEALED:
        screen, other = pair(replace(router, password=b"12345678"))
        assert screen.validate(said_by(other))


def test_what_is_replayed_is_dropped_and_everyone_has_numbers_of_his_own() -> None:
    screen, other = pair(SEALED)
    first, second = said_by(other), said_by(other)
    assert screen.validate(second)
    assert flaw_of(screen, first) is AdvertError.REPLAYED
    assert flaw_of(screen, second) is AdvertError.REPLAYED
    assert screen.validate(said_by(AdvertEncoder(SEALED, STRANGER)))
    later = AdvertValidator(SEALED, AdvertEncoder(SEALED, HERE), before=screen)
    assert flaw_of(later, second) is AdvertError.REPLAYED
    assert later.counters[AdvertError.REPLAYED] == 3


def test_a_forged_number_does_not_lock_the_sender_out() -> None:
    screen, other = pair(SEALED)
    good = said_by(other)
    header = good.header
    forged = replace(good, payload=add_ah(header, good.payload[AH_BYTES:], b"other", 0xFFFFFFFF))
    assert flaw_of(screen, forged) is AdvertError.DIGEST
    assert screen.validate(good)


def test_after_a_number_was_heard_our_own_is_greater() -> None:
    """keepalived takes from nobody a number that is not greater than the last that anybody used."""
    ours = AdvertEncoder(SEALED, HERE)
    AdvertValidator(SEALED, ours).validate(said_by(AdvertEncoder(SEALED, THERE, sequence=500)))
    ours.packets(100)
    assert ours.sequence == 502


def test_version_3_takes_over_another_interval_and_version_2_does_not() -> None:
    screen, _ = pair(THIRD)
    other = AdvertEncoder(replace(THIRD, advert_interval_s=2.0), THERE)
    told = screen.validate(said_by(other))
    assert told is not None
    assert told.interval_s == 2.0
    assert flaw_of(screen, said_by(AdvertEncoder(replace(THIRD, advert_interval_s=0.0), THERE))) is AdvertError.INTERVAL
    assert (
        flaw_of(pair(SECOND)[0], said_by(AdvertEncoder(replace(SECOND, advert_interval_s=2.0), THERE)))
        is AdvertError.INTERVAL
    )


def test_an_owners_priority_counts_whoever_has_it() -> None:
    screen, other = pair(SECOND)
    told = screen.validate(said_by(other, 255))
    assert told is not None
    assert told.priority == 255


@pytest.mark.parametrize("old", list(OldChecksum))
def test_the_old_checksum_is_taken_and_answered_unless_it_must_never_be(old: OldChecksum) -> None:
    router = replace(UNICAST_THIRD, old_checksum=old)
    voice = AdvertEncoder(router, HERE)
    screen = AdvertValidator(router, voice)
    theirs = said_by(AdvertEncoder(replace(router, peers=(Peer(HERE),), old_checksum=OldChecksum.ALWAYS), THERE))
    if old is OldChecksum.NEVER:
        assert flaw_of(screen, theirs) is AdvertError.CHECKSUM
    else:
        assert screen.validate(theirs)
    assert voice.old_checksum is (old is not OldChecksum.NEVER)


def test_a_strangers_old_checksum_does_not_change_our_own() -> None:
    voice = AdvertEncoder(UNICAST_THIRD, HERE)
    theirs = AdvertEncoder(replace(UNICAST_THIRD, peers=(Peer(HERE),), old_checksum=OldChecksum.ALWAYS), STRANGER)
    assert AdvertValidator(UNICAST_THIRD, voice).validate(said_by(theirs))
    assert not voice.old_checksum


def test_a_checksum_without_pseudo_header_is_never_taken_where_old_ones_are_not() -> None:
    told = Advertisement(3, 51, 100, 0.5, (ip_address("10.0.0.100"),))
    bare = encode(told, THERE, HERE, pseudo=False)
    router = replace(UNICAST_THIRD, old_checksum=OldChecksum.NEVER)
    assert flaw_of(pair(router)[0], Datagram(THERE, HERE, 255, 112, b"", bare)) is AdvertError.CHECKSUM


def test_other_addresses_count_and_are_told_once_for_each_change() -> None:
    screen, same = pair(SECOND)
    other = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100", "10.0.0.102")), THERE)
    lost, more = (IPv4Address("10.0.0.101"),), (IPv4Address("10.0.0.102"),)
    for _ in range(3):
        assert screen.validate(said_by(other))
    expected = AddressMismatch(THERE, lost, more)
    assert screen.take_mismatches() == [expected]
    assert screen.mismatches == {THERE: expected}
    assert str(expected) == ("10.0.0.2 has other virtual addresses: it lacks 10.0.0.101 and has besides 10.0.0.102")
    screen = AdvertValidator(SECOND, AdvertEncoder(SECOND, HERE), before=screen)
    assert screen.validate(said_by(other))
    assert screen.take_mismatches() == []
    fewer = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), THERE)
    for _ in range(3):
        assert screen.validate(said_by(fewer))
    assert screen.take_mismatches() == [AddressMismatch(THERE, lost, ())]
    assert screen.validate(said_by(same))
    (news,) = screen.take_mismatches()
    assert str(news) == "10.0.0.2 has the same virtual addresses again"
    assert screen.mismatches == {}
    assert not screen.counters


def test_order_does_not_matter() -> None:
    screen, _ = pair(SECOND)
    assert screen.validate(said_by(AdvertEncoder(replace(SECOND, addresses=SECOND.addresses[::-1]), THERE)))
    assert screen.take_mismatches() == []


def test_with_skip_check_adv_addr_only_the_first_of_a_router_is_compared() -> None:
    screen, same = pair(replace(SECOND, skip_address_check=True))
    other = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), THERE)
    assert screen.validate(said_by(same))
    assert screen.validate(said_by(other))
    assert screen.take_mismatches() == []
    stranger = AdvertEncoder(replace(SECOND, addresses=held("10.0.0.100")), STRANGER)
    assert screen.validate(said_by(stranger))
    assert [news.sender for news in screen.take_mismatches()] == [STRANGER]


def test_ten_thousand_senders_do_not_fill_the_memory() -> None:
    screen, _ = pair(SECOND)
    router = replace(SECOND, addresses=held("10.0.0.9"))
    for number in range(2000):
        assert screen.validate(said_by(AdvertEncoder(router, IPv4Address(0x0B000000 + number))))
    assert len(screen.mismatches) <= 256
    assert len(screen.take_mismatches()) <= 256


@given(st.integers(0, 255), st.lists(st.ip_addresses(v=4), max_size=20), st.sampled_from((2, 3)))
def test_what_scapy_makes_is_heard(priority: int, addresses: list[IPv4Address], version: int) -> None:
    told_by_scapy = [str(address) for address in addresses]
    layer = (
        VRRP(version=2, vrid=51, priority=priority, adv=1, authtype=0, addrlist=told_by_scapy)
        if version == 2
        else VRRPv3(vrid=51, priority=priority, adv=50, addrlist=told_by_scapy)
    )
    made = bytes(IP(src=str(THERE), dst=str(MULTICAST_V4), ttl=255, proto=112) / layer)
    screen, _ = pair(SECOND if version == 2 else THIRD)
    told = screen.validate(Datagram(THERE, MULTICAST_V4, 255, 112, made[:20], made[20:]))
    assert told is not None
    assert (told.priority, told.addresses, told.authentication) == (priority, tuple(addresses), None)
    missing = tuple(one.interface.ip for one in SECOND.addresses if one.interface.ip not in addresses)
    surplus = tuple(sorted(set(addresses) - {one.interface.ip for one in SECOND.addresses}))
    assert screen.mismatches == ({THERE: AddressMismatch(THERE, missing, surplus)} if missing or surplus else {})


def test_what_keepalived_sealed_is_heard() -> None:
    """Recorded from 2.2.7."""
    whole = bytes.fromhex(
        "45c0004400010000ff33d0b20a000001e0000012700400000a00000100000001172c2ea8c3d1b01d5330f327"
        "21339602020132000a0000640a0000650000000000000000"
    )
    screen = AdvertValidator(SEALED, AdvertEncoder(SEALED, THERE))
    told = screen.validate(Datagram(HERE, MULTICAST_V4, 255, 51, whole[:20], whole[20:]))
    assert told is not None
    assert (told.priority, told.authentication) == (150, Authentication.AH)


def test_one_line_of_each_kind_in_a_minute() -> None:
    grumbler = LogRateLimiter(60.0)
    assert grumbler.allow(AdvertError.TTL, 0.0) == 0
    assert [grumbler.allow(AdvertError.TTL, at / 10) for at in range(1, 100)] == [None] * 99
    assert grumbler.allow(AdvertError.CHECKSUM, 5.0) == 0
    assert grumbler.allow(AdvertError.TTL, 60.0) == 99
    assert grumbler.allow(AdvertError.TTL, 61.0) is None
    assert grumbler.allow(AdvertError.TTL, 200.0) == 1
    assert grumbler.allow(AdvertError.TTL, 300.0) == 0


def test_of_ever_new_kinds_only_so_many_are_said_and_none_is_kept_for_ever() -> None:
    grumbler = LogRateLimiter(60.0, max_kinds=10)
    assert [grumbler.allow(kind, 1.0) for kind in range(1000)].count(0) == 10
    assert [grumbler.allow(kind, 62.0) for kind in range(2000, 3000)].count(0) == 10
    assert len(grumbler._logged_at) == 10
