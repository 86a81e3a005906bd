"""`python -m bench.failover`: what clients notice when the master is killed, loses its link, is stopped, or yields.

pylvs beside keepalived, with virtual routers that advertise every 10 ms, or with BFD. The packets are pylvs's in both
cases, because IPVS is in the kernel of few machines. Exit status as the bench's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence

from bench import record, report
from bench.failover import failbacks
from bench.failover.network import BFD, BGP, DR, KEEPALIVED, NAT, PYLVS, VRRP, Setup
from bench.failover.trial import EVENTS, QUICK, Found, Size, play
from bench.program import need_root, progress, status_of
from pylvs.lab.routing import BIRD

_DETECTIONS = {"vrrp": VRRP, "bfd": BFD, "bgp": BGP}
_LASTING = 100  # connections of each method that live through all failbacks
_HEADINGS = ("the master is", "method", "program", "detection", "gap of new", "gap before", "established lost")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.failover", description="Measure what clients notice of a failover.")
    parser.add_argument("--quick", action="store_true", help="few connections: does it run at all")
    parser.add_argument("--sync", action="store_true", help="the directors keep their connections in sync")
    parser.add_argument("--program", choices=(PYLVS, KEEPALIVED), action="append", help="of the virtual routers")
    parser.add_argument("--detection", choices=_DETECTIONS, action="append", help="of a dead master")
    parser.add_argument("--method", choices=(DR, NAT), action="append", help="of forwarding")
    parser.add_argument("--event", choices=[each.split()[0] for each in EVENTS], action="append", help="of the master")
    parser.add_argument(
        "--failbacks", type=_positive, default=0, metavar="N", help="the master ends and returns so often, instead"
    )
    return parser.parse_args(words)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _setups(given: argparse.Namespace) -> Iterator[Setup]:
    programs = given.program or [PYLVS, *([KEEPALIVED] if shutil.which(KEEPALIVED) else ())]
    for method in given.method or (DR, NAT):
        for detection in given.detection or _DETECTIONS:
            if detection == "bgp" and (method == NAT or not shutil.which(BIRD)):
                continue  # its directors do not share the gateway of the real servers
            for program in programs if detection != "bgp" else [PYLVS]:
                yield Setup(program, _DETECTIONS[detection], method, given.sync)


def cells(found: Found) -> tuple[str, ...]:
    """Return the cells of the table."""
    gaps = f"{found.gap_s * 1000:.0f} ms", f"{found.gap_before_s * 1000:.0f} ms"
    setup = found.setup
    return (
        found.event,
        setup.method,
        setup.program,
        setup.detection,
        *gaps,
        f"{found.lost:,} of {found.established:,}",
    )


def measure(given: argparse.Namespace, size: Size) -> list[Found]:
    """Measure all that was asked for. Raises FailoverFailed."""
    events = [each for each in EVENTS if not given.event or each.split()[0] in given.event]
    found: list[Found] = []
    for setup in _setups(given):
        found += play(setup, events, size, lambda text: progress(text, "bench.failover"))
    return sorted(found, key=lambda each: (EVENTS.index(each.event), each.setup.method != DR))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print."""
    given = _arguments(words)

    def run() -> int:
        need_root("it makes network namespaces and loads eBPF: run it as root")
        size = QUICK if given.quick else Size()
        if given.failbacks:
            return failbacks.main(given.failbacks, _LASTING, lambda text: progress(text, "bench.failover"))
        found = measure(given, size)
        print(f"{size.established:,} established connections, {size.rate:,} new ones a second, ", end="")
        print("with sync" if given.sync else "without sync")
        print(*report.aligned([_HEADINGS, *map(cells, found)]), sep="\n")
        notes = report.footer(record.machine(), {})
        print(*(line for line in notes if not line.startswith("ratios")), sep="\n")
        return 0

    return status_of("bench.failover", run)


if __name__ == "__main__":
    sys.exit(main())
