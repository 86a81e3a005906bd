"""Make what a release page needs, and tag the commit: `./dev release [--dry-run]` (docs/how-to/release.md)."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools import deb, sbom, source, wheel
from tools.source import BuildFailed, git, version

NOTES, SUMS = "RELEASE-NOTES.md", "SHA256SUMS"


# --- checks: nothing is built before all of them hold ---------------------------------------------------------------


def clean_tree() -> str:
    """Return the commit. Raises BuildFailed if something is not committed."""
    if changed := git("status", "--porcelain"):
        raise BuildFailed(f"not committed: {', '.join(line[3:] for line in changed.splitlines())}")
    return git("rev-parse", "--short=12", "HEAD")


def versions() -> str:
    """Return the version. Raises BuildFailed if Python and Debian name different ones."""
    first = (source.ROOT / "debian/changelog").read_text().partition("\n")[0]
    found = re.search(r"\((.+)\)", first)
    if not found or found[1] != version():
        raise BuildFailed(f"debian/changelog begins with {first!r}; src/pylvs/__init__.py has {version()}")
    return version()


def tag() -> str:
    """Return the tag of this version. Raises BuildFailed if it exists."""
    name = f"v{version()}"
    if git("tag", "--list", name):
        raise BuildFailed(
            f"{name} exists, at {git('rev-parse', '--short=12', f'{name}^{{commit}}')}: raise the version"
        )
    return name


def changes() -> str:
    """Return where the release notes come from. Raises BuildFailed unless exactly one place has them."""
    waiting, has_section = _fragments(), _section() is not None
    if waiting and has_section:
        raise BuildFailed(
            f"CHANGELOG.md has {version()} already, but changes/ has {', '.join(waiting)}: add them to it"
        )
    if waiting:
        _towncrier("--draft")
        return f"{len(waiting)} in changes/"
    if not has_section:
        raise BuildFailed(f"changes/ is empty, and CHANGELOG.md has no section `## {version()} - YYYY-MM-DD`")
    return "CHANGELOG.md"


def lint() -> str:
    """Return what ran. Raises BuildFailed."""
    done = subprocess.run([source.ROOT / "dev", "lint"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        raise BuildFailed(f"./dev lint: {lines[-1].removeprefix('dev: ')}")
    return "ruff and mypy"


# --- the release notes ----------------------------------------------------------------------------------------------


def _fragments() -> list[str]:
    return sorted(path.name for path in (source.ROOT / "changes").iterdir() if path.name != "README.md")


def _section() -> str | None:
    """Return the text below this version's heading in CHANGELOG.md, None without one that has a date."""
    heading = rf"^## {re.escape(version())} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(heading, (source.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    return found and found[1].strip()


