"""Programs that pylvs starts: scripts of an operator, and its own."""

from __future__ import annotations

import os
import sys

import pylvs


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this copy of pylvs, as `python -m` does, in any directory."""
    folder = os.path.dirname(os.path.dirname(os.path.realpath(pylvs.__file__)))
    code = f"import runpy, sys; sys.path.insert(0, {folder!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", code, *arguments]
