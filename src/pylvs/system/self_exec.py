"""More processes of pylvs's own: the same Python, the same pylvs, wherever it lies and whatever the directory is."""

from __future__ import annotations

import sys
from pathlib import Path

import pylvs


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module, as `python -m` does."""
    folder = str(Path(pylvs.__file__).resolve().parents[1])
    code = f"import runpy, sys; sys.path.insert(0, {folder!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", code, *arguments]
