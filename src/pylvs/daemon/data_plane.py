"""Whether services can be forwarded here, for those who must know: virtual routers may be at fault without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

LOOK_EVERY_S = 0.5
TROUBLE_S = 3.0  # what is over sooner was somebody's edit, and no loss


class DataPlane:
    """Tells of a loss when it has lasted a while, and of its end at once.

    `trouble` says why services may not be forwarded; it is empty while they are, and None while nobody knows.
    """

    def __init__(self, trouble: Callable[[], str | None], tell: Callable[[bool, str], Awaitable[None]]) -> None:
        self._trouble = trouble
        self._tell = tell

    async def run(self) -> None:
        """Without an end."""
        clock = asyncio.get_running_loop().time
        told: bool | None = None
        since: float | None = None
        while True:
            trouble = self._trouble()
            now = clock()
            since = (since or now) if trouble else None
            if trouble == "" and told is not True:
                told = True
                await self._tell(True, "")
            elif trouble and told is not False and since is not None and now - since >= TROUBLE_S:
                told = False
                await self._tell(False, trouble)
            await asyncio.sleep(LOOK_EVERY_S)
