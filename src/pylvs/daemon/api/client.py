"""A client of the API for commands, without an event loop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pylvs.daemon.state.directory import StateDirectory, running, selection
from pylvs.model.errors import RUN_AS_ROOT, NotPermitted, PylvsError
from pylvs.system import lock
from pylvs.system.unix_http import NEEDS, UnixConnection

READ_TIMEOUT_S = 5.0  # for a reply that changes nothing: a daemon that takes longer hangs
EDIT_TIMEOUT_S = 60.0  # an edit waits for other programs' edits of the table
LONG_TIMEOUT_S = 600.0  # a reload waits for the reloads before it, a check for its timeout
_LONG = ("/v1/reload", "/v1/check-now")
_AT_ONCE = ("/v1/stop",)  # POSTs whose reply waits for nothing
_QUICK = "/v1/drains"  # its reply is short, and waits for nothing
_MOST_NAMED = 3  # daemons, in an error
_BUSY_TRIES = 6  # of that request, while the daemon has work


class NoDaemon(PylvsError):
    """No daemon listens at the socket."""


class NoReply(PylvsError):
    """The daemon did not reply in time."""


def timeout_of(method: str, path: str) -> float:
    """Return how long a command waits for the reply to this request."""
    if path in _LONG:
        return LONG_TIMEOUT_S
    return READ_TIMEOUT_S if method == "GET" or path in _AT_ONCE else EDIT_TIMEOUT_S


class Client:
    """A client of the daemon of this network namespace, or of a state directory."""

    def __init__(self, state_dir: Path | None = None) -> None:
        self.state = StateDirectory(state_dir)

    def ask(self, method: str, path: str, content: Any = None, headers: Mapping[str, str] = {}) -> tuple[int, Any]:
        """Return the status and the JSON of the response. Raises NoDaemon, NoReply, NotPermitted, PylvsError."""
        try:
            with self.stream(method, path, content, headers=headers) as response:
                text = response.read()
        except TimeoutError:
            raise self._no_reply(timeout_of(method, path)) from None
        except (OSError, http.client.HTTPException) as error:
            raise PylvsError(f"{self.state.socket_path}: the daemon closed the connection ({error})") from None
        try:
            return response.status, json.loads(text)
        except ValueError:
            raise PylvsError(f"{self.state.socket_path}: not a response of pylvs: {text[:80]!r}") from None

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        content: Any = None,
        endless: bool = False,
        headers: Mapping[str, str] = {},
    ) -> Iterator[http.client.HTTPResponse]:
        """Return the response before its body has come; an endless body may pause for any time. Raises as `ask`.

        An edit may take long, but a daemon that hangs is found within seconds: it gets a short request before. If it is
        only busy, that request is repeated.
        """
        if timeout_of(method, path) > READ_TIMEOUT_S:
            self._find_hang()
        body = None if content is None else json.dumps(content).encode()
        timeout_s = timeout_of(method, path)
        with contextlib.closing(UnixConnection(self._socket_for(method), timeout_s)) as connection:
            try:
                connection.request(method, path, body, {"Content-Type": "application/json", **headers})
                end = connection.sock
                response = connection.getresponse()  # it has the socket now
                if endless:
                    end.settimeout(None)
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                raise NoDaemon(self._no_daemon()) from None
            except PermissionError:
                raise self.state.not_permitted(NEEDS if method == "GET" else RUN_AS_ROOT) from None
            except TimeoutError:
                raise self._no_reply(timeout_s) from None
            except (OSError, http.client.HTTPException) as error:
                raise PylvsError(f"{self.state.socket_path}: the daemon closed the connection ({error})") from None
            with contextlib.closing(response):
                yield response

    def _socket_for(self, method: str) -> Path:
        """Return the socket for root, or if this user may not open it, that for reading."""
        monitored = method == "GET" and not os.access(self.state.socket_path, os.W_OK)
        return (
            self.state.monitor_path
            if monitored and os.access(self.state.monitor_path, os.W_OK)
            else self.state.socket_path
        )

    def _find_hang(self) -> None:
        """Raise NoReply if the daemon does not reply to a short request, and what `ask` raises."""
        for left in reversed(range(_BUSY_TRIES)):
            before = _work_of(self.state.daemon_pid())
            try:
                self.ask("GET", _QUICK)
            except NoReply as error:
                if not left or _work_of(self.state.daemon_pid()) == before:
                    raise NoReply(f"{error}; nothing is changed") from None
            else:
                return

    def _no_daemon(self) -> str:
        starting = lock.holder(self.state.pid_path)
        if starting:
            return f"pylvs run, process {starting}, is starting or stopping and does not answer; try again"
        return f"no pylvs run answers at {self.state.socket_path}; start it, or {elsewhere() or 'name its --state-dir'}"

    def _no_reply(self, timeout_s: float) -> NoReply:
        process = 0
        with contextlib.suppress(NotPermitted):
            process = self.state.daemon_pid()
        who = f"pylvs run, process {process}," if process else f"pylvs run at {self.state.socket_path}"
        return NoReply(f"{who} did not reply within {timeout_s:g} s: it hangs, or is very busy")


def elsewhere() -> str:
    """Return which other daemons a command may be meant for, as the remedy in an error; "" if none runs."""
    found = [(option, process) for state, process in running() if (option := selection(state, process))]
    if not found:
        return ""
    named = ", ".join(f"{option} (process {process})" for option, process in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"select one that runs: {named}{more}"


def _work_of(process: int | None) -> int:
    """Return how long the main thread of a process has run or waited for a processor, in ns; 0 if that is unknown."""
    try:
        with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
            return sum(map(int, file.read().split()[:2]))
    except OSError:
        return 0
