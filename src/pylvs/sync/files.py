"""The files of the sync daemons of a network namespace, which show who runs.

The lock of `ROLE.pid` shows whether a daemon runs, `ROLE.json` has its parameters, and `ROLE.counts` what it counts. A
killed daemon leaves `ROLE.json`. With a namespace that is gone, `dataplane.state.collect_dead_states` removes it.
"""

from __future__ import annotations

import contextlib
import json
import os

from pylvs.system import lock
from pylvs.system.namespaces import network_cookie

DIRECTORY = "/run/pylvs/sync"  # dataplane.state.SYNC_DAEMONS


class DaemonFiles:
    """The files of the sync daemons of one network namespace."""

    def __init__(self, cookie: int | None = None) -> None:
        self.directory = f"{DIRECTORY}/net{network_cookie() if cookie is None else cookie}"

    def holder(self, role: str) -> int:
        """Return the process of a daemon, 0 if none runs."""
        return lock.holder(self.pid(role))

    def make(self) -> None:
        """Make the directory. Raises OSError."""
        os.makedirs(self.directory, 0o755, exist_ok=True)

    def pid(self, role: str) -> str:
        """Return the path of the locked file with the process."""
        return f"{self.directory}/{role}.pid"

    def parameters(self, role: str) -> str:
        """Return the path of the file with the parameters."""
        return f"{self.directory}/{role}.json"

    def counts(self, role: str) -> str:
        """Return the path of the file with the counters."""
        return f"{self.directory}/{role}.counts"

    def write(self, path: str, content: object) -> None:
        """Replace a file. Raises OSError."""
        with open(f"{path}.new", "w", encoding="ascii") as file:
            json.dump(content, file)
        os.replace(f"{path}.new", path)

    def read(self, path: str) -> dict[str, object]:
        """Return what a file has, {} if there is none."""
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            found = json.load(file)
            if isinstance(found, dict):
                return found
        return {}

    def forget(self, role: str) -> None:
        """Remove the files of a daemon that has ended, and the directory with the last of them."""
        for path in (self.parameters(role), self.counts(role), self.pid(role)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(self.directory)
