"""A client of the API for commands, without an event loop."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pylvs.daemon.state_dir import StateDirectory
from pylvs.model.errors import NotPermitted, PylvsError
from pylvs.system.sockets import address_of

REPLY_TIMEOUT_S = 600.0  # a reload waits for the reloads before it


class NoDaemon(PylvsError):
    """No daemon listens at the socket."""


class _Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, state: StateDirectory, timeout_s: float | None) -> None:
        super().__init__("pylvs", timeout=timeout_s)
        self._state = state

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        with address_of(self._state.socket_path) as address:
            self.sock.connect(address)


class Client:
    """A client of the daemon of this network namespace, or of a state directory."""

    def __init__(self, state_dir: Path | None = None) -> None:
        self.state = StateDirectory(state_dir)

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Return the status and the JSON of the response. Raises NoDaemon, NotPermitted, PylvsError."""
        try:
            with self.stream(method, path, content) as response:
                text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise PylvsError(f"{self.state.socket_path}: the daemon closed the connection ({error})") from None
        try:
            return response.status, json.loads(text)
        except ValueError:
            raise PylvsError(f"{self.state.socket_path}: not a response of pylvs: {text[:80]!r}") from None

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, content: Any = None, timeout_s: float | None = REPLY_TIMEOUT_S
    ) -> Iterator[http.client.HTTPResponse]:
        """Return the response before its body has come; `timeout_s` None waits without end. Raises as `ask`."""
        body = None if content is None else json.dumps(content).encode()
        with contextlib.closing(_Connection(self.state, timeout_s)) as connection:
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                raise NoDaemon(
                    f"no pylvs run answers at {self.state.socket_path}; start it, or name its --state-dir"
                ) from None
            except PermissionError:
                raise NotPermitted(f"{self.state.socket_path}: Operation not permitted; run as root") from None
            except TimeoutError:
                raise PylvsError(f"{self.state.socket_path}: no answer within {timeout_s:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                raise PylvsError(f"{self.state.socket_path}: the daemon closed the connection ({error})") from None
            yield response
