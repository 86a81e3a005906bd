"""What `./dev` prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WIDTH = 76


class Stopped(Exception):
    """`./dev` cannot go on; the text is one line, with the cause and what to do."""


def say(text: str) -> None:
    """Print a line on stderr."""
    print(f"dev: {text}", file=sys.stderr, flush=True)


def run_logged(command: Sequence[str], log: Path, shown: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run a command, and append its output to a log. Return its status.

    Lines that begin with one of `shown` are its progress: on a terminal in one line, elsewhere every eighth of them.
    """
    number, terminal = 0, sys.stderr.isatty()
    with log.open("a", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            if not line.startswith(shown):
                continue
            number += 1
            text = line.rstrip("\n")[:WIDTH]
            if terminal:
                print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)
            elif number % 8 == 0:
                print(f"  {number}: {text}", file=sys.stderr, flush=True)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return process.wait()
