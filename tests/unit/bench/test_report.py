"""The table tells what was measured: ratios to the floor, the harness taken off, and whether a promise is kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pylvs.bench import report
from pylvs.bench.frames import ACK, SYN, Frame
from pylvs.bench.rows import FLOOR, ROWS, Measured, value_of
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
def test_a_figure_is_told_in_the_unit_of_its_promise(name: str, value: float | None, verdict: str) -> None:
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


def test_the_json_holds_every_sample(tmp_path: Path) -> None:
    report.write(tmp_path / "bench.json", results(), SIZES, {"kernel": "6.1"}, {"bench_same": 5.0})
    content = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == [row.name for row in ROWS]
    assert rows["one_dr"]["samples"] == [65.0, 66.0, 64.0]
    assert rows["one_dr"]["measured"] == pytest.approx(3.0)
    assert rows["list"]["measured"] is None


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
