"""`python -m tests.pss PID`: the memory of a process and of all below it. PSS shares a page among its processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def tree(process: int) -> Iterator[int]:
    """Yield a process and those below it that still run."""
    yield process
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        for child in thread.read_text().split():
            yield from tree(int(child))


def pss(process: int) -> int:
    """Return the proportional set size in bytes: proc(5), smaps_rollup."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Print a line for each process, and the sum."""
    found = {each: pss(each) for each in tree(int(sys.argv[1]))}
    for process, size in found.items():
        print(f"{size / 1e6:7.1f} MB  {process:7}  {Path(f'/proc/{process}/comm').read_text().strip()}")
    print(f"{sum(found.values()) / 1e6:7.1f} MB  {len(found):7}  processes")


if __name__ == "__main__":
    main()
