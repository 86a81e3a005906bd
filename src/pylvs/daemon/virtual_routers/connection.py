"""A connection to pylvs-vrrp in the daemon's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.model.plain import Malformed
from pylvs.system.logs import get_logger
from pylvs.system.processes import channel
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.channel import BadMessage, Link
from pylvs.vrrp.ipc import GREETING, Message, OtherVersion, answer_of, check_greeting, connected

REPLY_TIMEOUT_S = 10.0


class NoReply(PylvsError):
    """The process did not reply: whether it carried the request out is unknown."""


class Hung(PylvsError):
    """The process at the socket accepts connections, and does not answer them."""

    def __init__(self, text: str, process: int) -> None:
        super().__init__(text)
        self.process = process


class VrrpClient:
    """One connection to pylvs-vrrp; `open` makes it.

    `closed` is set when the connection has ended, or when the process sends what this version cannot read.
    """

    def __init__(self, path: Path, on_event: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        """Connect. Raises NoRouters, PylvsError."""
        self.pid = 0
        self.closed = asyncio.Event()
        self._path = path
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[Any] = self._loop.create_future()
        self._replies: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None]]] = {}
        self._count = 0
        end, self.listener = connected(path)  # the process at the socket, also if it does not answer
        self._link = Link(AsyncioLoop(), end, self._receive, self._lost, equal=True)

    @classmethod
    async def open(
        cls, path: Path, on_event: Callable[[Message], None], on_close: Callable[[], None]
    ) -> tuple[VrrpClient, OtherVersion | None]:
        """Connect. With the returned error the process understands `stop` only.

        `on_event` gets messages that are no replies; it raises Malformed. `on_close` is called when either side ends
        the connection. Raises NoRouters, PylvsError.
        """
        client = cls(path, on_event, on_close)
        try:
            client._send(GREETING)
            client.pid = check_greeting(path, await client._wait_for(client._greeted, REPLY_TIMEOUT_S))
        except OtherVersion as other:
            return client, other
        except NoReply:
            hangs = not client.closed.is_set()
            client.close()
            if not hangs:
                raise
            text = f"the virtual routers' process {client.listener} has not answered for {REPLY_TIMEOUT_S:g} s"
            raise Hung(text, client.listener) from None
        except BaseException:
            client.close()
            raise
        return client, None

    async def request(
        self,
        verb: str,
        timeout_s: float | None = None,
        on_reply: Callable[[Any], None] = lambda reply: None,
        **fields: Any,
    ) -> Any:
        """Send a request and return the reply. Raises PylvsError with the process's error, NoReply without a reply.

        `on_reply` receives the result before `on_event` receives a later event. The caller may resume after both.
        """
        self._count += 1
        number = self._count
        reply = self._loop.create_future()
        self._replies[number] = reply, on_reply
        try:
            self._send({"id": number, "verb": verb, **fields})
            return answer_of(await self._wait_for(reply, REPLY_TIMEOUT_S if timeout_s is None else timeout_s))
        finally:
            del self._replies[number]

    def close(self) -> None:
        """End the connection; the process continues."""
        if not self.closed.is_set():
            self._link.close()
            self._ended()

    def _lost(self, reason: str) -> None:
        if reason != channel.ENDED:
            get_logger().error(f"the process of the virtual routers {reason}: the connection is closed")
        self._ended()

    def _ended(self) -> None:
        self.closed.set()
        for future in (self._greeted, *(reply for reply, _ in self._replies.values())):
            if not future.done():
                future.cancel()
        self._on_close()

    async def _wait_for(self, reply: asyncio.Future[Any], timeout_s: float) -> Any:
        await asyncio.wait([reply], timeout=timeout_s)
        if not reply.done():
            raise NoReply(f"{self._path}: the process of the virtual routers does not answer")
        if reply.cancelled():
            raise self._gone()
        return reply.result()

    def _gone(self) -> NoReply:
        return NoReply(f"{self._path}: the process of the virtual routers closed the connection")

    def _send(self, message: Message) -> None:
        self._link.send(message)
        if self.closed.is_set():
            raise self._gone()

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        channel.close_all(descriptors)
        try:
            self._dispatch(message)
        except Malformed as error:
            raise BadMessage(str(error)) from None

    def _dispatch(self, message: Message) -> None:
        if not self._greeted.done():
            self._greeted.set_result(message)
        elif "id" not in message:
            self._on_event(message)
        elif isinstance(number := message["id"], int) and (waiting := self._replies.get(number)):
            reply, on_reply = waiting
            if not reply.done():
                reply.set_result(message)
                if "error" not in message:
                    on_reply(answer_of(message))
