"""The state directory of a running daemon: its lock, its sockets, and its state across crashes.

Each daemon has one directory, by default one for each network namespace, below /run:

- `pid`: the process number; the daemon holds a lock on this file
- `control`: the socket of the API
- `vrrp`: the socket of pylvs-vrrp, which outlives the daemon
- `services.json`: the services that the daemon owns, with their configured servers
- `overrides.json`: the operator's overrides, with the services and servers among which they were made
- `client_rules.json`: the operator's client rules, with the keys of their services
- `drains.json`: the drains that are not over
- `leave.json`: since when this director has left its group, by command
- `events.jsonl`, `events.jsonl.1`: the last events
- `via_vip.json`: the devices whose accept_local is on for checks through virtual addresses
- `vrrp_addresses.json`: the addresses of virtual routers, to delete them if pylvs-vrrp hangs
- `namespaces.json`: the network namespaces of the daemon and of its tables, for `pylvs stop` after a crash; and
  whether it leaves its services (`-I`)
- `dump.json`: what the daemon knew at SIGUSR1
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from pylvs.daemon import STATE_ROOT, units
from pylvs.model.errors import RUN_AS_ROOT, Busy, NotPermitted, PylvsError, Unsupported, needs_root
from pylvs.system import files, lock
from pylvs.system.namespaces import network_cookie, network_name
from pylvs.system.sockets import MONITORS
from pylvs.vrrp import SOCKET_NAME as ROUTERS_SOCKET

SERVICES_FILE = "services"
OVERRIDES_FILE = "overrides"
NAMESPACES_FILE = "namespaces"
DRAINS_FILE = "drains"
LEAVE_FILE = "leave"
RULES_FILE = "client_rules"


def daemons_of(cookie: int) -> list[StateDirectory]:
    """Return the state directories of the daemons whose tables are in a network namespace, as `_known` lists them."""
    return [state for state in _known() if _has_tables_in(state, cookie)]


def _known() -> list[StateDirectory]:
    """Return the state directories of this machine. One with a `--state-dir` is known only if a unit has started it."""
    return list(map(StateDirectory, dict.fromkeys((*sorted(STATE_ROOT.glob("*")), *units.directories()))))


def _has_tables_in(state: StateDirectory, cookie: int) -> bool:
    try:
        return state.tables_cookie() == cookie
    except PylvsError:  # the note is damaged: `pylvs stop` reports it
        return state.name_cookie() == cookie


def running() -> list[tuple[StateDirectory, int]]:
    """Return the daemons of this machine that run, with their processes; those that `_known` lists."""
    return [(state, process) for state in _known() if (process := lock.owner(state.pid_path))]


def selection(state: StateDirectory, process: int) -> str:
    """Return the options with which a command here finds a daemon: `--namespace NAME`; "" for the default one."""
    if state.path == default_path():
        return ""
    instance = f"--instance {state.path.name.partition('-')[2]}" if "-" in state.path.name else ""
    if state.name_cookie() == network_cookie():
        return instance
    name = network_name(process) if state.name_cookie() else ""
    return f"--namespace {name} {instance}".rstrip() if name else f"--state-dir {state.path}"


def default_path(instance: str = "") -> Path:
    """Return the state directory of this network namespace's daemon, or of one of several."""
    return STATE_ROOT / f"net{network_cookie()}{f'-{instance}' if instance else ''}"


def _short_name(path: Path) -> str:
    """Return a file name for a path of any length."""
    return f"dir-{crc32(os.fsencode(path)):08x}-{path.name[:100]}"


