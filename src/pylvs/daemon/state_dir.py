"""What a running daemon keeps on disk: who runs, where it is asked, and what must survive a crash.

One directory for each daemon, by default one for each network namespace, gone with the machine's runtime files:

    pid            the daemon's process, locked as long as it lives, however it ends
    control        the socket of its API
    vrrp           the socket of the process of the virtual routers, which outlives the daemon
    services.json  the services that it keeps in the table, with the servers configured
    overrides.json what the operator said of single servers
"""

from __future__ import annotations

import contextlib
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pylvs.model.errors import Busy, NotPermitted, PylvsError, Unsupported
from pylvs.system import pid_files
from pylvs.system.namespaces import network_cookie
from pylvs.system.unix_sockets import address_of
from pylvs.vrrp.control import NAME as ROUTERS_SOCKET

ROOT = Path("/run/pylvs/daemon")


def default_path() -> Path:
    """The directory of the daemon of this network namespace."""
    return ROOT / f"net{network_cookie()}"


class StateDirectory:
    """The files of one daemon, and its lock."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_path() if path is None else Path(os.path.abspath(path))
        self._lock = -1

    @property
    def pid_path(self) -> Path:
        """Holds the daemon's process number."""
        return self.path / "pid"

    @property
    def socket_path(self) -> Path:
        """Where the daemon is asked."""
        return self.path / "control"

    @property
    def routers_path(self) -> Path:
        """Where the process of the virtual routers is asked."""
        return self.path / ROUTERS_SOCKET

    # --- one daemon ---

    def take(self) -> None:
        """Make the directory and be its daemon. Raises Busy naming the one there is, NotPermitted, Unsupported."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make()
            self._lock = self._locked()
        except PermissionError as error:
            raise NotPermitted(f"{error.filename}: Operation not permitted; run as root") from None
        except OSError as error:
            raise Unsupported(f"{error.filename or self.path}: {error.strerror}; choose another --state-dir") from None
        self.socket_path.unlink(missing_ok=True)  # of one that was killed

    def _make(self) -> None:
        """The directory; one that is there stays as it is. Raises Unsupported where others could put files into it."""
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        if self.path.is_dir() and self.path.stat().st_mode & 0o022:
            raise Unsupported(f"{self.path}: others may write to it; chmod go-w, or choose another --state-dir")

    def _locked(self) -> int:
        try:
            return pid_files.claim(self.pid_path)
        except pid_files.Held as other:
            raise Busy(f"pylvs run is there already, process {other}, with {self.path}; stop it first") from None

    def give_back(self) -> None:
        """End being its daemon; what need not survive is removed, and the directory if that is all."""
        self.socket_path.unlink(missing_ok=True)
        self.pid_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody's files are in it
            self.path.rmdir()
            if self.path.parent == ROOT:
                ROOT.rmdir()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def socket_address(self) -> AbstractContextManager[str]:
        """A path of `socket_path` that fits into a socket's address, valid within."""
        return address_of(self.socket_path)

    # --- what survives ---

    def file(self, name: str) -> Path:
        """Where something is kept."""
        return self.path / f"{name}.json"

    def read(self, name: str) -> Any:
        """What was kept under a name, None if nothing was. Raises Unsupported for a file that nobody could write so."""
        path = self.file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise Unsupported(f"{path}: damaged ({error}); remove it") from None

    def keep(self, name: str, content: Any) -> None:
        """Replace what is kept under a name at one stroke; nothing (None, empty) removes it. Raises PylvsError."""
        path = self.file(name)
        try:
            if not content:
                path.unlink(missing_ok=True)
                return
            draft = path.with_suffix(".new")
            with open(draft, "w", encoding="utf-8") as file:
                json.dump(content, file, separators=(",", ":"))
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise PylvsError(f"{path}: {error.strerror}: what must survive a crash is not kept") from None
