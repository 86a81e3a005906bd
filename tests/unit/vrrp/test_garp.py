"""When announcements are sent: the rounds of one virtual router, and several under one limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import Announcements, SendingLimit
from pylvs.vrrp.garp import BATCH_SIZE, CONFLICT_INTERVAL_S, TURN_TIMEOUT_S, DeviceAddress, GarpRateLimit, GarpScheduler

A, B, C = ("eth0", ip_address("10.0.0.1")), ("eth0", ip_address("10.0.0.2")), ("eth1", ip_address("10.0.1.3"))
N = ("eth0", ip_address("fd00::1"))
ONCE = Announcements(repeat=1, delay_s=0, lower_priority_delay_s=0)

Sent = list[tuple[float, DeviceAddress]]


def sent(announcers: GarpScheduler | Sequence[GarpScheduler], until: float, start: float = 0.0) -> Sent:
    """All that they send when each is woken at its times."""
    those = [announcers] if isinstance(announcers, GarpScheduler) else announcers
    found: Sent = []
    for _ in range(100_000):
        times = [due for announcer in those if (due := announcer.due) is not None]
        if not times or (now := max(start, min(times))) > until:
            return found
        start = now
        for announcer in those:
            if (due := announcer.due) is not None and due <= now:
                found += [(now, target) for target in announcer.wake(now)]
    raise AssertionError("it never waits")


def at(sent: Sent) -> list[float]:
    return [time for time, _ in sent]


def master(
    told: Announcements, *targets: DeviceAddress, limits: GarpRateLimit | None = None, **more: object
) -> GarpScheduler:
    """One that has just become master, at 0."""
    announcer = GarpScheduler(told, limits or GarpRateLimit(), "eth0", **more)  # type: ignore[arg-type]
    announcer.begin(0.0, targets)
    return announcer


def test_a_take_over_is_announced_at_once_and_once_more_after_the_delay_address_by_address() -> None:
    announcer = master(Announcements(repeat=2, delay_s=5), A, B)
    assert sent(announcer, 1000) == [(now, target) for now in (0.0, 5.0) for target in (A, B, A, B)]
    assert announcer.due is None


def test_what_is_refreshed_is_announced_again_and_again() -> None:
    announcer = master(Announcements(repeat=1, delay_s=0, refresh_s=10, refresh_repeat=2), A)
    assert at(sent(announcer, 35)) == [0, 10, 10, 20, 20, 30, 30]


def test_a_process_that_comes_late_refreshes_once_not_once_for_each_time_that_has_passed() -> None:
    announcer = master(Announcements(repeat=1, delay_s=0, refresh_s=10), A)
    assert at(sent(announcer, 9)) == [0]
    assert at(sent(announcer, 60, start=45)) == [45, 55]


def test_a_lower_priority_is_answered_at_once_and_once_more_after_its_delay() -> None:
    announcer = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=2, lower_priority_delay_s=3), A)
    assert at(sent(announcer, 9)) == [0]
    assert announcer.again(10, "the split healed")
    assert at(sent(announcer, 100, start=10)) == [10, 10, 13, 13]
    assert announcer.reason == "the split healed"


def test_a_flood_of_lower_priorities_is_no_flood_of_announcements() -> None:
    announcer = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=1, lower_priority_delay_s=3), A)
    found = sent(announcer, 9)
    for tick in range(10_000):
        announcer.again(10 + tick / 1000, "flood")
        found += [(10 + tick / 1000, target) for target in announcer.wake(10 + tick / 1000)]
    found += sent(announcer, 100, start=20)
    assert len(found) == 1 + 10 + 2  # the take-over; one in each second of the flood; the one that waited, and the last
    assert all(later - first >= CONFLICT_INTERVAL_S - 1e-9 for first, later in pairwise(at(found)))


def test_who_was_told_not_to_answer_lower_priorities_does_not() -> None:
    announcer = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=0), A)
    assert at(sent(announcer, 9)) == [0]
    assert not announcer.again(10, "")
    assert announcer.due is None


def test_who_has_given_up_sends_nothing_more_and_answers_nothing() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    announcer = master(Announcements(refresh_s=1), A, B, N, limits=limits)
    assert announcer.wake(0)
    announcer.stop()
    assert announcer.due is None
    assert not announcer.again(1, "")
    assert announcer.wake(100) == []


@pytest.mark.parametrize(
    ("everywhere", "vmacs", "again"),
    [(False, (), []), (True, (), [C]), (False, ("eth1",), [C]), (False, ("eth0",), [])],
    ids=["no other VMAC", "everywhere", "another VMAC", "its own VMAC"],
)
def test_the_other_devices_are_refreshed_with_one_address_each(
    everywhere: bool, vmacs: tuple[str, ...], again: list[DeviceAddress]
) -> None:
    told = Announcements(repeat=1, delay_s=0, extra_interval_s=4, extra_everywhere=everywhere)
    second = ("eth1", ip_address("10.0.1.4"))
    announcer = master(told, A, C, second, vmacs=vmacs)
    found = sent(announcer, 9)
    assert found[:3] == [(0, A), (0, C), (0, second)]
    assert found[3:] == [(now, target) for now in (4, 8) for target in again]


def test_new_addresses_are_announced_and_those_that_went_are_not() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    announcer = master(Announcements(repeat=1, delay_s=5), A, B, limits=limits)
    assert announcer.wake(0) == [A]
    announcer.change(0.5, [A, C])
    assert sent(announcer, 100, start=0.5) == [(0.5, C), (5.5, A), (5.5, C)]


def test_many_addresses_are_announced_in_batches_with_room_between_them() -> None:
    many = [("eth0", ip_address(number)) for number in range(1, 1001)]
    announcer = master(Announcements(repeat=3, delay_s=0), *many)
    batches, last = [], -1.0
    while (due := announcer.due) is not None:
        assert due > last
        batches.append(announcer.wake(due))
        last = due
    assert last < 0.1
    assert max(map(len, batches)) == BATCH_SIZE
    assert [target for batch in batches for target in batch] == many * 3


# --- limits ---


def test_keepalived_s_times_under_its_limits_are_ours() -> None:
    """As measured, but each address is said as often as it was told; keepalived says those that wait only once."""
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=0.3, neighbour_s=0.5)])
    found = sent(master(Announcements(repeat=2, delay_s=0), A, B, N, C, limits=limits), 100)
    times = {target: [round(time, 3) for time, other in found if other == target] for target in (A, B, N, C)}
    assert times == {A: [0, 0.6], B: [0.3, 0.9], N: [0, 0.5], C: [0, 0.3]}


def test_devices_of_one_switch_share_their_limit() -> None:
    limits = GarpRateLimit([SendingLimit(devices=("eth0", "eth1"), arp_s=1.0), SendingLimit(devices=(), arp_s=9.0)])
    other = ("eth2", ip_address("10.0.2.1"))
    found = sent(master(ONCE, A, C, other, limits=limits), 100)
    assert sorted(found) == sorted([(0.0, A), (1.0, C), (0.0, other)])


def test_a_vmac_is_limited_as_the_device_below_it() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)], {"vrrp.51": "eth0", "vrrp.52": "eth0"})
    first, second = ("vrrp.51", A[1]), ("vrrp.52", B[1])
    assert at(sent([master(ONCE, first, limits=limits), master(ONCE, second, limits=limits)], 100)) == [0.0, 1.0]


def test_virtual_routers_under_one_limit_take_turns() -> None:
    """Also beside one whose refreshing alone is more than the limit allows."""
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    greedy = master(Announcements(repeat=5, delay_s=0, refresh_s=1, refresh_repeat=5), A, B, limits=limits)
    found = sent(greedy, 10.4)
    modest = GarpScheduler(ONCE, limits, "eth0")
    mine = [("eth0", ip_address(f"10.0.0.{number}")) for number in (7, 8, 9)]
    modest.begin(10.5, mine)
    found += sent([greedy, modest], 20, start=10.5)
    assert [time for time, target in found if target in mine] == pytest.approx([12, 14, 16], abs=5 * TURN_TIMEOUT_S)


def test_whose_turn_it_is_cannot_keep_the_others_waiting() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    absent, present = master(ONCE, A, limits=limits), master(Announcements(repeat=3, delay_s=0), B, limits=limits)
    assert absent.due is not None
    assert at(sent(present, 100)) == pytest.approx([n + n * TURN_TIMEOUT_S for n in (0, 1, 2)])


targets = st.lists(
    st.tuples(
        st.sampled_from(("eth0", "eth1", "eth2")),
        st.sampled_from([ip_address(f"10.0.0.{n}") for n in range(1, 8)] + [ip_address(f"fd00::{n}") for n in (1, 2)]),
    ),
    unique=True,
    max_size=12,
)
seconds = st.integers(0, 6)
announcements = st.builds(
    Announcements,
    repeat=st.integers(1, 4),
    delay_s=seconds,
    refresh_s=seconds,
    refresh_repeat=st.integers(1, 3),
    lower_priority_repeat=st.integers(0, 3),
    lower_priority_delay_s=seconds,
    extra_interval_s=seconds,
    extra_everywhere=st.booleans(),
)
paces = st.sampled_from((0.0, 0.125, 0.5))
limits_of = st.tuples(paces, paces, paces, paces).map(
    lambda paces: (
        SendingLimit(devices=("eth0", "eth1"), arp_s=paces[0], neighbour_s=paces[1]),
        SendingLimit(devices=(), arp_s=paces[2], neighbour_s=paces[3]),
    )
)


@given(limits_of, st.lists(st.tuples(announcements, targets), min_size=1, max_size=3), st.lists(st.floats(0, 20)))
def test_never_more_than_the_limits_allow_and_everything_at_least_as_often_as_told(
    told: tuple[SendingLimit, ...],
    routers: list[tuple[Announcements, list[DeviceAddress]]],
    conflicts: list[float],
) -> None:
    limits = GarpRateLimit(told)
    those = [GarpScheduler(announcements, limits, "eth0") for announcements, _ in routers]
    for announcer, (_, held) in zip(those, routers, strict=True):
        announcer.begin(0.0, held)
    found: Sent = []
    for now in sorted(conflicts):
        found += sent(those, now, start=found[-1][0] if found else 0.0)
        for announcer in those:
            announcer.again(now, "conflict")
    last = max(conflicts, default=0.0)
    # Long enough for each to say 12 targets 4 times, every half second, while two others refresh theirs in between.
    found += sent(those, last + 3 * 12 * 4 * (0.5 + TURN_TIMEOUT_S), start=last)

    shared: list[tuple[Callable[[DeviceAddress], bool], float]] = []
    for version, both, other in ((4, told[0].arp_s, told[1].arp_s), (6, told[0].neighbour_s, told[1].neighbour_s)):
        shared.append((lambda target, v=version: target[1].version == v and target[0] != "eth2", both))  # type: ignore[misc]
        shared.append((lambda target, v=version: target[1].version == v and target[0] == "eth2", other))  # type: ignore[misc]
    for mine, pace in shared:
        times = [time for time, target in found if mine(target)]
        assert all(later - first >= pace - 1e-9 for first, later in pairwise(times))

    counted = Counter(target for _, target in found)
    least: Counter[DeviceAddress] = Counter()
    for announcements, held in routers:
        least.update(dict.fromkeys(held, announcements.repeat))
    assert all(counted[target] >= least[target] for target in least)
    assert set(counted) == set(least)
