"""`python -m bench`: measures everything and prints its tables. Exit status: 0, 1 failed, 2 usage, 130 ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import (
    cases,
    checks,
    commands,
    cores,
    daemon,
    document,
    large_table,
    packets,
    picture,
    record,
    report,
    schedulers,
    virtual_routers,
)
from bench.program import need_root, progress, status_of
from bench.record import Record
from bench.rows import ROWS
from pylvs.model.dataclass import dataclass

PARTS = ("packets", "schedulers", "cores", "commands", "large", "connections", "daemon", "checks", "vrrp")
_DOCUMENTS = Path("docs")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each part measures."""

    packets: cases.Size
    schedulers: schedulers.Size
    cores: cores.Size
    commands: commands.Size
    checks: checks.Size
    routers: virtual_routers.Size

    def shown(self) -> dict[str, float]:
        """What labels tell."""
        return {
            "flows": self.packets.flows,
            "part": self.packets.part,
            "services": self.commands.services,
            "destinations": self.commands.destinations,
            "connections": self.commands.connections,
            "checked": self.checks.servers,
            "every": self.checks.delay_s,
            "minutes": self.routers.minutes,
        }


USUAL = Sizes(cases.Size(), schedulers.Size(), cores.Size(), commands.Size(), checks.Size(), virtual_routers.Size())
QUICK = Sizes(cases.QUICK, schedulers.QUICK, cores.QUICK, commands.QUICK, checks.QUICK, virtual_routers.QUICK)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description="Measure what packets, commands and checks cost.")
    parser.add_argument("--quick", action="store_true", help="small tables and few rounds: does it run at all")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of the rows; may be repeated")
    parser.add_argument(
        "--katran", type=Path, metavar="DIR", help="compile Katran from this source tree, and measure it beside"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="how long virtual routers are measured (1; with --quick 0.1)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("bench.json"),
        help="file for the results (bench.json), with the picture beside it",
    )
    parser.add_argument("--from", type=Path, dest="before", metavar="FILE", help="show such a file, measure nothing")
    parser.add_argument("--write-docs", action="store_true", help="put tables and picture into docs/performance.md")
    given = parser.parse_args(words)
    if given.katran and (given.before or (given.only and "packets" not in given.only)):
        parser.error("--katran: only a measurement with the part packets runs Katran")
    return given


def _measure(parts: Sequence[str], sizes: Sizes, katran: Path | None) -> Record:
    found = Record({}, sizes.shown(), record.machine(), {})
    results = found.results
    if "packets" in parts:
        with packets.ready(sizes.packets, progress, katran) as bench:
            results |= bench.run(progress)
            results["connection_bytes"] = bench.connection_bytes()
            found.harness_ns.update(bench.overheads.all_ns())
    if "schedulers" in parts:
        results |= schedulers.measure(sizes.schedulers, progress)
    if "cores" in parts:
        results |= cores.measure(sizes.cores, progress)
    if "commands" in parts:
        progress("commands: a small table")
        results |= commands.measure_small(sizes.commands)
        results |= commands.measure_start(sizes.commands)
    if "large" in parts:
        results |= commands.measure_one(sizes.commands)
        results |= commands.measure_large(sizes.commands, progress)
    if "connections" in parts:
        results |= large_table.measure_listing(sizes.commands, progress)
    if "daemon" in parts:
        results |= daemon.measure_small(sizes.commands, progress)
        results |= daemon.measure(sizes.commands, progress)
    if "checks" in parts:
        results |= checks.measure(sizes.checks, progress)
    if "vrrp" in parts:
        results |= virtual_routers.measure(sizes.routers, progress)
    return found


def _sizes(given: argparse.Namespace) -> Sizes:
    chosen = QUICK if given.quick else USUAL
    if not given.minutes:
        return chosen
    return replace(chosen, routers=virtual_routers.Size(given.minutes))


def _tell(found: Record, given: argparse.Namespace) -> None:
    notes = report.footer(found.machine, found.harness_ns)
    if given.quick:
        notes.append("--quick shows that it runs: what a run itself costs is in these figures, and flatters ratios")
    rows = [row for row in ROWS if row.name in found.results] if given.only else ROWS
    report.show(found.results, found.sizes, notes, rows=rows)
    if not given.before:
        record.write(given.json, found)
        if drawn := picture.draw(found):
            given.json.with_suffix(".svg").write_text(drawn)
    if given.write_docs:
        document.write(_DOCUMENTS, found)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = _arguments(words)

    def run() -> int:
        if given.before:
            found = record.read(given.before)
        else:
            need_root("it loads eBPF and makes network namespaces: run it as root")
            found = _measure(given.only or PARTS, _sizes(given), given.katran)
        _tell(found, given)
        return 0

    return status_of("bench", run, given.json)


if __name__ == "__main__":
    sys.exit(main())
