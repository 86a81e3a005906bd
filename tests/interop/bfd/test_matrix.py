"""pylvs with each other program as its BFD neighbor: one cell of each in the gate, all in `./dev test-all`."""

from __future__ import annotations

import pytest

from pylvs.daemon.api import client
from tests.interop import keepalived
from tests.interop.bfd.cell import CELLS, Cell, play
from tests.interop.bfd.peers import BIRD, FRR, KEEPALIVED
from tests.waiting import PATIENCE_S

IN_GATE = (Cell(KEEPALIVED, 4, False), Cell(FRR, 6, False), Cell(BIRD, 4, True))
OTHERS = pytest.mark.nightly("the gate plays one cell with each other program")


def cells() -> list[object]:
    return [pytest.param(cell, id=cell.name, marks=() if cell in IN_GATE else (OTHERS,)) for cell in CELLS]


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", cells())
def test_a_session_with_another_program(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes up, survives reloads of both sides, and ends with the neighbor."""
    monkeypatch.setattr(client, "READ_TIMEOUT_S", PATIENCE_S)  # a busy daemon does not hang
    result = play(cell)
    assert not result.error, result.error
