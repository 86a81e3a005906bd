"""When addresses are announced: the rounds of one virtual router, and several routers under one limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import Announcements, SendingLimit
from pylvs.vrrp.garp import (
    BATCH_SIZE,
    CONFLICT_BURST,
    CONFLICT_INTERVAL_S,
    TURN_TIMEOUT_S,
    DeviceAddress,
    GarpRateLimit,
    GarpScheduler,
)

A, B, C = ("eth0", ip_address("10.0.0.1")), ("eth0", ip_address("10.0.0.2")), ("eth1", ip_address("10.0.1.3"))
N = ("eth0", ip_address("fd00::1"))
ONCE = Announcements(repeat=1, delay_s=0, lower_priority_delay_s=0)

Sent = list[tuple[float, DeviceAddress]]


def sent(schedulers: GarpScheduler | Sequence[GarpScheduler], until: float, start: float = 0.0) -> Sent:
    """Everything that the schedulers announce when each is woken at its times."""
    those = [schedulers] if isinstance(schedulers, GarpScheduler) else schedulers
    output: Sent = []
    for _ in range(100_000):
        times = [due for scheduler in those if (due := scheduler.due) is not None]
        if not times or (now := max(start, min(times))) > until:
            return output
        start = now
        for scheduler in those:
            if (due := scheduler.due) is not None and due <= now:
                output += [(now, address) for address in scheduler.wake(now)]
    raise AssertionError("a scheduler is always due")


def at(sent: Sent) -> list[float]:
    return [time for time, _ in sent]


def master(settings: Announcements, *addresses: DeviceAddress, limits: GarpRateLimit | None = None) -> GarpScheduler:
    """The scheduler of a router that became master at 0."""
    scheduler = GarpScheduler(settings, limits or GarpRateLimit(), "eth0")
    scheduler.begin(0.0, addresses)
    return scheduler


def test_a_take_over_is_announced_immediately_and_after_the_delay_address_by_address() -> None:
    scheduler = master(Announcements(repeat=2, delay_s=5), A, B)
    assert sent(scheduler, 1000) == [(now, address) for now in (0.0, 5.0) for address in (A, B, A, B)]
    assert scheduler.due is None


def test_a_request_announces_each_address_once() -> None:
    scheduler = master(Announcements(repeat=3, delay_s=0), A, B)
    sent(scheduler, 10)
    scheduler.once(20.0)
    assert sent(scheduler, 1000) == [(20.0, A), (20.0, B)]


def test_a_request_to_a_router_that_is_not_master_announces_nothing() -> None:
    scheduler = master(Announcements(), A)
    scheduler.stop()
    scheduler.once(20.0)
    assert scheduler.due is None


def test_refreshes_are_periodic() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, refresh_s=10, refresh_repeat=2), A)
    assert at(sent(scheduler, 35)) == [0, 10, 10, 20, 20, 30, 30]


def test_a_late_process_skips_missed_refreshes() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, refresh_s=10), A)
    assert at(sent(scheduler, 9)) == [0]
    assert at(sent(scheduler, 60, start=45)) == [45, 55]


def test_a_lower_priority_is_answered_immediately_and_after_its_delay() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=2, lower_priority_delay_s=3), A)
    assert at(sent(scheduler, 9)) == [0]
    assert scheduler.again(10)
    assert at(sent(scheduler, 100, start=10)) == [10, 10, 13, 13]


def test_a_flood_of_lower_priorities_is_answered_by_a_burst_and_then_once_a_second() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=1, lower_priority_delay_s=30), A)
    output = sent(scheduler, 9)
    for tick in range(10_000):
        scheduler.again(10 + tick / 1000)
        output += [(10 + tick / 1000, address) for address in scheduler.wake(10 + tick / 1000)]
    output += sent(scheduler, 100, start=20)
    times = at(output)
    burst = times[1 : 1 + CONFLICT_BURST]
    assert burst == pytest.approx([10 + tick / 1000 for tick in range(CONFLICT_BURST)])
    # The take-over; the burst; one in each second of the flood; the one that waited, and the last after its delay.
    assert len(times) == 1 + CONFLICT_BURST + 9 + 2
    later = [burst[0], *times[1 + CONFLICT_BURST :]]
    assert all(second - first >= CONFLICT_INTERVAL_S - 1e-9 for first, second in pairwise(later))


def test_masters_that_give_up_have_a_burst_of_their_own() -> None:
    """Several masters advertise behind a split; the last to give up must not find the burst used up."""
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=1, lower_priority_delay_s=0), A)
    assert at(sent(scheduler, 9)) == [0]
    for _ in range(CONFLICT_BURST + 1):
        scheduler.again(10)
        scheduler.wake(10)
    dues = [scheduler.due]
    for tick in range(CONFLICT_BURST):
        assert scheduler.again(10.1 + tick / 1000, released=True)
        assert scheduler.wake(10.1 + tick / 1000) == [A]
    dues.append(scheduler.due)
    assert dues == [11, None], "the last round waits, and these came in its place"
    assert scheduler.again(10.2, released=True)
    assert not scheduler.again(10.3, released=True)
    assert at(sent(scheduler, 100, start=10.3)) == [pytest.approx(11.1)]


def test_a_claimed_address_alone_is_defended() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=2, lower_priority_delay_s=3), A, B)
    assert at(sent(scheduler, 9)) == [0, 0]
    scheduler.defend(10, B[1])
    assert sent(scheduler, 100, start=10) == [(10, B), (10, B)]
    scheduler.stop()
    scheduler.defend(101, B[1])
    assert scheduler.due is None


def test_a_conflict_does_not_delay_the_answer_to_a_master_that_steps_down() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=1, lower_priority_delay_s=0), A, B)
    assert len(sent(scheduler, 9)) == 2
    for address in (A, B) * CONFLICT_BURST:
        scheduler.defend(10, address[1])
    assert sorted(sent(scheduler, 10, start=10)) == sorted([(10, A), (10, B)])
    assert scheduler.again(10.01)
    assert at(sent(scheduler, 100, start=10.01)) == [10.01, 10.01]


def test_lower_priorities_may_be_ignored() -> None:
    scheduler = master(Announcements(repeat=1, delay_s=0, lower_priority_repeat=0), A)
    assert at(sent(scheduler, 9)) == [0]
    assert not scheduler.again(10)
    assert scheduler.due is None


def test_a_former_master_announces_and_answers_nothing() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    scheduler = master(Announcements(refresh_s=1), A, B, N, limits=limits)
    assert scheduler.wake(0)
    scheduler.stop()
    assert scheduler.due is None
    assert not scheduler.again(1)
    assert scheduler.wake(100) == []


@pytest.mark.parametrize(
    ("everywhere", "vmacs", "again"),
    [(False, (), []), (True, (), [C]), (False, ("eth1",), [C]), (False, ("eth0",), [])],
    ids=["no other VMAC", "everywhere", "another VMAC", "its own VMAC"],
)
def test_the_other_devices_are_refreshed_with_one_address_each(
    everywhere: bool, vmacs: tuple[str, ...], again: list[DeviceAddress]
) -> None:
    settings = Announcements(repeat=1, delay_s=0, extra_interval_s=4, extra_everywhere=everywhere)
    second = ("eth1", ip_address("10.0.1.4"))
    scheduler = master(settings, A, C, second, limits=GarpRateLimit(bases=dict.fromkeys(vmacs, "eth9")))
    output = sent(scheduler, 9)
    assert output[:3] == [(0, A), (0, C), (0, second)]
    assert output[3:] == [(now, address) for now in (4, 8) for address in again]


def test_a_reload_announces_new_addresses_and_forgets_removed_ones() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    scheduler = master(Announcements(repeat=1, delay_s=5), A, B, limits=limits)
    assert scheduler.wake(0) == [A]
    scheduler.change(0.5, [A, C])
    assert sent(scheduler, 100, start=0.5) == [(0.5, C), (5.5, A), (5.5, C)]


def test_many_addresses_are_announced_in_batches_with_pauses() -> None:
    many = [("eth0", ip_address(number)) for number in range(1, 1001)]
    scheduler = master(Announcements(repeat=3, delay_s=0), *many)
    batches, last = [], -1.0
    while (due := scheduler.due) is not None:
        assert due > last
        batches.append(scheduler.wake(due))
        last = due
    assert last < 0.1
    assert max(map(len, batches)) == BATCH_SIZE
    assert [address for batch in batches for address in batch] == many * 3


# --- limits ---


def test_the_times_under_limits_are_keepalived_s() -> None:
    """Measured; but keepalived announces an address that waits only once, pylvs as often as configured."""
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=0.3, neighbour_s=0.5)])
    output = sent(master(Announcements(repeat=2, delay_s=0), A, B, N, C, limits=limits), 100)
    times = {address: [round(time, 3) for time, other in output if other == address] for address in (A, B, N, C)}
    assert times == {A: [0, 0.6], B: [0.3, 0.9], N: [0, 0.5], C: [0, 0.3]}


def test_devices_of_one_switch_share_their_limit() -> None:
    limits = GarpRateLimit([SendingLimit(devices=("eth0", "eth1"), arp_s=1.0), SendingLimit(devices=(), arp_s=9.0)])
    other = ("eth2", ip_address("10.0.2.1"))
    output = sent(master(ONCE, A, C, other, limits=limits), 100)
    assert sorted(output) == sorted([(0.0, A), (1.0, C), (0.0, other)])


def test_a_vmac_is_limited_as_the_device_below_it() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)], {"vrrp.51": "eth0", "vrrp.52": "eth0"})
    first, second = ("vrrp.51", A[1]), ("vrrp.52", B[1])
    assert at(sent([master(ONCE, first, limits=limits), master(ONCE, second, limits=limits)], 100)) == [0.0, 1.0]


def test_virtual_routers_under_one_limit_take_turns() -> None:
    """Even if the refreshes of one router exceed the limit."""
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    frequent = master(Announcements(repeat=5, delay_s=0, refresh_s=1, refresh_repeat=5), A, B, limits=limits)
    output = sent(frequent, 10.4)
    rare = GarpScheduler(ONCE, limits, "eth0")
    mine = [("eth0", ip_address(f"10.0.0.{number}")) for number in (7, 8, 9)]
    rare.begin(10.5, mine)
    output += sent([frequent, rare], 20, start=10.5)
    assert [time for time, address in output if address in mine] == pytest.approx([12, 14, 16], abs=5 * TURN_TIMEOUT_S)


def test_a_router_that_misses_its_turn_delays_others_only_briefly() -> None:
    limits = GarpRateLimit([SendingLimit(devices=(), arp_s=1.0)])
    absent, present = master(ONCE, A, limits=limits), master(Announcements(repeat=3, delay_s=0), B, limits=limits)
    assert absent.due is not None
    assert at(sent(present, 100)) == pytest.approx([n + n * TURN_TIMEOUT_S for n in (0, 1, 2)])


addresses = st.lists(
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
intervals = st.sampled_from((0.0, 0.125, 0.5))
limits_of = st.tuples(intervals, intervals, intervals, intervals).map(
    lambda intervals: (
        SendingLimit(devices=("eth0", "eth1"), arp_s=intervals[0], neighbour_s=intervals[1]),
        SendingLimit(devices=(), arp_s=intervals[2], neighbour_s=intervals[3]),
    )
)


@given(limits_of, st.lists(st.tuples(announcements, addresses), min_size=1, max_size=3), st.lists(st.floats(0, 20)))
def test_limits_hold_and_every_address_is_announced_as_often_as_configured(
    settings: tuple[SendingLimit, ...],
    routers: list[tuple[Announcements, list[DeviceAddress]]],
    conflicts: list[float],
) -> None:
    limits = GarpRateLimit(settings)
    those = [GarpScheduler(announcements, limits, "eth0") for announcements, _ in routers]
    for scheduler, (_, held) in zip(those, routers, strict=True):
        scheduler.begin(0.0, held)
    output: Sent = []
    for now in sorted(conflicts):
        output += sent(those, now, start=output[-1][0] if output else 0.0)
        for scheduler in those:
            scheduler.again(now)
    last = max(conflicts, default=0.0)
    # Enough for each to announce 12 addresses 4 times, every half second, while two others refresh theirs.
    output += sent(those, last + 3 * 12 * 4 * (0.5 + TURN_TIMEOUT_S), start=last)

    shared: list[tuple[Callable[[DeviceAddress], bool], float]] = []
    for version, both, other in (
        (4, settings[0].arp_s, settings[1].arp_s),
        (6, settings[0].neighbour_s, settings[1].neighbour_s),
    ):
        shared.append((lambda address, v=version: address[1].version == v and address[0] != "eth2", both))  # type: ignore[misc]
        shared.append((lambda address, v=version: address[1].version == v and address[0] == "eth2", other))  # type: ignore[misc]
    for mine, interval in shared:
        times = [time for time, address in output if mine(address)]
        assert all(later - first >= interval - 1e-9 for first, later in pairwise(times))

    counted = Counter(address for _, address in output)
    least: Counter[DeviceAddress] = Counter()
    for announcements, held in routers:
        least.update(dict.fromkeys(held, announcements.repeat))
    assert all(counted[address] >= least[address] for address in least)
    assert set(counted) == set(least)
