"""Start, stop and list the sync daemons of this network namespace.

A daemon is a process, pylvs-sync. `pylvs.sync.files` shows which run.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator

from pylvs.model import sockets as socket
from pylvs.model.errors import DaemonRuns, NoDaemon, NoSuchDevice, PylvsError, needs_root
from pylvs.model.rows import ServiceRow
from pylvs.model.sync.daemons import ROLES, RunningDaemon, SyncDaemon, check
from pylvs.sync.files import DaemonFiles
from pylvs.system.processes import command

# Until it is ready. A worker may use 300 s until its first turn, and then waits for its receiver and for whole tables.
START_S = 420.0
END_S = 5.0  # for its last messages, before it is killed
_PAUSE_S = 0.01


def running(files: DaemonFiles | None = None) -> Iterator[RunningDaemon]:
    """Yield the daemons that run, the master first. Raises NotPermitted for other users than root."""
    files = files or DaemonFiles()
    if os.geteuid() and os.path.isdir(files.directory):
        raise needs_root("which sync daemons run")
    for role in ROLES:
        pid = files.holder(role)
        if not pid:
            continue
        found = files.read(files.parameters(role))
        with contextlib.suppress(KeyError, ValueError, TypeError):
            daemon = SyncDaemon.decoded(found["daemon"])  # type: ignore[arg-type]  # a KeyError or ValueError
            yield RunningDaemon(daemon, int(str(found["longest"])), pid, str(found["owner"]))


def counts(role: str, files: DaemonFiles | None = None) -> dict[str, int]:
    """Return what a daemon has counted until a moment ago."""
    files = files or DaemonFiles()
    return {name: number for name, number in files.read(files.counts(role)).items() if isinstance(number, int)}


class LocalDaemons:
    """Those of this network namespace, as ipvsadm edits them."""

    def start(self, daemon: SyncDaemon, rows: Iterable[ServiceRow]) -> None:
        check(rows)
        try:
            socket.if_nametoindex(daemon.interface)
        except (OSError, ValueError):
            raise NoSuchDevice(f"{daemon.interface}: no such device") from None
        start(daemon)

    def stop(self, role: str) -> None:
        stop(role)

    def running(self) -> Iterator[RunningDaemon]:
        return running()


def start(daemon: SyncDaemon, announce: bool = False, owner: str = "") -> None:
    """Start a daemon, and wait until it works. Raises DaemonRuns, PylvsError.

    With `announce` a master sends all connections first, as it does after one that was killed. A backup works when it
    has the whole tables of the masters that reply to its request.
    """
    files = DaemonFiles()
    if files.holder(daemon.role):
        raise DaemonRuns("Daemon has already run")
    left = bool(files.read(files.parameters(daemon.role)))
    words = json.dumps(daemon.encoded()), str(int(announce or left)), owner
    try:
        ended = subprocess.run(
            command("pylvs.sync.process", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        with contextlib.suppress(PylvsError):  # the process that started it is killed, but not the daemon
            stop(daemon.role)
        raise PylvsError(f"the {daemon.role} sync daemon is not ready after {START_S:g} s") from None
    except OSError as error:
        raise PylvsError(f"the {daemon.role} sync daemon cannot be started: {error.strerror}") from None
    if ended.returncode == DaemonRuns.errno:
        raise DaemonRuns("Daemon has already run")
    if ended.returncode:
        text = ended.stderr.decode(errors="replace").strip().splitlines()
        raise PylvsError(text[-1] if text else f"the {daemon.role} sync daemon ended with {ended.returncode}")


def stop(role: str) -> None:
    """Stop a daemon: it sends what it has collected, and ends. Raises NoDaemon, PylvsError."""
    files = DaemonFiles()
    pid = files.holder(role)
    if not pid:
        files.forget(role)  # that of one that was killed
        raise NoDaemon("No daemon is running")
    try:
        end = os.pidfd_open(pid)
    except OSError:
        files.forget(role)
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, number)
            if select.select([end], [], [], END_S)[0]:
                break
    except PermissionError:
        raise PylvsError(f"process {pid}, the {role} sync daemon, may not be ended by this user") from None
    finally:
        os.close(end)
    until = time.monotonic() + END_S
    while files.holder(role) == pid and time.monotonic() < until:  # its worker ends with it
        time.sleep(_PAUSE_S)
    files.forget(role)


def stop_all() -> list[str]:
    """Stop the daemons of this network namespace, and return their roles. Raises PylvsError."""
    stopped = []
    for role in ROLES:
        with contextlib.suppress(NoDaemon):
            stop(role)
            stopped.append(role)
    return stopped
