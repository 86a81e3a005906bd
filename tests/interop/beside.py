"""`./dev bench-ipvs`, as root: compare pylvs with routing, nftables and the real IPVS, here and in Debian's kernels.

Guests run in parallel, because they count instructions instead of time; this machine runs afterwards, alone.
Exit status: 0, 1 if something could not be measured, 2 usage, 130 ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.beside import measure, table, traffic
from bench.program import progress
from pylvs.model.errors import NotPermitted, PylvsError
from tests.interop import guests
from tests.termination import unwind_on_sigterm

GUEST_S = 900
OPTIONS = ("--icount",)  # of the guest
BESIDE = (sys.executable, "-m", "bench.beside", "--json", "-")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("./dev bench-ipvs", description="pylvs beside routing, nftables and IPVS.")
    usual = " and ".join(guests.KERNELS)
    parser.add_argument("--kernel", action="append", help=f"of a guest ({usual}); may be repeated")
    parser.add_argument("--no-host", action="store_true", help="the guests alone")
    parser.add_argument("--no-guests", action="store_true", help="this machine alone")
    parser.add_argument("--quick", action="store_true", help="few packets: does it run at all")
    parser.add_argument("--json", type=Path, default=Path("bench-ipvs.json"), help="also write it here")
    return parser.parse_args(arguments)


def words(program: Path, *options: str) -> tuple[str, ...]:
    """Return the command that runs in a guest."""
    return (*BESIDE, "--instructions", "--traffic", str(program), *options)


def read(kernel: str, done: subprocess.CompletedProcess[str]) -> measure.Found:
    """Return the results of a guest. Raises Lost with its output."""
    if done.returncode:
        raise traffic.Lost(f"Linux {kernel}: {(done.stderr or done.stdout).strip()}")
    return measure.read(json.loads(done.stdout.splitlines()[-1]))


def _here(program: Path, quick: bool) -> measure.Found:
    size = measure.QUICK if quick else measure.Size()
    return measure.measure(os.uname().release, table.NANOSECONDS, program, size, progress)


def _measure(given: argparse.Namespace) -> list[measure.Found]:
    kernels = [] if given.no_guests else given.kernel or list(guests.KERNELS)
    quick = ("--quick",) if given.quick else ()
    running: dict[str, subprocess.Popen[str]] = {}
    if os.geteuid():
        raise NotPermitted("Operation not permitted; it makes network namespaces: run it as root")
    with tempfile.TemporaryDirectory(prefix="pylvs-traffic-") as folder:
        program = traffic.compile_traffic(Path(folder))
        try:
            for kernel in kernels:
                command = words(program, *quick)
                running[kernel] = guests.start(kernel, *command, options=OPTIONS, seconds=GUEST_S)
            if kernels:
                progress(f"{' and '.join(kernels)} as guests, which takes some minutes")
            found = [read(kernel, guests.finish(guest, GUEST_S)) for kernel, guest in running.items()]
        finally:
            for guest in running.values():
                guest.terminate()
                guest.wait()
        return found if given.no_host else [*found, _here(program, given.quick)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the results."""
    unwind_on_sigterm()
    given = _arguments(arguments)
    try:
        kernels = _measure(given)
        table.show(kernels)
        table.write(given.json, kernels)
    except KeyboardInterrupt:
        return 130
    except (PylvsError, guests.NoKernel) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"bench: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
