"""Programs that pylvs starts: scripts of an operator, and its own."""

from __future__ import annotations

import ctypes
import os
import sys

import pylvs
from pylvs.system.logs import one_line

# Variables that say whether Python keeps compiled modules, and where. ./dev sets them.
COMPILED_MODULES = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this copy of pylvs, as `python -m` does, in any directory."""
    folder = os.path.dirname(os.path.dirname(os.path.realpath(pylvs.__file__)))
    code = f"import runpy, sys; sys.path.insert(0, {folder!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", code, *arguments]


def other_version(version: object = pylvs.__version__) -> str:
    """Return what to say of a process of another version: pip replaced the files below a daemon that runs."""
    return f"is of version {one_line(str(version))[:100]}, which was installed since: restart pylvs run"


def show_as(*words: str) -> None:
    """Replace the command line of this process, which ps and pgrep -f show, by these words as far as there is space.

    For a process that was forked and is another program now. `PR_SET_MM` would need CAP_SYS_RESOURCE.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: fields 48 and 49 of proc(5)
    text = "\0".join(words).encode(errors="surrogateescape")[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def import_asyncio() -> None:
    """Import asyncio without OpenSSL, which takes 1.4 MB in each process. Call it before anything else imports asyncio.

    asyncio's own support of TLS is missing then: pylvs uses none of it. What needs OpenSSL imports `ssl` later.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        __import__("asyncio")
    finally:
        del sys.modules["ssl"]
