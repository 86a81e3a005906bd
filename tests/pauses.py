"""`python -m tests.pauses COMMAND...`, as root: run a command on a machine that is paused now and then.

    python -m tests.pauses --longest 3 ./dev test

All processes of the command stop at once for up to `--longest` seconds, like those of a virtual machine whose host is
busy. The clock and the kernel's timers continue. A test that fails only here depends on a time. The exit status is the
command's.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.termination import unwind_on_sigterm

STATES = {"freezer.state": ("THAWED", "FROZEN"), "cgroup.freeze": ("0", "1")}  # of cgroups of version 1, and 2
JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


class Group:
    """A control group, whose processes can be stopped together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self, frozen: bool) -> None:
        """Stop all processes, or let them continue."""
        for name, values in STATES.items():
            if (self.path / name).exists():
                (self.path / name).write_text(values[frozen])

    def processes(self) -> list[int]:
        return [int(each) for each in (self.path / "cgroup.procs").read_text().split()]


def hierarchy() -> Path:
    """Return where a control group can be made that freezes."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if (kind == "cgroup2" or (kind == "cgroup" and "freezer" in options.split(","))) and os.access(path, os.W_OK):
            return Path(path)
    raise PermissionError("no hierarchy of control groups can be written here: run it as root")


@contextmanager
def new_group() -> Iterator[Group]:
    """Yield a new control group; at the end its processes continue, and leave it."""
    parent = hierarchy()
    path = parent / f"pylvs-pauses-{os.getpid()}"
    path.mkdir()
    made = Group(path)
    try:
        yield made
    finally:
        made.freeze(False)
        while found := made.processes():
            for process in found:
                try:
                    (parent / "cgroup.procs").write_text(str(process))
                except ProcessLookupError:
                    continue
        path.rmdir()


def run(command: Sequence[str], longest_s: float, every_s: float, seed: int) -> tuple[int, int]:
    """Run a command with pauses. Return its exit status, and the number of pauses."""
    chance, pauses = random.Random(seed), 0
    with new_group() as group:
        process = subprocess.Popen(["sh", "-c", JOIN, str(group.path), *command])
        try:
            while True:
                try:
                    return process.wait(chance.uniform(0, 2 * every_s)), pauses
                except subprocess.TimeoutExpired:
                    group.freeze(True)
                    time.sleep(chance.uniform(0, longest_s))
                    group.freeze(False)
                    pauses += 1
        finally:
            group.freeze(False)
            if process.poll() is None:
                process.terminate()
                process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.pauses", description="run a command with pauses of the machine"
    )
    parser.add_argument("--longest", type=float, default=3.0, metavar="S", help="pause for up to so long (3)")
    parser.add_argument("--every", type=float, default=20.0, metavar="S", help="on average, between two pauses (20)")
    parser.add_argument("--seed", type=int, default=0, help="of both times (0)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("there is no command")
    unwind_on_sigterm()
    try:
        status, pauses = run(given.command, given.longest, given.every, given.seed)
    except PermissionError as error:
        print(f"pauses: {error}", file=sys.stderr)
        return 1
    print(f"pauses: {pauses}, of up to {given.longest:g} s", file=sys.stderr)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
