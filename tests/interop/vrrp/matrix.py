"""Run all cells of the matrix, several in parallel, and print the table of results."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.interop.vrrp.cell import Result, play
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS
from tests.interop.vrrp.rows import ROWS, Row

PAIRS = ((PYLVS, KEEPALIVED), (KEEPALIVED, PYLVS), (PYLVS, PYLVS), (KEEPALIVED, KEEPALIVED))
AT_ONCE = 16
FRAMES = Path(__file__).with_name("frames.json")  # an advertisement of keepalived's for each row

Cell = tuple[Row, str, str]


def every_cell(rows: Sequence[Row] = ROWS, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Cell]:
    return [(row, *pair) for row in rows for pair in pairs]


def each_row_once() -> list[Cell]:
    """Return pylvs with keepalived for each row, with either as the better router in turn."""
    return [(row, *PAIRS[number % 2]) for number, row in enumerate(ROWS)]


def play_all(cells: Iterable[Cell], progress: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Return the results in the order of the cells."""
    with tempfile.TemporaryDirectory(prefix="pylvs-vrrp-") as name, ThreadPoolExecutor(AT_ONCE) as pool:
        Path(name).chmod(0o755)  # scripts read it
        asked = {pool.submit(play, *cell, Path(name, str(at))): at for at, cell in enumerate(cells)}
        found: dict[int, Result] = {}
        for done in as_completed(asked):
            found[asked[done]] = done.result()
            progress(done.result())
    return [found[at] for at in sorted(found)]


def recorded() -> dict[str, str]:
    """Return keepalived's advertisements by the names of rows, in hexadecimal."""
    return dict(json.loads(FRAMES.read_text(encoding="ascii")))


def record(results: Iterable[Result]) -> None:
    """Write the advertisements of cells in which keepalived was the better router."""
    frames = {each.row.name: each.frame.hex() for each in results if each.better == KEEPALIVED and each.frame}
    FRAMES.write_text(json.dumps(frames, indent=1) + "\n", encoding="ascii")


def compare_frames(results: Iterable[Result], known: Mapping[str, str]) -> None:
    """Compare a master's frame with the recorded one, for both programs; a difference is the cell's error.

    Cells in which keepalived is the better router check the recording itself.
    """
    for result in results:
        frame = known.get(result.row.name)
        if not result.error and result.frame.hex() != frame:
            result.error = f"{result.better}'s advertisement is not as recorded:\n    {result.frame.hex()}\n    {frame}"


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table: a row for each row, a column for each pair of programs."""
    pairs = [pair for pair in PAIRS if any((each.better, each.other) == pair for each in results)]
    rows = list(dict.fromkeys(each.row for each in results))
    lines = ["| | " + " | ".join(f"{better} → {other}" for better, other in pairs) + " |"]
    lines.append("|---" * (len(pairs) + 1) + "|")
    by_cell = {(each.row, each.better, each.other): each for each in results}
    for row in rows:
        cells = [cell_text(by_cell.get((row, *pair))) for pair in pairs]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def cell_text(result: Result | None) -> str:
    if result is None:
        return "–"
    if result.error:
        return f"✗ {result.error.splitlines()[0]}"
    return "✓ " + ", ".join(f"{step} {took:.2f}" for step, took in result.steps.items())
