"""This source tree: its files, its commit and its version, for everything that is built from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


class BuildFailed(Exception):
    """Something cannot be built; the text says what, and what to do."""


def git(*words: str) -> str:
    """Return what git prints, without the last line end. Raises BuildFailed."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise BuildFailed("git is not installed: apt install git") from None
    except subprocess.CalledProcessError as error:
        cause = error.stderr.strip().partition("\n")[0]
        advice = "; build in a clone" if "not a git repository" in cause else ""
        raise BuildFailed(f"git {words[0]}: {cause}{advice}") from None
    return done.stdout.rstrip("\n")


def version() -> str:
    """Return the version that the package has in Python."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/pylvs/__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def commit_time() -> int:
    """Return the Unix time of the commit, which each built file has. SOURCE_DATE_EPOCH, if set, replaces it."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct"))


def files() -> list[str]:
    """Return the files that belong to the tree: those that git has, and new ones that it does not ignore."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


def put(built: Path, folder: Path) -> Path:
    """Copy a built file into a folder, as a whole, and return its path there."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{built.name}.new"
    fresh.write_bytes(built.read_bytes())
    return fresh.replace(folder / built.name)


def copy_to(folder: Path) -> None:
    """Copy the tree's files, so that a build neither finds nor leaves anything in it."""
    for name in files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
