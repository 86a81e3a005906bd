"""Build the Debian package in dist/, with its SBOM, and check it: `python -m tools.deb [--version VERSION]`.

A commit with the tag of its version gives that version. Others get the time and name of the commit, and sort before it.
Two builds of a commit have equal bytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

from tools import sbom
from tools.source import DIST, BuildFailed, commit_time, copy_to, git, put, version

_SHOWN_LINES = 15  # of the log of a build that failed


def package_version() -> str:
    """Return the version of this commit's package. Raises BuildFailed."""
    release = version()
    if f"v{release}" in git("tag", "--points-at", "HEAD").split():
        return release
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(int(git("log", "-1", "--format=%ct"))))
    return f"{release}~git{moment}.{git('rev-parse', '--short=8', 'HEAD')}"


def _set_version(changelog: Path, chosen: str) -> None:
    """Give the newest entry this version, and the time of the commit."""
    lines = changelog.read_text().splitlines()
    words = lines[0].split()
    lines[0] = " ".join([words[0], f"({chosen})", *words[2:]])
    last = next(number for number, line in enumerate(lines) if line.startswith(" -- "))
    lines[last] = f"{lines[last].rpartition('>')[0]}>  {formatdate(commit_time())}"
    changelog.write_text("\n".join(lines) + "\n")


def build(target: Path, chosen: str | None = None) -> Path:
    """Build the package from a copy of the tree into a folder, and return its path. Raises BuildFailed."""
    with tempfile.TemporaryDirectory(prefix="pylvs-deb-") as name:
        tree = Path(name, "pylvs")
        copy_to(tree)
        _set_version(tree / "debian/changelog", chosen or package_version())
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(commit_time()),
            "PYLVS_PYTHON": sys.executable,
        }
        # -d: nothing is compiled by build-essential, which dpkg-buildpackage would ask for.
        command = ["dpkg-buildpackage", "--build=binary", "--no-sign", "-d"]
        done = subprocess.run(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
        )
        if done.returncode:
            log = done.stdout.strip().splitlines()
            raise BuildFailed("\n".join([*log[-_SHOWN_LINES:], "the package cannot be built: the lines above say why"]))
        (package,) = Path(name).glob("*.deb")
        return put(package, target)


def lint(package: Path) -> str:
    """Return what lintian finds. Raises BuildFailed if an error is among it."""
    command = ["lintian", "--no-cfg", "--fail-on", "error", "--suppress-tags", "bad-distribution-in-changes-file"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    done = subprocess.run([*command, str(package)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{done.stdout}{done.stderr}lintian found errors in {package.name}")
    return done.stdout


def main(words: Sequence[str] | None = None) -> int:
    """Build and check, and print the paths. Return 0, or 1 after a line on stderr."""
    parser = argparse.ArgumentParser(prog="./dev deb", description="Build the Debian package in dist/.")
    parser.add_argument("--version", help="another version than that of the commit")
    given = parser.parse_args(words)
    try:
        package = build(DIST, given.version)
        print(lint(package), end="")
        print(package)
        print(sbom.write(package))
    except BuildFailed as error:
        print(f"deb: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
