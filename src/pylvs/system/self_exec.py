"""Command lines of further pylvs processes, with this interpreter and this copy of pylvs in any current directory."""

from __future__ import annotations

import sys
from pathlib import Path

import pylvs


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module, as `python -m` does."""
    folder = str(Path(pylvs.__file__).resolve().parents[1])
    code = f"import runpy, sys; sys.path.insert(0, {folder!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", code, *arguments]
