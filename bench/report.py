"""Print the results as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO

from bench.rows import BUDGETS, REFERENCES, ROWS, SCHEDULED_SERVERS, SCHEDULER_ROWS, Measured, Row, value_of

if TYPE_CHECKING:
    from rich.table import Table as Drawn

HEADINGS = ("case", "Katran", "must reach", "then", "measured", "raw")
BUDGET_HEADINGS = ("budget", "ratio to", "must reach", "then", "measured", "net")
SCHEDULER_HEADINGS = ("new connection, by scheduler", *(f"{each:,} servers" for each in SCHEDULED_SERVERS))

Table = list[tuple[str, ...]]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "ratio":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    if unit == "relative":
        return f"{value:.2f}"
    if unit == "x":
        return f"{value:.2f} x"
    shown = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{shown} {'B' if unit == 'bytes' else unit}".rstrip()


def _raw(row: Row, found: Measured | None) -> str:
    if found is None or not found.samples:
        return ""
    if row.unit == "ratio":
        return f"{found.raw:.1f} ns less {found.overhead_ns:.1f}"
    if found.beside:
        return f"floor {_number(median(found.beside), row.unit)}"
    if row.unit == "us":
        return f"{1e6 / found.net:,.0f} per core-second"
    return f"processor {_number(median(found.processor), row.unit)}" if found.processor else ""


def verdict(row: Row, value: float | None) -> str:
    """Return whether a figure keeps its promise."""
    if value is None or row.must is None:
        return ""
    if row.unit == "x":
        return "ok" if value >= row.must else "under"
    if value > row.must:
        return "over"
    return "then" if row.then is not None and value <= row.then else "ok"


def lines(results: dict[str, Measured], sizes: dict[str, float], rows: Sequence[Row] = ROWS) -> Table:
    """Return the table's cells, a tuple a row; the last cell is the verdict."""
    found = []
    for row in rows:
        measured = results.get(row.name)
        value = value_of(row, results)
        shown = _number(value, row.unit) if value is not None else "not measured"
        budget = [_number(each, row.unit) for each in (row.katran, row.must, row.then)]
        cells = (row.label.format(**sizes), *budget, shown, _raw(row, measured), verdict(row, value))
        found.append(cells)
    return found


_IN_MICROSECONDS = {row.name for row in ROWS if row.unit == "us"}


def budget_lines(results: dict[str, Measured], sizes: dict[str, float]) -> Table:
    """Return the cells of the budgets that were measured; the last cell is the verdict."""
    found = []
    for row in BUDGETS:
        value = value_of(row, results)
        if value is None:
            continue
        budget = [_number(each, row.unit) for each in (row.must, row.then, value)]
        unit = "us" if row.result in _IN_MICROSECONDS else "ns"
        net = f"{results[row.result].net:.1f} of {results[row.floor].net:.1f} {unit}"
        found.append((row.label.format(**sizes), REFERENCES[row.floor], *budget, net, verdict(row, value)))
    return found


def scheduler_lines(results: dict[str, Measured]) -> Table:
    """Return the cells of the schedulers, as ratios to the floor; none if they were not measured."""
    found = []
    for name, rows in SCHEDULER_ROWS.items():
        values = [value_of(row, results) for row in rows]
        if any(values):
            found.append((name, *(_number(value, row.unit) for value, row in zip(values, rows, strict=True))))
    return found


def footer(where: dict[str, Any], harness: dict[str, float]) -> list[str]:
    """Return notes about the machine and the method."""
    found = [
        f"Linux {where['kernel']}, {where['processors']} x {where['processor']}, Python {where['python']}",
        "ratios: to the floor of the same run, the harness's own cost taken off both; medians",
    ]
    if harness:
        found.append("harness: " + ", ".join(f"{name} {cost:.1f} ns" for name, cost in harness.items()))
    if where["load_average"] > where["processors"]:
        busy = f"load average {where['load_average']:.1f} on {where['processors']} processors"
        found.append(f"this machine is busy ({busy}): what waits for memory comes out too dear")
    return found


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines; the first row has the headings. Cells beyond its columns follow without alignment."""
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    found = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in columns[1:])]
        found.append("  ".join([*cells, *row[len(columns) :]]).rstrip())
    return found


def drawn(title: str, headings: Sequence[str]) -> Drawn:
    """Return a table for a terminal, without rows."""
    from rich.table import Table as Drawn

    table = Drawn(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _print_drawn(title: str, headings: Sequence[str], cells: Table, out: TextIO) -> None:
    from rich.console import Console

    table = drawn(title, headings)
    colours = {"over": "red", "under": "red", "ok": "green", "then": "bold green", "": "default"}
    for row in cells:
        shown = list(row[: len(headings)])
        if len(row) > len(headings):
            shown[4] = f"[{colours[row[-1]]}]{shown[4]}[/]"
        table.add_row(*shown)
    Console(file=out).print(table)


def show(
    results: dict[str, Measured],
    sizes: dict[str, float],
    notes: Iterable[str],
    out: TextIO = sys.stdout,
    rows: Sequence[Row] = ROWS,
) -> None:
    """Print the tables: drawn on a terminal, plain otherwise."""
    tables: list[tuple[str, Sequence[str], Table]] = [("pylvs bench", HEADINGS, lines(results, sizes, rows))]
    if budgets := budget_lines(results, sizes):
        tables.append(("budgets", BUDGET_HEADINGS, budgets))
    if schedulers := scheduler_lines(results):
        tables.append(("schedulers", SCHEDULER_HEADINGS, schedulers))
    for number, (title, headings, cells) in enumerate(tables):
        if out.isatty():
            _print_drawn(title, headings, cells, out)
        elif cells:
            if number:
                print(file=out)
            print(*aligned([tuple(headings), *cells]), sep="\n", file=out)
    for note in notes:
        print(note, file=out)
