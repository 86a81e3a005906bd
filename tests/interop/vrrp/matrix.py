"""All cells of the matrix, several at a time, and the table of what came of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.interop.vrrp.cell import Result, play
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS
from tests.interop.vrrp.rows import ROWS, Row

PAIRS = ((PYLVS, KEEPALIVED), (KEEPALIVED, PYLVS), (PYLVS, PYLVS), (KEEPALIVED, KEEPALIVED))
AT_ONCE = 16

Cell = tuple[Row, str, str]


def every_cell(rows: Sequence[Row] = ROWS, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Cell]:
    """The whole matrix."""
    return [(row, *pair) for row in rows for pair in pairs]


def each_row_once() -> list[Cell]:
    """pylvs with keepalived, the better router now the one and now the other."""
    return [(row, *PAIRS[number % 2]) for number, row in enumerate(ROWS)]


def play_all(cells: Iterable[Cell], progress: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Their results, in the order of the cells."""
    with tempfile.TemporaryDirectory(prefix="pylvs-vrrp-") as name, ThreadPoolExecutor(AT_ONCE) as pool:
        Path(name).chmod(0o755)  # scripts look into it
        asked = {pool.submit(play, *cell, Path(name, str(at))): at for at, cell in enumerate(cells)}
        found: dict[int, Result] = {}
        for done in as_completed(asked):
            found[asked[done]] = done.result()
            progress(done.result())
    results = [found[at] for at in sorted(found)]
    compare_frames(results)
    return results


def compare_frames(results: Iterable[Result]) -> None:
    """A master's frames are the same whichever program sent them: the first difference is the cell's trouble."""
    theirs = {each.row.name: each.spoken for each in results if each.better == KEEPALIVED and each.spoken}
    for each in results:
        known = theirs.get(each.row.name)
        if each.better == PYLVS and each.spoken and known and known != each.spoken and not each.trouble:
            each.trouble = f"its advertisement differs from keepalived's:\n    {each.spoken.hex()}\n    {known.hex()}"


def table(results: Sequence[Result]) -> str:
    """In Markdown: a row for each row, a column for each pair that was played."""
    pairs = [pair for pair in PAIRS if any((each.better, each.other) == pair for each in results)]
    rows = list(dict.fromkeys(each.row for each in results))
    lines = ["| | " + " | ".join(f"{better} → {other}" for better, other in pairs) + " |"]
    lines.append("|---" * (len(pairs) + 1) + "|")
    by_cell = {(each.row, each.better, each.other): each for each in results}
    for row in rows:
        cells = [told(by_cell.get((row, *pair))) for pair in pairs]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def told(result: Result | None) -> str:
    """What stands in a cell."""
    if result is None:
        return "–"
    if result.trouble:
        return f"✗ {result.trouble.splitlines()[0]}"
    return "✓ " + ", ".join(f"{step} {took:.2f}" for step, took in result.steps.items())
