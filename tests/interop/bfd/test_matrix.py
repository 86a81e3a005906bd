"""pylvs with each other program as its BFD neighbor: one cell of each in the gate, all in `./dev test-all`."""

from __future__ import annotations

import pytest

from tests.interop import keepalived
from tests.interop.bfd.cell import CELLS, Cell, play
from tests.interop.bfd.peers import BIRD, FRR, KEEPALIVED

IN_GATE = (Cell(KEEPALIVED, 4, False), Cell(FRR, 6, False), Cell(BIRD, 4, True))
OTHERS = pytest.mark.nightly("the gate plays one cell with each other program")


def cells() -> list[object]:
    return [pytest.param(cell, id=cell.name, marks=() if cell in IN_GATE else (OTHERS,)) for cell in CELLS]


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", cells())
def test_a_session_with_another_program(cell: Cell) -> None:
    """It comes up, survives reloads of both sides, and ends with the neighbor."""
    result = play(cell)
    assert not result.error, result.error
