"""The daemon of this host: its process, and its status if it replies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from ipaddress import ip_address
from typing import Any

from pylvs.daemon.state.directory import StateDirectory
from pylvs.doctor.facts import Facts
from pylvs.model.addresses import Address
from pylvs.system import lock

Status = Mapping[str, Any]
PATIENCE_S = 2.0  # for a reply that waits for nothing


def process_of(facts: Facts) -> int:
    """Return the process of pylvs run; 0 if none runs."""
    return facts.once("daemon_process", lambda: lock.owner(StateDirectory(facts.state_dir).pid_path))


def is_hanging(facts: Facts) -> bool:
    """Return whether pylvs run is there and does not reply."""
    state = StateDirectory(facts.state_dir)
    return bool(process_of(facts)) and not facts.once("daemon_replies", lambda: _replies(state))


def status_of(facts: Facts) -> Status | None:
    """Return the daemon's status; None if none runs, it hangs, or it has no table yet. Raises PylvsError."""
    if not process_of(facts) or is_hanging(facts):
        return None
    status = facts.status
    return status if status is not None and status["ready"] else None


def address_of(named: str) -> Address:
    """Return the address of a server, or of a service without its protocol, as the daemon names it: ADDRESS:PORT."""
    return ip_address(named.rpartition(":")[0].strip("[]"))


def _replies(state: StateDirectory) -> bool:
    """Return whether the daemon replies to a short request, or is just starting."""
    from http.client import HTTPException  # late: only hosts with a daemon

    from pylvs.system.unix_http import UnixConnection  # late: it imports http.client

    try:
        with closing(UnixConnection(state.socket_path, PATIENCE_S)) as connection:
            connection.request("GET", "/v1/drains")
            connection.getresponse().read()
    except TimeoutError:
        return False
    except (OSError, HTTPException):
        pass
    return True
