"""Remove what killed test runs left on this machine: `python -m tests.sweep`.

A test process registers (tests/running.py), and then holds a lock on a file until it ends. The names of labs and
network namespaces of tests contain the PID of their process. If that process once registered and its lock is free,
they are left over. Labs and directors of users have no record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pylvs.dataplane.state import collect_dead_states
from pylvs.lab.lab import labs, take_down
from pylvs.lab.processes import end_all, identity
from pylvs.model.errors import PylvsError
from pylvs.system.namespaces import NAMED
from pylvs.system.syscalls import unmount
from tests.running import RECORDS

FOLDERS = (Path("/var/tmp"), Path(tempfile.gettempdir()))
# Directories of guests and tests have no record. One is left over if no process uses it, and if it is older than any
# test run. A process in another PID namespace is not visible here.
PREFIXES = (
    *("oracle.", "pylvs-conformance.", "pylvs-keepalived.", "pylvs-open-", "pylvs-ld-", "pylvs-cli-", "pylvs-times-"),
    *("pylvs-vrrp-", "pylvs-traffic-", "pylvs dev.", "pylvs-commands-", "pylvs-guest.", "oracle-vm.", "oracle-record."),
    *("pylvs-public-", "pylvs-bfd-", "pylvs-bus-", "pylvs-package-", "pylvs-page-", "pylvs-deb-"),
    *("pylvs-objects-", "pylvs-zig-", "pylvs-every-"),
)
OLD_S = 6 * 3600
LAB = r"t{0}x\d+|tut[a-z_]+{0}"
NAMESPACE = r"pylvs-(?:(?:cli-|[a-z]+){0}[a-z]?|(?:pk|td){0}-(?:\d+|br)|v{0}x\d+-\w+)"


def sweep() -> list[str]:
    """Remove what is left over; return its names."""
    with _ended_runs() as numbers:
        removed = [name for number in numbers for name in (*_labs(number), *_namespaces(number))]
    removed += [f"tables of network namespace {cookie}" for cookie in collect_dead_states()]
    return removed + [str(folder) for root in dict.fromkeys(FOLDERS) for folder in _folders(root)]


@contextlib.contextmanager
def _ended_runs() -> Iterator[list[int]]:
    """Yield the PIDs of registered processes that have ended, and remove their records afterwards."""
    ended: dict[Path, int] = {}
    living = set()
    with contextlib.ExitStack() as locks:
        for record in sorted(RECORDS.glob("*.*")) if RECORDS.is_dir() else ():
            file = locks.enter_context(open(record, "rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended[record] = int(record.stem)
            except BlockingIOError:
                living.add(int(record.stem))
        yield sorted(set(ended.values()) - living)
        for record in ended:
            record.unlink(missing_ok=True)


def _labs(number: int) -> Iterator[str]:
    for name, _ in labs():
        if re.fullmatch(LAB.format(number), name) and take_down(name):
            yield f"lab {name}"


def _namespaces(number: int) -> Iterator[str]:
    for path in sorted(NAMED.glob(f"pylvs-*{number}*")) if NAMED.is_dir() else ():
        if not re.fullmatch(NAMESPACE.format(number), path.name):
            continue
        if here := identity(path):
            end_all([here])
        if subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False).returncode == 0:
            yield f"network namespace {path.name}"


# --- directories -----------------------------------------------------------------------------------------------------


def _folders(root: Path) -> Iterator[Path]:
    found = [path for path in sorted(root.iterdir()) if path.name.startswith(PREFIXES) and _old(path)]
    used = _used(found)
    for folder in found:
        if folder not in used:
            for below in _mounts(folder):
                unmount(below)
            if not _mounts(folder):
                shutil.rmtree(folder, ignore_errors=True)
                yield folder


def _old(path: Path) -> bool:
    """Return whether it is a directory of this user, made before any run that may still be active."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mtime < time.time() - OLD_S


def _used(folders: list[Path]) -> set[Path]:
    """Return the directories that a process is in, has open, or got as an argument."""
    used: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*") if folders else ():
        words = [_read(process / "cmdline")]
        for link in (process / "cwd", process / "root", process / "exe", *_listed(process / "fd")):
            with contextlib.suppress(OSError):
                words.append(os.readlink(link))
        text = "\0".join(words)
        used |= {folder for folder in folders if str(folder) in text}
    return used


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _mounts(folder: Path) -> list[Path]:
    """Return mounts at a directory and below, the innermost first."""
    points = [Path(line.split()[4]) for line in _read(Path("/proc/self/mountinfo")).splitlines()]
    return sorted((point for point in points if point.is_relative_to(folder)), reverse=True)


def main() -> None:
    """Sweep, and print what was removed. Leftovers must not keep tests from running."""
    try:
        for name in sweep():
            print(f"removed what a killed test run left: {name}")
    except (PylvsError, OSError) as error:
        print(f"tests.sweep: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