def _towncrier(*words: str) -> str:
    command = [sys.executable, "-m", "towncrier", "build", "--version", version(), *words]
    done = subprocess.run(command, cwd=source.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        raise BuildFailed(f"changes/: {(errors or done.stderr.splitlines()[-1:])[0].removeprefix('Error: ')}")
    return done.stdout


def notes() -> str:
    """Return the release notes, in Markdown. Raises BuildFailed."""
    return _section() or _towncrier("--draft").partition("\n")[2].strip()


def assemble() -> str:
    """Move the changes into CHANGELOG.md, and commit that. Raises BuildFailed."""
    _towncrier("--yes")
    git("add", "--all", "CHANGELOG.md", "changes")
    git("commit", "--message", f"release: describe {version()}")
    return git("rev-parse", "--short=12", "HEAD")


# --- files ----------------------------------------------------------------------------------------------------------


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Files:
    """Build what a release publishes into a folder of its own."""

    def __init__(self) -> None:
        self.folder = source.DIST / version()
        self._packages: list[Path] = []
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def _twice(self, build: Callable[[Path], Path]) -> Path:
        """Build, and once more elsewhere. Raises BuildFailed if the bytes differ."""
        built = build(self.folder)
        with tempfile.TemporaryDirectory(prefix="pylvs-release-") as folder:
            if _digest(built) != _digest(build(Path(folder))):
                raise BuildFailed(f"two builds of {built.name} differ")
        return built

    def sdist(self) -> str:
        """Build the source archive twice, and return its name. Raises BuildFailed."""
        return self._twice(wheel.build_sdist).name

    def wheel(self) -> str:
        """Build the wheel twice, and return its name. Raises BuildFailed."""
        self._packages.append(self._twice(wheel.build))
        return self._packages[-1].name

    def package(self) -> str:
        """Build the Debian package twice, check it, and return its name. Raises BuildFailed."""
        package = self._twice(lambda folder: deb.build(folder, version()))
        deb.lint(package)
        self._packages.append(package)
        return package.name

    def bills(self) -> str:
        """Write an SBOM for each package, and return how many components they name. Raises BuildFailed."""
        bills = [sbom.write(each) for each in self._packages]
        counts = [len(json.loads(each.read_text())["components"]) for each in bills]
        return ", ".join(f"{each.name}: {count} components" for each, count in zip(bills, counts, strict=True))

    def notes(self) -> str:
        """Write the release notes, and return the name of the file. Raises BuildFailed."""
        (self.folder / NOTES).write_text(f"{notes()}\n")
        return NOTES

    def sums(self) -> str:
        """Write the hashes of all files, as `sha256sum --check` reads them, and return the name of the file."""
        lines = [f"{_digest(each)}  {each.name}\n" for each in sorted(self.folder.iterdir())]
        (self.folder / SUMS).write_text("".join(lines))
        return SUMS


# --- the walk -------------------------------------------------------------------------------------------------------


def sign(name: str) -> str:
    """Tag the commit, signed if git has a key, and return what to do next. Raises BuildFailed."""
    kind = "--sign" if git("config", "--default", "", "--get", "user.signingkey") else "--annotate"
    git("tag", kind, name, "--message", f"pylvs {version()}")
    return f"{name}; next: git push origin {name}, and publish the files"


def _run(steps: Sequence[tuple[str, Callable[[], str]]], to_the_end: bool = False) -> bool:
    """Run the steps, until one fails unless `to_the_end` is set. Return whether one failed."""
    failed = False
    for name, step in steps:
        try:
            print(f"ok      {name}: {step()}", flush=True)
        except BuildFailed as error:
            print(f"FAILED  {name}: {error}", file=sys.stderr, flush=True)
            failed = True
            if not to_the_end:
                break
    return failed


def main(words: Sequence[str] | None = None) -> int:
    """Walk the steps. Return 0, or 1 if one failed."""
    parser = argparse.ArgumentParser(prog="./dev release", description="Make the files of a release, and tag it.")
    parser.add_argument("--dry-run", action="store_true", help="make the files; neither commit nor tag")
    dry = parser.parse_args(words).dry_run
    checks = [("clean tree", clean_tree), ("versions", versions), ("tag", tag), ("changes", changes), ("lint", lint)]
    if _run(checks, to_the_end=True):
        print("release: nothing was built or tagged", file=sys.stderr)
        return 1
    files = Files()
    builds = [
        ("source", files.sdist),
        ("wheel", files.wheel),
        ("Debian package", files.package),
        ("SBOM", files.bills),
        ("notes", files.notes),
        ("hashes", files.sums),
    ]
    before = [("CHANGELOG.md", assemble)] if _fragments() else []
    after = [("tag", lambda: sign(tag()))]
    if _run(builds if dry else [*before, *builds, *after]):
        print("release: nothing was tagged; repeat it when that is repaired", file=sys.stderr)
        return 1
    for name, _ in [*before, *after] if dry else []:
        print(f"to do   {name}")
    print(f"the files are in {files.folder.relative_to(source.ROOT)}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
