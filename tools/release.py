"""Walk the checklist of a release, and tag it: `./dev release [--dry-run]`. docs/how-to/release.md has the steps."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools import deb, sbom, wheel
from tools.source import DIST, ROOT, BuildFailed, git, version


def clean_tree() -> str:
    """Return the commit. Raises BuildFailed if something is not committed."""
    if changed := git("status", "--porcelain"):
        raise BuildFailed(f"not committed: {', '.join(line[3:] for line in changed.splitlines())}")
    return git("rev-parse", "--short=12", "HEAD")


def versions() -> str:
    """Return the version. Raises BuildFailed if Python and Debian name different ones."""
    first = (ROOT / "debian/changelog").read_text().partition("\n")[0]
    found = re.search(r"\((.+)\)", first)
    if not found or found[1] != version():
        raise BuildFailed(f"debian/changelog begins with {first!r}; src/pylvs/__init__.py has {version()}")
    return version()


def changes() -> str:
    """Return the heading of this version in CHANGELOG.md. Raises BuildFailed if there is none with a date."""
    pattern = rf"^## \[?{re.escape(version())}\]? - \d{{4}}-\d\d-\d\d$"
    found = re.search(pattern, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not found:
        raise BuildFailed(f"CHANGELOG.md has no heading `## {version()} - YYYY-MM-DD`: rename `## Unreleased`")
    return found[0]


def tag() -> str:
    """Return the tag of this version. Raises BuildFailed if another commit has it."""
    name = f"v{version()}"
    if git("tag", "--list", name) and name not in git("tag", "--points-at", "HEAD").split():
        raise BuildFailed(f"another commit has the tag {name}")
    return name


def lint() -> str:
    """Return what ran. Raises BuildFailed."""
    done = subprocess.run([ROOT / "dev", "lint"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"./dev lint: {(done.stdout or done.stderr).strip().splitlines()[-1]}")
    return "ruff and mypy"


def _twice(build: Callable[[Path], Path]) -> Path:
    """Build into dist/, and once more elsewhere. Raises BuildFailed if the bytes differ."""
    built = build(DIST)
    with tempfile.TemporaryDirectory(prefix="pylvs-release-") as folder:
        again = build(Path(folder))
        if _digest(built) != _digest(again):
            raise BuildFailed(f"two builds of {built.name} differ")
    return built


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Files:
    """Build what a release publishes, and remember it for the SBOMs."""

    def __init__(self) -> None:
        self.built: list[Path] = []

    def wheel(self) -> str:
        """Build the wheel twice, and return its hash and name. Raises BuildFailed."""
        return self._add(_twice(wheel.build))

    def package(self) -> str:
        """Build the Debian package twice, check it, and return its hash and name. Raises BuildFailed."""
        package = _twice(lambda folder: deb.build(folder, version()))
        deb.lint(package)
        return self._add(package)

    def bills(self) -> str:
        """Write an SBOM for each file, and return how many components they name. Raises BuildFailed."""
        counts = [len(json.loads(sbom.write(each).read_text())["components"]) for each in self.built]
        return ", ".join(f"{each.name}: {count} components" for each, count in zip(self.built, counts, strict=True))

    def _add(self, path: Path) -> str:
        self.built.append(path)
        return f"{_digest(path)}  {path.name}"


def main(words: Sequence[str] | None = None) -> int:
    """Walk the checklist. Return 0, or 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="./dev release", description="Walk the checklist of a release.")
    parser.add_argument("--dry-run", action="store_true", help="do not tag; the changes may have no section yet")
    dry = parser.parse_args(words).dry_run
    files = Files()
    steps: list[tuple[str, Callable[[], str]]] = [
        ("clean tree", clean_tree),
        ("versions", versions),
        ("changes", changes),
        ("tag", tag),
        ("lint", lint),
        ("wheel", files.wheel),
        ("Debian package", files.package),
        ("SBOM", files.bills),
    ]
    failed = 0
    for name, step in steps:
        try:
            print(f"ok      {name}: {step()}", flush=True)
        except BuildFailed as error:
            excused = dry and step is changes
            failed += not excused
            print(f"{'to do ' if excused else 'FAILED'}  {name}: {error}", flush=True)
    if failed:
        print(f"release: {failed} of {len(steps)} steps failed; nothing was tagged", file=sys.stderr)
        return 1
    if dry:
        print(f"dry run: would create the tag {tag()}; the files are in dist/")
        return 0
    git("tag", "--annotate", tag(), "--message", f"pylvs {version()}")
    print(f"created the tag {tag()}; push it, and publish the files in dist/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
