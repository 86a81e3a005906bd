"""A blocking client of pylvs-vrrp, for commands."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.system.processes import channel
from pylvs.system.processes.channel import BadMessage
from pylvs.vrrp.ipc import GREETING, Message, answer_of, check_greeting, connected

ANSWER_TIMEOUT_S = 10.0


class _NoAnswer(PylvsError):
    """No message has come in time."""


class Client:
    """A connection. Raises what `connected` raises, and OtherVersion."""

    def __init__(self, path: Path, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._end, _ = connected(path)
        self._events: list[dict[str, Any]] = []  # that came before an answer
        self._asked = 0
        try:
            deadline = time.monotonic() + patience_s
            self._send(GREETING, deadline)
            self.pid = check_greeting(path, self._next(deadline))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._end.close()

    def ask(self, verb: str, **more: Any) -> Any:
        """Return the answer. Raises PylvsError, with the process's message if it refuses."""
        self._asked += 1
        deadline = time.monotonic() + self._patience_s
        self._send({"id": self._asked, "verb": verb, **more}, deadline)
        while (answer := self._next(deadline)).get("id") != self._asked:
            if "id" not in answer:  # not so the late answer to an earlier request
                self._events.append(answer)
        return answer_of(answer)

    def fileno(self) -> int:
        """Return the descriptor to wait for events."""
        return self._end.fileno()

    def events(self) -> list[dict[str, Any]]:
        """Return the events that have come, without waiting. Raises PylvsError at the end of the connection."""
        found, self._events = self._events, []
        try:
            while True:
                found.append(self._next(0.0))
        except _NoAnswer:
            return found

    def _send(self, message: Message, deadline: float) -> None:
        data, files, _ = channel.packet(message, may_be_long=True)
        try:
            self._end.settimeout(max(deadline - time.monotonic(), 0.0))
            socket.send_fds(self._end, [data], [each.fileno() for each in files])
        except (TimeoutError, BlockingIOError):
            raise self._no_answer() from None
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        finally:
            for each in files:
                each.close()

    def _next(self, deadline: float) -> dict[str, Any]:
        """Return the next message. Raises _NoAnswer at this time, PylvsError."""
        try:
            self._end.settimeout(max(deadline - time.monotonic(), 0.0))
            try:
                message, descriptors = channel.receive(self._end)
            except ConnectionResetError:  # it has ended without reading all; its messages follow this error
                message, descriptors = channel.receive(self._end)
        except (TimeoutError, BlockingIOError):
            raise self._no_answer() from None
        except EOFError:
            raise self._gone("the other end has gone") from None
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        except BadMessage as error:
            raise PylvsError(f"{self._path}: the process at this socket is not pylvs-vrrp: it sent {error}") from None
        channel.close_all(descriptors)
        return message

    def _no_answer(self) -> _NoAnswer:
        return _NoAnswer(f"{self._path}: no answer within {self._patience_s:g} s")

    def _gone(self, reason: str) -> PylvsError:
        return PylvsError(f"{self._path}: the process of the virtual routers has ended ({reason})")
