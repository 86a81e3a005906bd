"""The newest kernels of Debian's and Ubuntu's suites, unpacked for `tests/oracle/vm`.

apt fetches and verifies them, with a configuration of its own: the machine's sources and lists stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.package.roots import SUITES, keyring_of

CACHE = Path(os.environ.get("PYLVS_VM_CACHE", Path.home() / ".cache" / "pylvs-vm"))
_NEEDED = ("linux-image-", "linux-binary-", "linux-base-", "linux-modules-")
_RELEASE = re.compile(r"linux-(?:image|binary|base|modules)-(?:extra-|unsigned-)?\d+\.\d+\.\d+")  # no metapackage


class NoSource(Exception):
    """A kernel cannot be fetched; the text is apt's reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """A package that depends on the newest kernel of a suite; `like` names the suite whose archive and keys it has."""

    title: str
    suite: str
    like: str
    package: str
    components: str = "main"


SOURCES = {
    "bookworm": Source("Debian 12", "bookworm", "bookworm", "linux-image-amd64"),
    "bookworm-backports": Source("Debian 12, backports", "bookworm-backports", "bookworm", "linux-image-amd64"),
    "trixie": Source("Debian 13", "trixie", "trixie", "linux-image-amd64"),
    "trixie-backports": Source("Debian 13, backports", "trixie-backports", "trixie", "linux-image-amd64"),
    "testing": Source("Debian testing", "testing", "trixie", "linux-image-amd64"),
    "sid": Source("Debian unstable", "sid", "trixie", "linux-image-amd64"),
    "noble": Source("Ubuntu 24.04", "noble-updates", "noble", "linux-image-generic"),
    "noble-hwe": Source("Ubuntu 24.04, HWE", "noble-updates", "noble", "linux-image-generic-hwe-24.04"),
}


def _apt(folder: Path, *command: str) -> str:
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Retries": "3",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    done = subprocess.run([command[0], *words, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSource(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _image(folder: Path, package: str) -> list[str]:
    """Return the packages with the kernel and its modules, which a metapackage leads to."""
    found, new = list[str](), [package]
    while new:
        lines = _apt(folder, "apt-cache", "depends", "--important", *new).splitlines()
        names = {line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("Depends:")}
        new = sorted(each for each in names if each.startswith(_NEEDED) and each not in found)
        found += new
    return [each for each in found if _RELEASE.match(each)]


def fetch(name: str) -> Path:
    """Return the folder with the newest kernel of a source, which is fetched at most once. Raises NoSource."""
    source = SOURCES[name]
    archive, keyring, _, _ = SUITES[source.like]
    folder = CACHE / "sources" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _fetched(source, folder, f"[arch=amd64 signed-by={keyring_of(keyring)}] {archive}")


def _fetched(source: Source, folder: Path, archive: str) -> Path:
    for each in "state/lists/partial", "cache/archives/partial":
        (folder / each).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb {archive} {source.suite} {source.components}\n")
    _apt(folder, "apt-get", "-qq", "update")
    packages = _image(folder, source.package)
    if not packages:
        raise NoSource(f"{source.suite} has no kernel that {source.package} depends on")
    kernel = folder / packages[0]
    if not kernel.exists():
        _apt(folder, "apt-get", "-qq", "download", *packages)
        fresh = folder / "new"
        shutil.rmtree(fresh, ignore_errors=True)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, fresh], check=True)
            package.unlink()
        if not (fresh / "lib").exists():
            (fresh / "lib").symlink_to("usr/lib")
        fresh.rename(kernel)
    return kernel
