"""The daemon's end of the pipe to the process of the virtual routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.vrrp.client import Message, OtherVersion, answer_of, check_greeting, connected, greeting
from pylvs.vrrp.ipc import ConnectionClosed, MessageSocket

PATIENCE_S = 10.0  # for an answer; the process does nothing that takes long


class RouterLink:
    """One connection; `open` makes it. `closed` is set once the process has gone, or does not speak pylvs's words."""

    def __init__(
        self, path: Path, pipe: MessageSocket, heard: Callable[[Message], None], gone: Callable[[], None] = lambda: None
    ) -> None:
        self.pid = 0
        self.closed = asyncio.Event()
        self._path = path
        self._pipe = pipe
        self._heard = heard
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[Any] = self._loop.create_future()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._loop.add_reader(pipe.fileno(), self._read)

    @classmethod
    async def open(
        cls, path: Path, heard: Callable[[Message], None], gone: Callable[[], None]
    ) -> tuple[RouterLink, OtherVersion | None]:
        """A connection, and why it is good for `stop` alone, if so.

        `heard` is called with what comes unasked, `gone` when the connection ends, whoever ends it.

        Raises NoRouters, PylvsError.
        """
        link = cls(path, connected(path), heard, gone)
        try:
            link._send(greeting())
            link.pid = check_greeting(path, await link._within(link._greeted, PATIENCE_S))
        except OtherVersion as other:
            return link, other
        except BaseException:
            link.close()
            raise
        return link, None

    async def ask(self, verb: str, patience_s: float | None = None, **more: Any) -> Any:
        """The answer. Raises PylvsError with the process's words where it says no, Unanswered where it says nothing."""
        self._count += 1
        number = self._count
        answer = self._asked[number] = self._loop.create_future()
        try:
            self._send({"id": number, "verb": verb, **more})
            return answer_of(await self._within(answer, PATIENCE_S if patience_s is None else patience_s))
        finally:
            del self._asked[number]

    def close(self) -> None:
        """End the connection; the process goes on."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._pipe.fileno())
        self._loop.remove_writer(self._pipe.fileno())
        self._pipe.close()
        for each in (self._greeted, *self._asked.values()):
            if not each.done():
                each.cancel()
        self._gone()

    async def _within(self, answer: asyncio.Future[Any], patience_s: float) -> Any:
        await asyncio.wait([answer], timeout=patience_s)
        if not answer.done():
            raise Unanswered(f"{self._path}: the process of the virtual routers does not answer")
        if answer.cancelled():
            raise self._unanswered()
        return answer.result()

    def _unanswered(self) -> Unanswered:
        return Unanswered(f"{self._path}: the process of the virtual routers went away")

    def _send(self, message: Message) -> None:
        if self.closed.is_set():
            raise self._unanswered()
        try:
            self._pipe.send(message)
        except ConnectionClosed:
            self.close()
            raise self._unanswered() from None
        self._watch_for_room()

    def _watch_for_room(self) -> None:
        if self._pipe.unsent:
            self._loop.add_writer(self._pipe.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._pipe.fileno())

    def _flush(self) -> None:
        try:
            self._pipe.flush()
            self._watch_for_room()
        except ConnectionClosed:
            self.close()

    def _read(self) -> None:
        try:
            messages = self._pipe.receive()
        except Exception:  # Closed, or whatever unpickling makes of the words of another version
            self.close()
            return
        for message in messages:
            self._take(message)

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if not self._greeted.done():
            self._greeted.set_result(message)
        elif "id" in message:
            answer = self._asked.get(message["id"])
            if answer is not None and not answer.done():
                answer.set_result(message)
        else:
            self._heard(message)


class Unanswered(PylvsError):
    """Nothing was answered, so nobody knows what was done."""
