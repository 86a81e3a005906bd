"""The table tells what was measured: ratios to the floor, the harness taken off, and whether a promise is kept."""

from __future__ import annotations

import io

import pytest

from bench import report
from bench.frames import ACK, SYN, Frame
from bench.rows import BUDGETS, FLOOR, REFERENCES, ROWS, SCHEDULER_FLOOR, Measured, value_of
from pylvs.model.service import Protocol

SIZES: dict[str, float] = {
    "flows": 1024,
    "part": 512,
    "services": 10,
    "connections": 1000,
    "destinations": 100,
    "checked": 50,
    "every": 0.5,
    "minutes": 1,
}


def results() -> dict[str, Measured]:
    """Of a machine whose floor is 20 ns."""
    return {
        FLOOR: Measured([26.0, 25.0, 24.0], 5.0),
        "one_dr": Measured([65.0, 66.0, 64.0], 5.0),
        "no_service": Measured([33.0], 5.0),
        "many_dr": Measured([150.0], 10.0),
        "restore": Measured([11.0, 12.0, 4.0], processor=[3.0, 3.0, 3.0]),
        "check_tcp": Measured([80.0]),
    }


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("one_dr", 3.0, "over"),
        ("no_service", 1.4, "then"),
        ("many_dr", 7.0, "then"),
        ("restore", 11.0, "over"),
        ("list", None, ""),
        ("check_tcp", 80.0, "ok"),
    ],
)
def test_a_figure_has_the_unit_of_its_promise(name: str, value: float | None, verdict: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    found = value_of(row, results())
    assert found == (pytest.approx(value) if value is not None else None)
    assert report.verdict(row, found) == verdict


def test_the_table_has_every_row_measured_or_not() -> None:
    out = io.StringIO()
    report.show(results(), SIZES, ["a note"], out)
    text = out.getvalue().splitlines()
    assert len(text) == 1 + len(ROWS) + 1
    for row, line in zip(ROWS, text[1:], strict=False):
        assert line.startswith(row.label.format(**SIZES))
        assert ("not measured" in line) == (row.name not in results())
    assert "25.0 ns less 5.0" in text[1]
    checks = next(line for line in text if line.startswith("processor of a TCP check, 50 servers, each every 0.5 s"))
    assert "12,500 per core-second" in checks


def test_a_gain_is_the_better_the_higher() -> None:
    row = next(row for row in ROWS if row.name == "cores_new")
    assert [report.verdict(row, value) for value in (1.4, 1.6)] == ["under", "ok"]
    found = {"cores_new": Measured([1.7, 1.6, 1.8], beside=[1.9, 2.0, 1.95])}
    cells = report.lines(found, SIZES, [row])
    assert cells == [(row.label, "–", "1.50 x", "–", "1.70 x", "floor 1.95 x", "ok")]


def test_schedulers_have_a_table_of_their_own() -> None:
    found = {
        SCHEDULER_FLOOR: Measured([12.0], 2.0),
        "sed_2": Measured([74.0], 4.0),
        "sed_64": Measured([84.0], 4.0),
        "sed_1024": Measured([1004.0], 4.0),
    }
    assert report.scheduler_lines(found) == [("sed", "7.0", "8.0", "100")]
    assert report.scheduler_lines({}) == []
    out = io.StringIO()
    report.show(found, SIZES, [], out, rows=())
    headings, sed = out.getvalue().splitlines()[1:]
    assert headings.split()[-4:] == ["64", "servers", "1,024", "servers"]
    assert sed.split() == ["sed", "7.0", "8.0", "100"]


def with_references() -> dict[str, Measured]:
    return results() | {
        "line": Measured([105.0, 115.0, 110.0], 10.0),
        "katran_one": Measured([300.0], 50.0),
        "nat_forth_64": Measured([72.0], 12.0),
        "nat_back_64": Measured([75.0], 3.0),
    }


def test_a_budget_is_a_ratio_to_another_result() -> None:
    assert report.budget_lines(with_references(), SIZES) == [
        ("established, one flow, DR", "Katran", "0.25", "0.22", "0.24", "60.0 of 250.0 ns", "ok"),
        ("established, 1,024 random flows, DR", "one line", "1.20", "1.10", "1.40", "140.0 of 100.0 ns", "over"),
        ("NAT, server to client, 64 clients", "client to server", "1.50", "1.20", "1.20", "72.0 of 60.0 ns", "then"),
    ]


def test_budgets_of_what_was_not_measured_are_left_out() -> None:
    assert report.budget_lines(results(), SIZES) == []
    out = io.StringIO()
    report.show(results(), SIZES, [], out)
    assert "budget" not in out.getvalue()


def test_budgets_have_a_table_of_their_own() -> None:
    out = io.StringIO()
    report.show(with_references(), SIZES, [], out, rows=())
    headings, first, *_ = [line for line in out.getvalue().splitlines()[1:] if line]
    assert headings.split() == ["budget", "ratio", "to", "must", "reach", "then", "measured", "net"]
    assert first.split()[-7:] == ["0.22", "0.24", "60.0", "of", "250.0", "ns", "ok"]


def test_each_budget_has_a_name_of_its_own_and_a_reference_that_the_table_names() -> None:
    assert len({row.name for row in (*BUDGETS, *ROWS)}) == len(BUDGETS) + len(ROWS)
    assert {row.floor for row in BUDGETS} == set(REFERENCES)


@pytest.mark.parametrize(
    ("source", "target", "protocol", "flags"),
    [
        ("198.18.0.7", "10.66.0.100", Protocol.TCP, ACK),
        ("198.18.0.7", "10.66.0.100", Protocol.TCP, SYN),
        ("198.18.0.7", "10.66.0.100", Protocol.UDP, ACK),
        ("fd67::7", "fd66::100", Protocol.TCP, SYN),
    ],
)
def test_frames_have_right_checksums(source: str, target: str, protocol: Protocol, flags: int) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    raw = Frame(source, target, 40000, 80, flags, protocol=protocol).packed()
    packet = Ether(raw)
    segment = packet[TCP if protocol == Protocol.TCP else UDP]
    if protocol == Protocol.TCP:
        assert segment.flags == flags
    assert (packet[IPv6 if ":" in source else IP].dst, segment.dport) == (target, 80)
    if ":" not in source:
        del packet[IP].chksum
    del segment.chksum
    assert bytes(packet) == raw


def test_a_budget_beside_keepalived_has_its_unit_and_verdict() -> None:
    found = {name: Measured([value]) for name, value in (("check_tcp", 54.0), ("check_tcp_keepalived", 60.0))}
    (cells,) = report.budget_lines(found, SIZES)
    assert cells[1:] == ("keepalived", "1.50", "–", "0.90", "54.0 of 60.0 us", "ok")
    found["check_tcp"] = Measured([91.0])
    assert report.budget_lines(found, SIZES)[0][-1] == "over"
