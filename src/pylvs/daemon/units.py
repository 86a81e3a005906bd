"""The state directory of the daemon that a unit of systemd starts, for the commands of that unit.

With `net_namespace`, `instance` or `--state-dir` it is not the default one of the network namespace in which systemd
runs commands. `Environment=PYLVS_UNIT=%n` gives the unit's name to the daemon, which notes its directory under that
name, and to the commands, which find the note. It stays after a crash of the daemon, and until the next boot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pylvs.daemon import STATE_ROOT, UNITS
from pylvs.model.errors import PylvsError
from pylvs.system import lock
from pylvs.system.logs import get_logger

VARIABLE = "PYLVS_UNIT"
PID_FILE = "pid"  # of the daemon, in its state directory


def note(directory: Path) -> None:
    """Note the state directory of this daemon, if a unit starts it. Errors are logged."""
    unit = os.environ.get(VARIABLE, "")
    noted = _noted(unit) if unit else directory
    if noted == directory:
        return
    link = _link(unit)
    draft = link.with_name(f".{link.name}.new")
    try:
        UNITS.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.symlink_to(directory)
        draft.rename(link)
    except OSError as error:
        get_logger().error(f"{UNITS}: {error.strerror}: systemctl may not find this daemon after a crash")


def former(directory: Path) -> Path | None:
    """Return the directory that the unit's last daemon noted, if it is another one than this; None if it is removed."""
    unit = os.environ.get(VARIABLE, "")
    noted = _noted(unit) if unit else None
    if noted is None or noted == directory or not noted.is_dir() or lock.holder(noted / PID_FILE):
        return None
    return noted


def directory_of(unit: str) -> Path | None:
    """Return the state directory of the unit's daemon; None: the default one. Raises PylvsError.

    Beside a daemon that runs, systemd gives its process to a command (MAINPID): the directory with this process counts.
    """
    noted, process = _noted(unit), os.environ.get("MAINPID", "")
    if not process.isdecimal():
        return noted
    for path in _candidates(noted):
        if _process(path) == process:
            return path
    raise PylvsError(
        f"{unit}: process {process} has no state directory below {STATE_ROOT}, and none is noted in {UNITS}: "
        "it is starting, or is no pylvs run"
    )


def directories() -> list[Path]:
    """Return the state directories that the daemons of units have noted."""
    return [noted for link in sorted(UNITS.glob("*")) if (noted := _noted(link.name)) is not None]


def _candidates(noted: Path | None) -> Iterator[Path]:
    if noted is not None:
        yield noted
    yield from sorted(STATE_ROOT.glob("*"))


def _process(directory: Path) -> str:
    try:
        return (directory / PID_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _link(unit: str) -> Path:
    return UNITS / unit.replace("/", "-")


def _noted(unit: str) -> Path | None:
    try:
        return Path(os.readlink(_link(unit)))
    except OSError:
        return None
