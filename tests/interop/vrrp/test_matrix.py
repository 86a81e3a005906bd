"""pylvs and keepalived as each other's peers: each row of the matrix once, or every cell (see `./dev interop`)."""

from __future__ import annotations

import os

import pytest

from tests.interop import keepalived
from tests.interop.vrrp import matrix
from tests.interop.vrrp.cell import Result
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS
from tests.interop.vrrp.rows import ROWS

EVERYTHING = bool(os.environ.get("PYLVS_TESTS_EVERYTHING"))
CONTROLS = (("v2, AH", KEEPALIVED, KEEPALIVED), ("v3, IPv6, unicast", PYLVS, PYLVS))


def cells() -> list[matrix.Cell]:
    """Bounded: every row with either program as the better router, in turn, and pairs of one program."""
    if EVERYTHING:
        return matrix.every_cell()
    named = {row.name: row for row in ROWS}
    return matrix.each_row_once() + [(named[name], better, other) for name, better, other in CONTROLS]


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(1200 if EVERYTHING else 300)
def test_pylvs_and_keepalived_take_turns() -> None:
    """Election, a stop, a return, a kill, and what is tracked; the table is printed."""
    results = matrix.play_all(cells())
    print(matrix.table(results))
    assert {each.row.name for each in results} == {row.name for row in ROWS}
    assert [f"{each.name}: {each.trouble}" for each in results if each.trouble] == []


def test_the_table_says_what_came_of_each_cell() -> None:
    well = Result(ROWS[0], PYLVS, KEEPALIVED, {"stopped": 0.65, "killed": 3.5}, spoken=b"one")
    strange = Result(ROWS[0], KEEPALIVED, PYLVS, {"stopped": 0.7}, spoken=b"two")
    failed = Result(ROWS[1], PYLVS, KEEPALIVED, {}, "nobody speaks\n    a: said this")
    matrix.compare_frames([well, strange, failed])
    assert well.trouble.startswith("its advertisement differs from keepalived's")
    well.trouble = ""
    assert matrix.table([well, strange, failed]) == (
        "| | pylvs → keepalived | keepalived → pylvs |\n|---|---|---|\n"
        "| v2 | ✓ stopped 0.65, killed 3.50 | ✓ stopped 0.70 |\n"
        "| v2, PASS | ✗ nobody speaks | – |\n"
    )
