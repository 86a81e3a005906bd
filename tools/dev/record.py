"""What `./dev` brings to a machine: noted before it comes, removed by `./dev undo`.

The record is a directory of lists. `packages` has names of Debian packages; `configured`, those of them whose
configuration was there before. `lists` means that apt had no lists, and `caches` names directories in homes. `dev`
writes the first three, too, where it installs Python.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tools.dev import dpkg
from tools.dev.report import Stopped, say

HERE = Path(__file__).parents[2]
VENV = HERE / ".venv"
CACHE = HERE / ".cache" / "dev"
RECORD = Path("/var/lib/pylvs-dev")
VOLATILE = Path("/run/pylvs-dev.record")  # directories of /run that were not there; a reboot removes them and this
LOCK = Path("/run/pylvs-dev.lock")
LISTS = Path("/var/lib/apt/lists")
MOUNTED = ("/run/netns", "/run/pylvs")  # directories that labs and directors make
LOG = RECORD / "undo.log"


def note(name: str, *words: str) -> None:
    """Add words to a list of the record."""
    RECORD.mkdir(parents=True, exist_ok=True)
    with (RECORD / name).open("a") as file:
        file.writelines(f"{word}\n" for word in words)


def noted(name: str) -> list[str]:
    """Return the words of a list, sorted."""
    return _words(RECORD / name)


def _words(path: Path) -> list[str]:
    try:
        return sorted(set(path.read_text().splitlines()))
    except FileNotFoundError:
        return []


def note_caches(*folders: str) -> None:
    """Note directories, and those around them, before anything makes them. Only root has a record."""
    if os.geteuid() != 0:
        return
    for folder in folders:
        for path in folder, f"{os.path.dirname(folder)}/":
            if not os.path.exists(path) and path not in noted("caches"):
                note("caches", path)


def cache_home() -> str:
    """Return the directory of this user's caches."""
    return os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME') or '/root'}/.cache"


def note_test_caches() -> None:
    """Note guests, from tests/oracle/vm, and roots, from tests/package."""
    home = f"{os.environ.get('HOME') or '/root'}/.cache"
    note_caches(
        os.environ.get("PYLVS_VM_CACHE") or f"{home}/pylvs-vm",
        os.environ.get("PYLVS_ROOTS_CACHE") or f"{home}/pylvs-roots",
    )


def note_folders() -> None:
    """Note directories of /run before anything makes them."""
    for folder in MOUNTED:
        if not os.path.exists(folder) and folder not in _words(VOLATILE):
            with VOLATILE.open("a") as file:
                file.write(f"{folder}\n")


def has_lists() -> bool:
    """Return whether apt has lists of packages."""
    return bool(_lists())


def _lists() -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [each for each in LISTS.iterdir() if each.is_file() and each.name != "lock"]
    return []


# --- undo ----------------------------------------------------------------------------------------------------------


def undo(command: str) -> None:
    """Remove what dev brought. `command` starts ./dev in the caller's shell. Raises Stopped while pylvs is in use."""
    lab = Path("/run/pylvs/lab")
    labs = sorted(each.name for each in lab.iterdir() if each.is_dir()) if lab.is_dir() else []
    if labs:
        raise Stopped(f"labs are up: {' '.join(labs)}; first run {command} run pylvs lab down --all")
    if any(each.is_file() for each in Path("/run/pylvs/bpf").glob("*/**/*")):
        raise Stopped(f"pylvs has tables on this machine; first run {command} run pylvs down")
    with dpkg.locked(LOCK):
        # First of all, because another user of dpkg stops it. From here on no module is imported: Python may be gone.
        _remove_packages()
        if noted("lists"):
            for each in _lists():
                each.unlink()
        for folder in reversed(noted("caches")):
            if folder.endswith("/"):
                with contextlib.suppress(OSError):  # something else is in it
                    os.rmdir(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        _remove_folders(reversed(_words(VOLATILE)))
        for path in RECORD / "lists", RECORD / "caches", VOLATILE:
            path.unlink(missing_ok=True)
        for path in VENV, HERE / ".cache":
            shutil.rmtree(path, ignore_errors=True)
        LOCK.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # packages were kept
            RECORD.rmdir()
    say("removed .venv and .cache of this clone, and what dev brought to this machine; the clone itself is yours")


def _remove_packages() -> None:
    """Remove the packages of the record. It keeps those that could not be removed."""
    names = [name for name in noted("packages") if dpkg.status(name) not in ("", "not-installed")]
    if names:
        dpkg.wait()
        configured = set(noted("configured"))
        say(f"removing {len(names)} packages: {' '.join(names)}")
        with LOG.open("w") as log:
            # dpkg, not apt-get: it keeps those that other packages have come to need, and removes no others.
            for name in sorted(configured):
                dpkg.run("--remove", name, log=log)
            if purged := [name for name in names if name not in configured]:
                dpkg.run("--purge", *purged, log=log)
        if "locked by another process" in LOG.read_text(errors="replace"):
            raise Stopped("another process uses dpkg; try again when it has ended")
        left = {name: state for name in names if (state := dpkg.status(name)) not in ("", "not-installed")}
        kept = [name for name, state in left.items() if name not in configured or state != dpkg.CONFIGURATION]
        if kept:
            (RECORD / "packages").write_text("".join(f"{name}\n" for name in kept))
            why = "because other packages need them or dpkg could not remove them"
            say(f"kept, {why}: {' '.join(kept)} (log: {LOG})")
            return
    for path in RECORD / "packages", RECORD / "configured", LOG:
        path.unlink(missing_ok=True)


def _remove_folders(folders: Iterable[str]) -> None:
    """Unmount directories of /run, and remove them unless they are in use."""
    while _unmount("/run/pylvs/bpf", "-l"):
        pass
    for folder in folders:
        if any(not each.is_dir() for each in Path(folder).rglob("*")):
            say(f"kept {folder}: it is in use")
            continue
        while _unmount(folder):
            pass
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _unmount(folder: str, *options: str) -> bool:
    return subprocess.run(["umount", *options, folder], capture_output=True, check=False).returncode == 0
