"""Report to virtual routers whether services are forwarded here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_S = 0.5  # of the error of forwarding
FAULT_AFTER_S = 3.0  # a shorter interruption comes from another program's edit, and loses nothing


async def monitor_forwarding(
    error: Callable[[], str | None],
    report: Callable[[bool | None, str], Awaitable[None]],
    unknown: Callable[[], str] = lambda: "",
) -> None:
    """Until cancelled, report to virtual routers whether services are forwarded here. They may change to fault.

    `error` returns why services may not be forwarded: "" while they are, None before the first table. A fault is
    reported after `FAULT_AFTER_S`, its end at once. `unknown` returns why that is unknown now, "" if it is known.
    """
    clock = asyncio.get_running_loop().time
    reported: bool | str | None = ""  # nothing yet
    since: float | None = None
    while True:
        text, stale = error(), unknown()
        now = clock()
        since = (since or now) if text else None
        if stale:
            if reported is not None:
                reported = None
                await report(None, stale)
        elif text == "" and reported is not True:
            reported = True
            await report(True, "")
        elif text and reported is not False and since is not None and now - since >= FAULT_AFTER_S:
            reported = False
            await report(False, text)
        await asyncio.sleep(POLL_S)
