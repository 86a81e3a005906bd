"""`python -m bench.beside`: pylvs beside what this kernel has. Exit status: 0, 1 failed, 2 usage, 130 ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.beside import measure, table, traffic
from bench.beside.ways import WAYS
from bench.program import need_root, progress, status_of


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench.beside", description="Measure pylvs beside routing, nftables and IPVS on this kernel."
    )
    parser.add_argument("--quick", action="store_true", help="few packets: does it run at all")
    names = [way.name for way in WAYS]
    parser.add_argument("--way", action="append", choices=names, help="only this; may be repeated")
    parser.add_argument("--json", type=Path, help="file for the results; - prints them alone")
    parser.add_argument("--traffic", type=Path, help="the program of traffic.c, compiled (compiled here)")
    parser.add_argument(
        "--instructions", action="store_true", help="this is a guest whose clock counts instructions: less will do"
    )
    return parser.parse_args(words)


def run(given: argparse.Namespace) -> measure.Found:
    """Everything on this kernel. Raises PylvsError."""
    unit = table.INSTRUCTIONS if given.instructions else table.NANOSECONDS
    size = measure.QUICK if given.quick else measure.COUNTED if given.instructions else measure.Size()
    with tempfile.TemporaryDirectory(prefix="pylvs-traffic-") as folder:
        program = given.traffic or traffic.compile_traffic(Path(folder))
        return measure.measure(os.uname().release, unit, program, size, progress, given.way)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = _arguments(words)

    def measured() -> int:
        need_root("it makes network namespaces: run it as root")
        found = run(given)
        if str(given.json) == "-":
            print(json.dumps(found.plain()))
            return 0
        table.show([found])
        if given.json:
            table.write(given.json, [found])
        return 0

    return status_of("bench", measured)


if __name__ == "__main__":
    sys.exit(main())
