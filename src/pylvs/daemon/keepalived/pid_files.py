"""The PID files that keepalived has: scripts signal the daemon by them, and monitoring looks for its processes.

| | in /run | with use_pid_dir or instance, in /run/keepalived | with net_namespace, in /run/keepalived/NAME |
|---|---|---|---|
| daemon | keepalived.pid | keepalived[_INSTANCE].pid | keepalived[_INSTANCE].pid |
| checks | checkers.pid | checkers[_INSTANCE].pid | checkers[_INSTANCE].pid |
| virtual routers | vrrp.pid | vrrp[_INSTANCE].pid | vrrp[_INSTANCE].pid |
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from pylvs.daemon.parts import Part
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.wanted import Placement
from pylvs.system import lock
from pylvs.system.files import replace
from pylvs.system.logs import get_logger

RUN = Path("/run")
DIRECTORY = "keepalived"
_LONGEST = 32  # bytes of a PID file


@dataclass(frozen=True, slots=True)
class PidPaths:
    """The paths of the files; `required` if an option named one of them."""

    daemon: Path
    checkers: Path
    vrrp: Path
    required: bool = False

    @classmethod
    def of(cls, placement: Placement, daemon: str = "", checkers: str = "", vrrp: str = "") -> PidPaths:
        """Return the paths that options give, else those of keepalived."""
        folder = directory(placement)
        suffix = f"_{placement.instance}" if placement.instance else ""

        def path(given: str, name: str) -> Path:
            return Path(os.path.abspath(given)) if given else folder / f"{name}{suffix}.pid"

        required = bool(daemon or checkers or vrrp)
        return cls(path(daemon, "keepalived"), path(checkers, "checkers"), path(vrrp, "vrrp"), required)


def directory(placement: Placement) -> Path:
    """Return where keepalived has them: /run, or a directory below it."""
    if placement.net_namespace:
        return RUN / DIRECTORY / placement.net_namespace
    return RUN / DIRECTORY if placement.instance or placement.use_pid_dir else RUN


class PidFiles:
    """The files of one daemon, from `claim` to `release`. Another daemon's files stay as they are."""

    def __init__(self, paths: PidPaths) -> None:
        self.refused = ""  # why there are none
        self._paths = paths
        self._lock = -1
        self._written: dict[Path, int] = {}

    def claim(self) -> None:
        """Write the daemon's file. Raises PylvsError if an option named one and it cannot be written.

        By default the daemon runs without them: another daemon or keepalived may have the same names.
        """
        path = self._paths.daemon
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            other = _keepalived(path)
            if other:
                raise Busy(f"{path}: keepalived runs, process {other}; stop it, or choose another file with -p")
            self._lock = lock.claim(path)
        except lock.Held as held:
            self._refuse(Busy(f"{path}: process {held} has this file; stop it, or choose another file with -p"))
        except Busy as busy:
            self._refuse(busy)
        except OSError as error:
            self._refuse(Unsupported(f"{path}: {error.strerror}; choose another file with -p"))
        else:
            self._written[path] = os.getpid()

    def _refuse(self, error: PylvsError) -> None:
        if self._paths.required:
            raise error
        self.refused = str(error)  # the log is not set up yet

    def abandon(self) -> None:
        """In a forked child: let the lock be the parent's alone."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def write_checkers(self, pid: int) -> None:
        """Write the process of the health checks."""
        self._write(self._paths.checkers, pid)

    def write_vrrp(self, pid: int) -> None:
        """Write the process of the virtual routers; 0: there is none."""
        if pid:
            self._write(self._paths.vrrp, pid)
        else:
            self._remove(self._paths.vrrp)

    def _write(self, path: Path, pid: int) -> None:
        if self._lock < 0 or self._written.get(path) == pid:
            return
        try:
            replace(path, f"{pid}\n")
            self._written[path] = pid
        except OSError as error:
            get_logger().error(f"{path}: {error.strerror}")

    def _remove(self, path: Path) -> None:
        pid = self._written.pop(path, 0)
        if pid and _read(path) == pid:
            with contextlib.suppress(OSError):
                path.unlink()

    def release(self) -> None:
        """Remove the files."""
        for path in list(self._written):
            self._remove(path)
        self.abandon()


class PidPart(Part):
    """Writes and removes the files. `on_process` is called with each process of virtual routers."""

    def __init__(self, files: PidFiles, on_process: list[Callable[[int], None]]) -> None:
        self._files = files
        self._on_process = on_process

    def read(self) -> None:
        if self._files.refused:
            get_logger().info(f"no PID file is written: {self._files.refused}")
        self._files.write_checkers(os.getpid())
        self._on_process.append(self._files.write_vrrp)

    async def close(self) -> None:
        self._files.release()


def _read(path: Path) -> int:
    """Return the number in a PID file; 0 if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(descriptor, _LONGEST).strip()
        return int(text) if text.isdigit() else 0
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _keepalived(path: Path) -> int:
    """Return the running keepalived whose number a file has; 0 if there is none."""
    pid = _read(path)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            program = file.read().split(b"\0", 1)[0]
    except OSError:
        return 0
    return pid if os.path.basename(program) == b"keepalived" else 0
