"""Run the real keepalived for comparison: also on a kernel without IPVS, and without edits of a table."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.processes import compile_c, used_by_process_s
from pylvs.model.errors import Unsupported

PROGRAM = "keepalived"
_SOURCE = Path(__file__).with_name("no_ipvs.c")
_PATIENCE_S = 30


def preload(folder: Path) -> Path:
    """Compile the library that replaces IPVS for keepalived, into this folder. Raises Unsupported."""
    return compile_c(_SOURCE, folder / "no_ipvs.so", "-shared", "-fPIC")


def program() -> str:
    """Return its path. Raises Unsupported."""
    found = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise Unsupported("there is no keepalived; install it: apt install keepalived")
    return found


@contextlib.contextmanager
def running(configuration: Path, library: Path) -> Iterator[subprocess.Popen[bytes]]:
    """keepalived's checks in this network namespace, in a session of their own; it logs to NAME.log.

    A session of its own, because a keepalived that gives up sends signals to its whole process group.
    """
    words = [program(), "--check", "--dont-fork", "--log-console", "--no-syslog", "--log-detail"]
    words += ["--use-file", str(configuration), "--pid", str(configuration.with_suffix(".pid"))]
    words += ["--checkers_pid", str(configuration.with_suffix(".checkers.pid"))]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    with configuration.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def used_s(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time of keepalived and its children. Raises Unsupported if it has ended."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return sum(used_by_process_s(number) for number in [process.pid, *map(int, children)])
    except OSError:
        raise Unsupported("keepalived has ended") from None
