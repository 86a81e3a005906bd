"""Remove the state directories of daemons whose network namespaces are gone.

No daemon starts in such a namespace again: the kernel does not reuse its cookie, which names the directory. The tables
of the namespace showed that it is gone. So the directory of a daemon that never had tables stays until the next boot.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from pylvs.daemon import STATE_ROOT, units
from pylvs.daemon.state.directory import NAMESPACES_FILE, SERVICES_FILE, StateDirectory
from pylvs.dataplane.state import NAMESPACE_GONE, collect_dead_states
from pylvs.model.errors import PylvsError
from pylvs.system.lock import locked
from pylvs.vrrp import PID_FILE


def collect() -> None:
    """Remove the tables and the state directories of namespaces that are gone, as far as this process may."""
    with suppress(PylvsError, OSError):
        collect_dead_states()
    kept = units.directories()  # a unit's next daemon takes overrides and drains from there
    with suppress(OSError):
        for mark in sorted(STATE_ROOT.glob(f"net*/{NAMESPACE_GONE}")):
            if mark.parent not in kept:
                _remove(StateDirectory(mark.parent))


def _remove(state: StateDirectory) -> None:
    """Remove a directory without a living process whose services, if it left any, went with the namespace."""
    with suppress(PylvsError, OSError), ExitStack() as locks:
        for path in (state.pid_path, state.path / PID_FILE):  # of the daemon, and of pylvs-vrrp
            with suppress(FileNotFoundError):
                locks.callback(os.close, locked(path, os.O_RDWR | os.O_NOFOLLOW))
        if not _has_services_elsewhere(state):
            from shutil import rmtree  # late: few starts find a directory, and shutil's libraries take 0.3 MB

            state.monitor_path.unlink(missing_ok=True)
            rmtree(state.path)


def _has_services_elsewhere(state: StateDirectory) -> bool:
    """Return whether services are left in tables of another namespace: `pylvs stop` deletes them. Raises PylvsError."""
    with state.decoding(NAMESPACES_FILE) as saved:
        elsewhere = bool(saved) and int(saved["tables"][1]) != state.name_cookie()
    return elsewhere and bool(state.read(SERVICES_FILE))
