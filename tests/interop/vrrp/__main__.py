"""`./dev interop`, as root: run every cell of the matrix, and with --times measure outages; --write updates docs.

Exit status: 0, or 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.interop import keepalived
from tests.interop.vrrp import matrix, times
from tests.interop.vrrp.cell import CellFailed, Result
from tests.interop.vrrp.rows import ROWS
from tests.interop.vrrp.times import Times
from tests.termination import unwind_on_sigterm

PAGE = Path(__file__).parents[3] / "docs/reference/vrrp-interoperability.md"

HEAD = """\
# pylvs and keepalived as VRRP peers
Check which modes of VRRP are tested between pylvs and keepalived (2.2.7). Two routers are on a switch, one of higher
priority. Each runs pylvs or keepalived, with the same keepalived.conf. Every cell of the table tests:
- Election: the better router alone sends advertisements and holds the addresses, and a client's packets reach it.
- Stop (SIGTERM): it sends priority 0, and the other takes over. It returns, and takes over again.
- Kill (SIGKILL of all its processes): the other takes over, not before the master down timer. It returns.
- Packets: neither reports an error. The master's frames are equal byte for byte, from both programs.
  Exceptions are IPv6's flow label, and unicast's hop limit: 64 with keepalived, 255 with pylvs.

A column is named "better → other". The figures are the seconds until the other's first advertisement. "failed" is the
tracked script or cable; if that only lowers the priority, the other waits as for a dead master. Rows without a
version are version 2, with advertisements every second. Those of version 3 have them every 0.1 s. With nopreempt the
returning router stays backup, and takes over once the other stops.

Made by `./dev interop --times --write`, as root.

"""
TIMES_HEAD = """
## How long a client waits
Both routers run the same program. The master is stopped, or its machine dies: its cable then carries nothing. A
client requests the address every millisecond; its pause is the longest time between two answered requests. Medians of
{trials}, with the longest in brackets, in the same run on the same machine ({processors} processors).

"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("./dev interop", description="pylvs and keepalived as each other's peers in VRRP.")
    parser.add_argument("--times", action="store_true", help="also how long a client waits when the master stops")
    parser.add_argument("--only-times", action="store_true", help="that alone")
    parser.add_argument("--write", action="store_true", help="keep what was played in docs/reference")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="only this; again for more")
    parser.add_argument("--pair", action="append", metavar="BETTER,OTHER", help="only this; again for more")
    parser.add_argument("--trials", type=int, default=times.TRIALS, help=f"of each time ({times.TRIALS})")
    return parser.parse_args()


def page(results: Sequence[Result], found: Sequence[Times]) -> str:
    """Return the page of the reference."""
    text = HEAD + matrix.table(results)
    if found:
        text += TIMES_HEAD.format(trials=len(found[0].pauses), processors=os.cpu_count()) + times.table(found)
    return text


def main() -> int:
    """Run, print and write the results."""
    given = _arguments()
    if why := keepalived.why_not():
        print(f"interop: {why}", file=sys.stderr)
        return 1
    unwind_on_sigterm()
    begin = time.monotonic()

    def progress(text: str) -> None:
        print(f"interop: {time.monotonic() - begin:3.0f} s: {text}", file=sys.stderr)

    results: list[Result] = []
    if not given.only_times:
        rows = [row for row in ROWS if not given.row or row.name in given.row]
        pairs = [pair for pair in matrix.PAIRS if not given.pair or ",".join(pair) in given.pair]
        cells = matrix.every_cell(rows, pairs)
        results = matrix.play_all(cells, lambda each: progress(f"{each.name}{': not so' if each.error else ''}"))
        if given.write:
            matrix.record(results)
        matrix.compare_frames(results, matrix.recorded())
        print(matrix.table(results))
    failed = [each for each in results if each.error]
    for each in failed:
        print(f"{each.name}: {each.error}\n")
    if results:
        print(f"{len(results)} cells, {len(failed)} not so, in {time.monotonic() - begin:.0f} s")
    found: list[Times] = []
    if given.times or given.only_times:
        try:
            found = times.measure(trials=given.trials, progress=progress)
        except CellFailed as error:
            print(f"interop: {error}", file=sys.stderr)
            return 1
        print(f"\n{times.table(found)}", end="")
    if given.write and results:
        PAGE.write_text(page(results, found), encoding="utf-8")
        print(f"\nwritten: {PAGE.relative_to(PAGE.parents[2])}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
