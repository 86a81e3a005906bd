"""The differences between two readings of the counters, and their output."""

from __future__ import annotations

import ctypes
import errno
import os
from types import SimpleNamespace

import pytest

from pylvs.bpf import kernel
from pylvs.bpf.kernel import Runs
from pylvs.cli import bench
from pylvs.cli.meter import EGRESS, TC, XDP, Reading, Used, between, cores_at_line_rate, joined, programs_of
from pylvs.dataplane.devices.modes import Attachment
from pylvs.model.errors import NotPermitted, PylvsError, Unsupported
from pylvs.netlink.links import Traffic

COUNTING = 20.0
BEFORE = Reading(
    100.0,
    {7: Runs(1000, 50_000), 8: Runs(10, 3_000), 9: Runs(5, 500)},
    Traffic(1000, 500, 64_000, 32_000, 0, 1),
    {"to tc": 10, "ttl": 3},
)
AFTER = Reading(
    102.0,
    {7: Runs(3000, 210_000), 8: Runs(110, 25_000), 9: Runs(5, 500)},
    Traffic(3000, 2400, 314_000, 150_000, 4, 1),
    {"to tc": 110, "ttl": 3},
)
PROGRAMS = {XDP: 7, TC: 8, EGRESS: 9}


def test_what_counting_costs_is_taken_off_each_run() -> None:
    sample = between(BEFORE, AFTER, PROGRAMS, COUNTING)
    assert sample.programs == {XDP: Used(2000, 120_000), TC: Used(100, 20_000), EGRESS: Used(0, 0)}
    assert sample.programs[XDP].ns_a_run == 60
    assert sample.programs[EGRESS].ns_a_run is None


def test_packets_are_those_that_the_first_program_met_and_cost_what_all_programs_on_their_way_in_took() -> None:
    sample = between(BEFORE, AFTER, PROGRAMS, COUNTING)
    assert (sample.packets, sample.packets_a_second) == (2000, 1000)
    assert sample.ns_a_packet == (120_000 + 20_000) / 2000
    assert sample.processor == pytest.approx(0.007)  # 140 us in 2 s
    assert sample.in_megabits == pytest.approx(1.0)
    assert sample.traffic == Traffic(2000, 1900, 250_000, 118_000, 4, 0)
    assert sample.reasons == {"to tc": 100}


def test_what_leaves_takes_the_processor_but_is_no_cost_of_a_packet_that_comes_in() -> None:
    before = Reading(0, {8: Runs(0, 0), 9: Runs(0, 0)}, BEFORE.traffic, {})
    after = Reading(1, {8: Runs(10, 700), 9: Runs(10, 1200)}, BEFORE.traffic, {})
    sample = between(before, after, {TC: 8, EGRESS: 9}, COUNTING)
    assert sample.ns_a_packet == 50
    assert sample.processor == pytest.approx((500 + 1000) / 1e7)


def test_without_packets_there_is_no_cost() -> None:
    sample = between(BEFORE, Reading(101.0, BEFORE.runs, BEFORE.traffic, BEFORE.reasons), PROGRAMS, COUNTING)
    assert (sample.packets, sample.ns_a_packet, sample.processor, sample.reasons) == (0, None, 0, {})


def test_a_run_is_never_shorter_than_nothing() -> None:
    after = Reading(101.0, {7: Runs(2000, 51_000)}, BEFORE.traffic, {})
    assert between(BEFORE, after, {XDP: 7}, COUNTING).ns_a_packet == 0


def test_a_program_attached_between_readings_counts_from_the_next_reading_on() -> None:
    swapped = Reading(101.0, {**BEFORE.runs, 17: Runs(40, 4_000)}, BEFORE.traffic, {})
    assert between(BEFORE, swapped, {XDP: 17}, COUNTING).packets == 0
    later = Reading(102.0, {**BEFORE.runs, 17: Runs(50, 5_000)}, BEFORE.traffic, {})
    assert between(swapped, later, {XDP: 17}, COUNTING).programs[XDP] == Used(10, 800)


def test_stretches_of_time_add_up_though_a_program_was_replaced() -> None:
    first = between(BEFORE, AFTER, PROGRAMS, COUNTING)
    swapped = Reading(103.0, {**AFTER.runs, 17: Runs(40, 4_000)}, AFTER.traffic, {**AFTER.reasons, "ttl": 5})
    later = Reading(104.0, {**AFTER.runs, 17: Runs(140, 14_000)}, AFTER.traffic, swapped.reasons)
    programs = {XDP: 17, TC: 8}
    total = joined([first, between(AFTER, swapped, programs, COUNTING), between(swapped, later, programs, COUNTING)])
    assert (total.seconds, total.packets) == (4, 2100)
    assert total.programs == {XDP: Used(2100, 128_000), TC: Used(100, 20_000), EGRESS: Used(0, 0)}
    assert total.traffic == first.traffic
    assert total.reasons == {"to tc": 100, "ttl": 2}


def test_the_program_that_sees_a_packet_first_comes_first() -> None:
    assert list(programs_of(Attachment("d0", 2, "generic", "", "generic", xdp=5, ingress=6))) == [XDP, TC]
    assert programs_of(Attachment("d0", 2, "tc", "", "tc", ingress=6, egress=7)) == {TC: 6, EGRESS: 7}


def test_a_line_of_smallest_packets_brings_fifteen_million_a_second() -> None:
    assert cores_at_line_rate(67.2) == pytest.approx(1.0)
    assert cores_at_line_rate(0) == 0


def test_a_second_is_a_line_with_what_happened_beside_being_forwarded() -> None:
    line = bench._line(between(BEFORE, AFTER, PROGRAMS, COUNTING))
    assert line.split() == ["1,000", "1.0", "70.0", "0.0", "1.04", "100", "to", "tc"]
    silent = between(BEFORE, Reading(101.0, BEFORE.runs, BEFORE.traffic, {}), PROGRAMS, COUNTING)
    assert bench._line(silent).split() == ["0", "0.0", "–", "0.0", "–"]


@pytest.mark.parametrize(
    ("number", "raised", "reason"),
    [
        (errno.EINVAL, Unsupported, f"this kernel ({os.uname().release}) cannot do it"),
        (errno.EPERM, NotPermitted, "Operation not permitted"),
    ],
)
def test_a_kernel_that_refuses_statistics_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, number: int, raised: type[PylvsError], reason: str
) -> None:
    def refuse(kind: int) -> int:
        ctypes.set_errno(number)
        return -number

    monkeypatch.setattr(kernel, "library", lambda: SimpleNamespace(bpf_enable_stats=refuse))
    with pytest.raises(raised) as caught:
        kernel.keep_run_statistics()
    assert str(caught.value).startswith("turning on the statistics of eBPF programs: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
