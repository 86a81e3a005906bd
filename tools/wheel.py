"""Build the wheel in dist/, with its SBOM: `python -m tools.wheel`. Two builds of a commit have equal bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import sbom
from tools.source import DIST, BuildFailed, commit_time, copy_to, put


def build(target: Path) -> Path:
    """Build the wheel from a copy of the tree into a folder, and return its path. Raises BuildFailed."""
    return _build(target, "wheel")


def build_sdist(target: Path) -> Path:
    """Build the source archive in the same way, and return its path. Raises BuildFailed."""
    return _build(target, "sdist")


def _build(target: Path, kind: str) -> Path:
    with tempfile.TemporaryDirectory(prefix="pylvs-wheel-") as name:
        tree, made = Path(name, "tree"), Path(name, "made")
        copy_to(tree)
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(made)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(commit_time()), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildFailed(f"the {kind} cannot be built: {(done.stderr or done.stdout).strip()}")
        (built,) = made.iterdir()
        return put(built, target)


def main() -> int:
    """Build, and print the paths. Return 0, or 1 after a line on stderr."""
    try:
        wheel = build(DIST)
        print(wheel)
        print(sbom.write(wheel))
    except BuildFailed as error:
        print(f"wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