class StateDirectory:
    """The files of one daemon, and its lock; without a path, that of this network namespace and instance."""

    def __init__(self, path: Path | None = None, instance: str = "") -> None:
        self.path = default_path(instance) if path is None else Path(os.path.abspath(path))
        self.instance = instance
        self.pid_path = self.path / "pid"
        self.socket_path = self.path / "control"
        self.routers_path = self.path / ROUTERS_SOCKET
        self.monitor_path = MONITORS / (self.path.name if self.path.parent == STATE_ROOT else _short_name(self.path))
        self._lock = -1

    def acquire(self) -> None:
        """Make the directory and lock it; twice is harmless.

        Raises Busy naming the daemon that has it, NotPermitted, Unsupported.
        """
        if self._lock >= 0:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make()
            self._lock = lock.claim(self.pid_path)
        except lock.Held as other:
            raise Busy(f"pylvs run is there already, process {other}, with {self.path}; stop it first") from None
        except PermissionError as error:
            raise needs_root(error.filename) from None
        except OSError as error:
            raise Unsupported(f"{error.filename or self.path}: {error.strerror}; choose another --state-dir") from None
        self.socket_path.unlink(missing_ok=True)  # left by a daemon that was killed

    def _make(self) -> None:
        """Make the directory, or keep the one there is. Raises Unsupported if another user may change it."""
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        status = os.lstat(self.path)
        if stat.S_ISLNK(status.st_mode):
            raise Unsupported(f"{self.path}: is a symbolic link; name the directory itself as --state-dir")
        if not stat.S_ISDIR(status.st_mode):
            return  # the lock names the error
        if status.st_uid not in (0, os.geteuid()):
            raise Unsupported(f"{self.path}: belongs to user {status.st_uid}; chown it, or choose another --state-dir")
        if status.st_mode & 0o022:
            raise Unsupported(f"{self.path}: others may write to it; chmod go-w, or choose another --state-dir")

    def release(self) -> None:
        """Remove the socket and the lock; remove the directory if nothing else is in it."""
        with contextlib.suppress(OSError):  # it is read-only now, or other files are in it
            self.socket_path.unlink(missing_ok=True)
            self.pid_path.unlink(missing_ok=True)
            self.path.rmdir()
            if self.path.parent == STATE_ROOT:
                STATE_ROOT.rmdir()
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: let the lock be the parent's alone."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def daemon_pid(self) -> int:
        """Return the process of the PID file if it lives, else 0. After a kill it may be another program's.

        Raises NotPermitted if this user may not read the file.
        """
        try:
            pid = int(self.pid_path.read_text(encoding="ascii"))
        except PermissionError:
            raise self.not_permitted() from None
        except (OSError, ValueError):
            return 0
        return pid if _lives(pid) else 0

    def not_permitted(self, remedy: str = RUN_AS_ROOT) -> NotPermitted:
        """Return the error for a user who may not use this daemon."""
        return needs_root(self.path, remedy)

    def name_cookie(self) -> int:
        """Return the network namespace of a default directory, 0 of another one."""
        found = re.fullmatch(r"net(\d+)(-.*)?", self.path.name) if self.path.parent == STATE_ROOT else None
        return int(found[1]) if found else 0

    def tables_cookie(self) -> int:
        """Return the network namespace of the daemon's tables; 0 if it is unknown. Raises PylvsError."""
        with self.decoding(NAMESPACES_FILE) as saved:
            return int(saved["tables"][1]) if saved else self.name_cookie()

    def file(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def read(self, name: str) -> Any:
        """Return the content of a file, None if there is none.

        Raises PylvsError; Unsupported for a file that is not JSON, or of another version.
        """
        try:
            with open(os.open(self.file(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link, which only another program can have made
                raise self._damaged(name, error) from None
            raise PylvsError(f"{self.file(name)}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, error) from None
        return files.checked(self.file(name), content)

    @contextlib.contextmanager
    def decoding(self, name: str) -> Iterator[Any]:
        """Return the content of a file as `read` does. Raises Unsupported also if the block cannot decode it."""
        content = self.read(name)
        try:
            yield content
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> Unsupported:
        return Unsupported(f"{self.file(name)}: damaged ({error}); remove it")

    def write(self, name: str, content: Any) -> None:
        """Replace a file atomically; remove it if the content is empty or None. Raises PylvsError.

        A file that has this content stays, as a full or read-only disk would refuse another one.
        """
        self.publish(name, files.versioned(content) if content else None)

    def publish(self, name: str, content: Any) -> None:
        """Write a file that users read and no daemon, without a version. Raises PylvsError."""
        path = self.file(name)
        try:
            if not content:
                path.unlink(missing_ok=True)
                return
            text = json.dumps(content, separators=(",", ":")) + "\n"
            if not files.has(path, text):
                files.replace(path, text, durable=True)
        except OSError as error:
            raise PylvsError(f"{path}: {error.strerror}: this state would be lost in a crash") from None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's process
        return True
    except (OSError, OverflowError):
        return False
    return True
