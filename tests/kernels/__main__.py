"""Boot kernels, and print what works there: `./dev kernels [KERNEL...] [--card MODEL] [--write]`.

A kernel is a source of tests/kernels/sources.py, or what `tests/oracle/vm --kernel` takes. Without one, all sources
are tried. A guest takes five to fifteen minutes without KVM.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.interop import guests
from tests.interop.forwarding_in_guest import NATIVE_SINCE
from tests.kernels.sources import SOURCES, NoSource, fetch
from tests.kernels.table import Seen, table, write

GUEST_S = 2400
_SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.kernel_in_guest", "--devices", "--release")


def see(kernel: str, card: str) -> Seen:
    """Boot a kernel, and return what it printed. Raises NoSource and guests.NoKernel."""
    where = str(fetch(kernel)) if kernel in SOURCES else kernel
    title = SOURCES[kernel].title if kernel in SOURCES else Path(kernel).name
    options = ("--nics", "2", "--smp", "1", "--card", card)
    done = guests.finish(guests.start(where, *_SCENARIO, "--card", card, options=options, seconds=GUEST_S), GUEST_S)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    failure = ""
    if done.returncode:
        failure = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return Seen(kernel, title, lines.pop("release", "?"), card, lines, failure)


def main() -> int:
    """Return 1 if something does not work on a kernel, 69 if one cannot be fetched."""
    parser = argparse.ArgumentParser(prog="./dev kernels", description="Boot kernels, and print what works there.")
    parser.add_argument("kernel", nargs="*", help=f"one of {', '.join(SOURCES)}; a release, a folder or a package")
    parser.add_argument("--card", action="append", choices=NATIVE_SINCE, help="the model of the network devices")
    parser.add_argument("--write", action="store_true", help="update docs/reference/kernels.md")
    chosen = parser.parse_args()
    rows, status = list[Seen](), 0
    for kernel in chosen.kernel or SOURCES:
        for card in chosen.card or ["virtio-net-pci"]:
            began = time.monotonic()
            try:
                rows.append(see(kernel, card))
            except (NoSource, guests.NoKernel) as error:
                print(f"kernels: {kernel}: {error}", file=sys.stderr)
                status = 69
                continue
            result = rows[-1].failure or f"{len(rows[-1].lines)} tests passed"
            print(
                f"kernels: {kernel} ({rows[-1].release}), {card}: {result}; {time.monotonic() - began:.0f} s",
                flush=True,
            )
            if chosen.write and rows[-1].lines:  # it booted
                write(rows[-1:])
    print(*table(rows), sep="\n")
    return status or int(any(seen.failure for seen in rows))


if __name__ == "__main__":
    sys.exit(main())
