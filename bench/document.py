"""The figures in docs/performance.md: between two marks, always those of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import picture, report
from bench.record import Record
from bench.rows import ROWS
from pylvs.model.errors import PylvsError

BEGIN = "<!-- measured: written by ./dev bench --write-docs -->"
END = "<!-- end of measured -->"
DOCUMENT, PICTURE = "performance.md", "bench.svg"


class NoMarks(PylvsError):
    """There is no document with marks to write between."""


def _table(headings: Sequence[str], cells: report.Table) -> list[str]:
    width = len(headings)
    rule = "|---|" + "---:|" * (width - 1)
    return ["| " + " | ".join(headings) + " |", rule, *("| " + " | ".join(row[:width]) + " |" for row in cells)]


def block(record: Record) -> str:
    """Return the text between the marks."""
    measured = [row for row in ROWS if row.name in record.results]
    found = [f"![What a packet costs, in times of the floor]({PICTURE})", ""]
    found += _table(report.HEADINGS, report.lines(record.results, record.sizes, measured))
    if budgets := report.budget_lines(record.results, record.sizes):
        found += ["", *_table(report.BUDGET_HEADINGS, budgets)]
    if schedulers := report.scheduler_lines(record.results):
        found += ["", *_table(report.SCHEDULER_HEADINGS, schedulers)]
    notes = report.footer(record.machine, record.harness_ns)
    return "\n".join([*found, "", *(f"- {note}" for note in notes)])


def replaced(text: str, fresh: str) -> str:
    """Return the document with another block. Raises ValueError when it lacks a mark."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("no marks")
    return f"{head}{BEGIN}\n{fresh}\n{END}{tail}"


def write(folder: Path, record: Record) -> None:
    """Put a run's tables and picture into the documents. Raises NoMarks, OSError."""
    document = folder / DOCUMENT
    try:
        text = replaced(document.read_text(), block(record))
    except (FileNotFoundError, ValueError):
        raise NoMarks(
            f"{document}: the marks for figures are missing ({BEGIN}); run it in the project's folder"
        ) from None
    document.write_text(text)
    (folder / PICTURE).write_text(picture.draw(record))
