"""`python -m pylvs.bench`: measures everything and prints one table. Exit status: 0, 1 failed, 2 usage, 130 ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pylvs.bench import checks, commands, connections, daemon, packets, report, site, virtual_routers
from pylvs.bench.rows import Measured
from pylvs.model.errors import PylvsError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
PARTS = ("packets", "commands", "large", "connections", "daemon", "checks", "vrrp")


def progress(text: str) -> None:
    """Say what is being done, where somebody looks at it."""
    if sys.stderr.isatty():
        print(f"bench: {text}", file=sys.stderr)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("pylvs.bench", description="Measure what packets, commands and checks cost.")
    parser.add_argument("--quick", action="store_true", help="small tables and few rounds: does it run at all")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of the rows; may be repeated")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="how long virtual routers are looked at (1; with --quick 0.1)"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where else it goes (bench.json)")
    return parser.parse_args(words)


def _measure(
    parts: Sequence[str],
    path_size: packets.Size,
    command_size: commands.Size,
    check_size: checks.Size,
    router_size: virtual_routers.Size,
) -> tuple[dict[str, Measured], dict[str, float]]:
    results: dict[str, Measured] = {}
    harness: dict[str, float] = {}
    if "packets" in parts:
        with packets.ready(path_size, progress) as bench:
            results |= bench.run(progress)
            results["connection_bytes"] = bench.connection_bytes()
            harness = bench.overheads.all_ns()
    if "commands" in parts:
        progress("commands: a small table")
        results |= commands.measure_small(command_size)
    if "large" in parts:
        results |= commands.measure_one(command_size)
        results |= commands.measure_large(command_size, progress)
    if "connections" in parts:
        results |= connections.measure(command_size, progress)
    if "daemon" in parts:
        results |= daemon.measure(command_size, progress)
    if "checks" in parts:
        results |= checks.measure(check_size, progress)
    if "vrrp" in parts:
        results |= virtual_routers.measure(router_size, progress)
    return results, harness


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = _arguments(words)
    if os.geteuid():
        print(
            "bench: Operation not permitted; it loads eBPF and makes network namespaces: run it as root",
            file=sys.stderr,
        )
        return EXIT_FAILED
    path_size, command_size = (packets.QUICK, commands.QUICK) if given.quick else (packets.Size(), commands.Size())
    check_size = checks.QUICK if given.quick else checks.Size()
    router_size = virtual_routers.QUICK if given.quick else virtual_routers.Size()
    if given.minutes:
        router_size = virtual_routers.Size(given.minutes)
    sizes: dict[str, float] = {
        "flows": path_size.flows,
        "part": path_size.part,
        "services": command_size.services,
        "destinations": command_size.destinations,
        "connections": command_size.connections,
        "checked": check_size.servers,
        "every": check_size.delay_s,
        "minutes": router_size.minutes,
    }
    where = report.machine()
    try:
        with site.interruptible():
            results, harness = _measure(given.only or PARTS, path_size, command_size, check_size, router_size)
        notes = report.footer(where, harness)
        if given.quick:
            notes.append("--quick shows that it runs: what a run itself costs is in these figures, and flatters ratios")
        report.show(results, sizes, notes)
        report.write(given.json, results, sizes, where, harness)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PylvsError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"bench: {given.json}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
