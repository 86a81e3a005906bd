"""All cells of the matrix, several at a time, and the table of what came of them."""

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
    return [found[at] for at in sorted(found)]


def recorded() -> dict[str, str]:
    """Return keepalived's advertisements by the names of rows, in hexadecimal."""
    return dict(json.loads(FRAMES.read_text(encoding="ascii")))


def record(results: Iterable[Result]) -> None:
    """Write the advertisements of those cells in which keepalived was the better router."""
    frames = {each.row.name: each.spoken.hex() for each in results if each.better == KEEPALIVED and each.spoken}
    FRAMES.write_text(json.dumps(frames, indent=1) + "\n", encoding="ascii")


def compare_frames(results: Iterable[Result], known: Mapping[str, str]) -> None:
    """A master's frame is the recorded one, whichever program sent it; a difference is the cell's trouble.

    Cells in which keepalived is the better router check the recording itself.
    """
    for each in results:
        frame = known.get(each.row.name)
        if not each.trouble and each.spoken.hex() != frame:
            each.trouble = f"{each.better}'s advertisement is not as recorded:\n    {each.spoken.hex()}\n    {frame}"


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
