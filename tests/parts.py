"""The parts of `./dev test-all`, and the record of each that passed.

A part takes 40 minutes at most, so each can run at another time. If all of it passed, it has a record. This holds for
later commits, too, while the files that the part depends on stay the same, and Python and the kernel. These files are
all of the tree, except those that the part ignores.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.passed_before import digest

MOST_S = 40 * 60


@dataclass(frozen=True, slots=True)
class Part:
    """Some phases, by name; and patterns of the files that do not decide their result."""

    phases: Sequence[str]
    ignores: Sequence[str] = ()

    def depends_on(self, path: str) -> bool:
        """Return whether a file of the tree decides the result."""
        return not any(fnmatch.fnmatch(path, pattern) for pattern in self.ignores)


def files_of(root: Path) -> list[str]:
    """Return the paths of all files that git tracks or would track; none outside a repository."""
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return sorted({path for path in done.stdout.split("\0") if path}) if done.returncode == 0 else []


def digest_of(part: Part, root: Path) -> str:
    """Return a digest of what decides the result of a part; "" outside a repository, where no record holds."""
    paths = files_of(root)
    if not paths:
        return ""
    found = hashlib.sha256("\0".join((*part.phases, sys.version, os.uname().release)).encode())
    for path in filter(part.depends_on, paths):
        found.update(f"{path}\0{digest(root / path)}\0".encode())
    return found.hexdigest()


def commit_of(root: Path) -> str:
    """Return the short name of the commit; "" outside a repository."""
    command = ["git", "-c", f"safe.directory={root}", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Records:
    """The records in a directory, a file for each part."""

    folder: Path
    root: Path

    def _path(self, part: Part) -> Path:
        name = hashlib.sha256("\0".join(part.phases).encode()).hexdigest()[:16]
        return self.folder / f"{name}.json"

    def passed(self, part: Part) -> str:
        """Return when a part passed with the same files, for a line of output; "" if it has to run."""
        try:
            written = json.loads(self._path(part).read_text())
        except (OSError, ValueError):
            return ""
        now = digest_of(part, self.root)
        if not now or written["digest"] != now:
            return ""
        return f"passed at {written['commit']} on {written['date']}, in {written['seconds']:.0f} s"

    def write(self, part: Part, before: str, seconds: float) -> None:
        """Record that a part passed, unless its files have changed since it began, with the digest `before`."""
        if not before or digest_of(part, self.root) != before:
            return
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        text = {"digest": before, "commit": commit_of(self.root), "date": f"{date} UTC", "seconds": seconds}
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self._path(part).with_suffix(".new")
        fresh.write_text(json.dumps(text | {"phases": list(part.phases)}))
        fresh.replace(self._path(part))

    def forget(self, part: Part) -> None:
        """Remove the record of a part that failed."""
        self._path(part).unlink(missing_ok=True)
