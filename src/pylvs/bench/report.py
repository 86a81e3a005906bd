"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from pylvs.bench.rows import FLOOR, ROWS, Measured, Row, value_of
from pylvs.dataplane import takeover

HEADINGS = ("case", "Katran", "must reach", "then", "measured", "raw")


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "ratio":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    shown = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{shown} {'B' if unit == 'bytes' else unit}".rstrip()


def _raw(row: Row, found: Measured | None) -> str:
    if found is None or not found.samples:
        return ""
    if row.unit == "ratio":
        return f"{found.raw:.1f} ns less {found.overhead_ns:.1f}"
    if row.unit == "us":
        return f"{1e6 / found.net:,.0f} per core-second"
    return f"processor {_number(median(found.processor), row.unit)}" if found.processor else ""


def verdict(row: Row, value: float | None) -> str:
    """Beside a figure: whether it keeps the promise."""
    if value is None or row.must is None:
        return ""
    if value > row.must:
        return "over"
    return "then" if row.then is not None and value <= row.then else "ok"


def lines(results: dict[str, Measured], sizes: dict[str, float], rows: Sequence[Row] = ROWS) -> list[tuple[str, ...]]:
    """The table's cells, a tuple a row; the last cell is the verdict."""
    found = []
    for row in rows:
        measured = results.get(row.name)
        value = value_of(row, results)
        shown = _number(value, row.unit) if value is not None else "not measured"
        budget = [_number(each, row.unit) for each in (row.katran, row.must, row.then)]
        cells = (row.label.format(**sizes), *budget, shown, _raw(row, measured), verdict(row, value))
        found.append(cells)
    return found


def machine() -> dict[str, Any]:
    """Where it was measured."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "kernel": os.uname().release,
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "object": takeover.ours().digest,
        "load_average": os.getloadavg()[0],
    }


def footer(where: dict[str, Any], harness: dict[str, float]) -> list[str]:
    """What one must know beside the table."""
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


def _plain(cells: list[tuple[str, ...]], out: TextIO) -> None:
    rows = [(*HEADINGS, ""), *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        parts = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, len(row) - 1)), row[-1]]
        print("  ".join(parts).rstrip(), file=out)


def _rich(cells: list[tuple[str, ...]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="pylvs bench", title_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if not number else "right")
    colours = {"over": "red", "ok": "green", "then": "bold green", "": "default"}
    for *shown, kept in cells:
        shown[4] = f"[{colours[kept]}]{shown[4]}[/]"
        table.add_row(*shown)
    Console(file=out).print(table)


def show(
    results: dict[str, Measured],
    sizes: dict[str, float],
    notes: Iterable[str],
    out: TextIO = sys.stdout,
    rows: Sequence[Row] = ROWS,
) -> None:
    """Print the table: drawn on a terminal, plain otherwise."""
    cells = lines(results, sizes, rows)
    if out.isatty():
        _rich(cells, out)
    else:
        _plain(cells, out)
    for note in notes:
        print(note, file=out)


def write(
    path: Path,
    results: dict[str, Measured],
    sizes: dict[str, float],
    where: dict[str, Any],
    harness: dict[str, float],
    rows: Sequence[Row] = ROWS,
) -> None:
    """The same as JSON, with every sample. Raises OSError."""
    told = []
    for row in rows:
        found = results.get(row.name, Measured())
        told.append(
            {
                "name": row.name,
                "label": row.label.format(**sizes),
                "unit": row.unit,
                "katran": row.katran,
                "must": row.must,
                "then": row.then,
                "measured": value_of(row, results),
                "samples": found.samples,
                "overhead_ns": found.overhead_ns,
                "processor": found.processor,
            }
        )
    content = {"machine": where, "sizes": sizes, "floor": FLOOR, "harness_ns": harness, "rows": told}
    path.write_text(json.dumps(content, indent=1) + "\n")
