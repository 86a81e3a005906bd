"""pylvs and keepalived as VRRP peers: each row of the matrix once; every cell in `./dev test-all`.

A cell is a test with its own namespaces. It waits for frames, never for a time, so that it may run beside other
tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop import keepalived
from tests.interop.vrrp import matrix
from tests.interop.vrrp.cell import Result, master_paused, play
from tests.interop.vrrp.observer import Captured
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS
from tests.interop.vrrp.rows import ROWS

CONTROLS = (("v2, AH", KEEPALIVED, KEEPALIVED), ("v3, IPv6, unicast", PYLVS, PYLVS))
OTHERS = pytest.mark.nightly("each row is played once, with either program as the better router in turn")


def cells() -> list[object]:
    """Return every cell; in the gate, every row with either program as the better one, and pairs of one program."""
    named = {row.name: row for row in ROWS}
    bounded = matrix.each_row_once() + [(named[name], better, other) for name, better, other in CONTROLS]
    return [
        pytest.param(cell, id="-".join((cell[0].name, *cell[1:])), marks=() if cell in bounded else (OTHERS,))
        for cell in matrix.every_cell()
    ]


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", cells())
def test_pylvs_and_keepalived_take_turns(cell: matrix.Cell, tmp_path: Path) -> None:
    """Election, a stop, a return, a kill, and a tracked event."""
    result = play(*cell, tmp_path / "cell")
    matrix.compare_frames([result], matrix.recorded())
    print(matrix.table([result]))
    assert not result.error, result.error


def test_a_master_paused_if_the_other_had_to_take_over_though_nothing_was_done() -> None:
    row = ROWS[0]

    def sent(host: str, at: float, priority: int = 100) -> Captured:
        message = bytes((0x21, 51, priority, 1, 1, 1, 0, 0))
        header = bytes((0x45, 0, 0, 28, 0, 0, 0, 0, 255, 112, 0, 0)) + bytes(8)
        return Captured(at, host, 0, bytes(12) + b"\x08\x00" + header + message)

    a, b = [sent("a", at) for at in (1.0, 2.0)], [sent("b", at, 90) for at in (6.0, 7.0)]
    assert master_paused(row, a + b, {"a": [], "b": [3.0]}) == "a paused for 4.00 s"
    assert not master_paused(row, a + b, {"a": [2.5], "b": []})  # it was killed
    assert not master_paused(row, [*a, *(sent("b", at, 90) for at in (5.5, 6.5))], {"a": [], "b": []})  # too soon
    assert not master_paused(row, [*a, sent("a", 9.0)], {"a": [], "b": []})  # there was no take-over
    assert not master_paused(row, [*b, sent("a", 11.0, 0)], {"a": [], "b": []})  # it is not a master
    assert not master_paused(row, b, {"a": [], "b": []})  # it was alone


def test_there_is_a_recording_of_every_row() -> None:
    assert set(matrix.recorded()) == {row.name for row in ROWS}


def test_the_table_has_the_result_of_each_cell() -> None:
    passed = Result(ROWS[0], PYLVS, KEEPALIVED, {"stopped": 0.65, "killed": 3.5}, frame=b"one")
    other = Result(ROWS[0], KEEPALIVED, PYLVS, {"stopped": 0.7}, frame=b"two")
    failed = Result(ROWS[1], PYLVS, KEEPALIVED, {}, "no router sends\n    a: printed this")
    matrix.compare_frames([passed, other, failed], {ROWS[0].name: b"two".hex()})
    assert passed.error.startswith("pylvs's advertisement is not as recorded")
    passed.error = ""
    assert matrix.table([passed, other, failed]) == (
        "| | pylvs → keepalived | keepalived → pylvs |\n|---|---|---|\n"
        "| v2 | ✓ stopped 0.65, killed 3.50 | ✓ stopped 0.70 |\n"
        "| v2, PASS | ✗ no router sends | – |\n"
    )
