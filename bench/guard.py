"""`python -m bench.guard`: has a packet become dearer than the baseline says? For use before a commit.

Exit status: 0, 1 dearer or failed, 2 usage, 130 ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import cases, packets, record
from bench.program import need_root, progress, status_of
from bench.rows import FLOOR, FLOOR_TC, ROWS, value_of
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError

BASELINE = Path("bench/baseline.json")
ALLOWED = 1.15  # times the baseline
EXIT_DEARER = 1
_NAME = "bench-guard"
_PROGRESS = partial(progress, name=_NAME)


class NoBaseline(PylvsError):
    """The baseline is missing or cannot be read."""


def dearer(baseline: Mapping[str, float], measured: Mapping[str, float]) -> list[str]:
    """Return the rows that cost more than they may, in the baseline's order."""
    return [name for name, value in baseline.items() if name in measured and measured[name] > value * ALLOWED]


def read(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a baseline's ratios, and the machine that measured it. Raises NoBaseline."""
    try:
        content = json.loads(path.read_text())
        return {name: float(value) for name, value in content["ratios"].items()}, dict(content["machine"])
    except FileNotFoundError:
        raise NoBaseline(f"{path}: no baseline to compare with; make one with ./dev bench-guard --write") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoBaseline(f"{path}: this is no baseline; make one with ./dev bench-guard --write") from None


def write(path: Path, measured: Mapping[str, float], where: Mapping[str, Any]) -> None:
    """Write a new baseline. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    machine = {name: where[name] for name in ("kernel", "processor", "processors")}
    ratios = {name: round(value, 2) for name, value in measured.items()}
    path.write_text(json.dumps({"machine": machine, "ratios": ratios}, indent=1) + "\n")


def _measure(size: cases.Size, only: Collection[str] = ()) -> dict[str, float]:
    with packets.ready(size, _PROGRESS) as bench:
        results = bench.run(_PROGRESS, only)
    values = {row.name: value_of(row, results) for row in ROWS if row.name not in (FLOOR, FLOOR_TC)}
    return {name: value for name, value in values.items() if value is not None}


def _compare(baseline: Mapping[str, float], size: cases.Size) -> list[str]:
    """Print the table; return the rows that are dearer also in a second measurement."""
    measured = _measure(size)
    suspects = dearer(baseline, measured)
    if suspects:
        print(f"dearer at first, measured once more: {', '.join(suspects)}", flush=True)
        for name, value in _measure(size, suspects).items():
            print(f"{name:<16}{measured[name]:8.2f} at first, then {value:.2f}")
            measured[name] = min(measured[name], value)
    guilty = dearer(baseline, measured)
    for name, value in measured.items():
        was = baseline.get(name)
        change = f"{was:8.2f}  {value / was - 1:+6.0%}" if was else "       –       –"
        print(f"{name:<16}{value:8.2f}  was {change}{'  dearer' if name in guilty else ''}")
    return guilty


def main(words: Sequence[str] | None = None) -> int:
    """Measure the packet rows, compare or write."""
    parser = argparse.ArgumentParser("bench.guard", description="Fail when a packet costs more than before.")
    parser.add_argument("--write", action="store_true", help="make what is measured the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help=f"another one ({BASELINE})")
    parser.add_argument("--quick", action="store_true", help="small tables and few rounds: does it run at all")
    given = parser.parse_args(words)
    size, where = replace(cases.QUICK if given.quick else cases.Size(), budgets=False), record.machine()

    def run() -> int:
        need_root("run it as root")
        if given.write:
            write(given.baseline, _measure(size), where)
            print(f"written: {given.baseline}")
            return 0
        baseline, before = read(given.baseline)
        if any(before.get(name) != where[name] for name in ("kernel", "processor")):
            print(f"the baseline is of another machine: Linux {before.get('kernel')}, {before.get('processor')}")
        guilty = _compare(baseline, size)
        if not guilty:
            return 0
        most = f"{ALLOWED - 1:.0%}"
        print(f"bench-guard: over {most} dearer than {given.baseline}: {', '.join(guilty)}", file=sys.stderr)
        return EXIT_DEARER

    return status_of(_NAME, run, given.baseline)


if __name__ == "__main__":
    sys.exit(main())
