"""The port of the demonstration's page."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pylvs.lab.demo_page import serving
from tests.waiting import PATIENCE_S


def test_the_end_ends_open_connections_at_once_and_reports_nothing() -> None:
    """A page in a browser holds a connection without end, and may not read it."""
    reported: list[dict[str, Any]] = []

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        handled: asyncio.Queue[None] = asyncio.Queue()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x" * (32 << 20))  # more than the buffers of both sockets
            handled.put_nowait(None)
            await asyncio.Event().wait()

        async with asyncio.timeout(PATIENCE_S):
            async with serving(handle) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await handled.get()
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 20):
                    pass
            writer.close()

    asyncio.run(whole())
    assert reported == []
