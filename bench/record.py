"""Write results as JSON, and read them again for the same tables."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.rows import BUDGET_RESULTS, BUDGETS, FLOOR, ROWS, SCHEDULER_FLOOR, SCHEDULER_ROWS, Measured, Row, value_of
from pylvs.dataplane.state import own_build
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError


class NoRecord(PylvsError):
    """A file is not a record of the bench."""


@dataclass(frozen=True, slots=True)
class Record:
    """A run of the bench: results by row, sizes, the machine, and the cost of the harness."""

    results: dict[str, Measured]
    sizes: dict[str, float]
    machine: dict[str, Any]
    harness_ns: dict[str, float]


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
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
        "object": own_build().digest,
        "load_average": os.getloadavg()[0],
    }


def _rows(record: Record, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    schedulers = [row for each in SCHEDULER_ROWS.values() for row in each]
    if SCHEDULER_FLOOR in record.results:
        schedulers.insert(0, Row(SCHEDULER_FLOOR, "floor of the schedulers' rows", "ratio", floor=SCHEDULER_FLOOR))
    further = [each for each in (*BUDGET_RESULTS, *schedulers) if each.name in record.results]
    budgets = [each for each in BUDGETS if value_of(each, record.results) is not None]
    for row in (*rows, *further, *budgets):
        found = record.results.get(row.result, Measured())
        yield {
            "name": row.name,
            "label": row.label.format(**record.sizes),
            "unit": row.unit,
            "result": row.result,
            "floor": row.floor,
            "katran": row.katran,
            "must": row.must,
            "then": row.then,
            "measured": value_of(row, record.results),
            "samples": found.samples,
            "overhead_ns": found.overhead_ns,
            "processor": found.processor,
            "beside": found.beside,
        }


def write(path: Path, record: Record, rows: Sequence[Row] = ROWS) -> None:
    """Write the record, with every sample. Raises OSError."""
    content = {
        "machine": record.machine,
        "sizes": record.sizes,
        "floor": FLOOR,
        "harness_ns": record.harness_ns,
        "rows": list(_rows(record, rows)),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> Record:
    """Read a record. Raises OSError, NoRecord."""
    try:
        content = json.loads(path.read_text())
        results = {
            row["name"]: Measured(row["samples"], row["overhead_ns"], row["processor"], row.get("beside", []))
            for row in content["rows"]
            if row["samples"] and row.get("result", row["name"]) == row["name"]
        }
        return Record(results, content["sizes"], content["machine"], content["harness_ns"])
    except (ValueError, KeyError, TypeError):
        raise NoRecord(f"{path}: this is no bench.json; make one with ./dev bench") from None
