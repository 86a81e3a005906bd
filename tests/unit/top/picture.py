"""Draw the picture of the how-to page: `python -m tests.unit.top.picture > docs/top.svg`."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import cast

from pylvs.top.app import Top
from pylvs.top.feed import Feed
from pylvs.top.rates import History
from tests.unit.top.examples import NOW, TABLE, in_table, snapshot

SIZE = (100, 24)


class StillFeed:
    """A feed that reads nothing."""

    def __init__(self) -> None:
        self.history = History()
        for step in range(40):
            rate = 20 + (step * 7) % 23
            table = (in_table(80, ("10.0.0.21", 1, rate // 2), ("10.0.0.22", 1, rate)), *TABLE[1:])
            self.history.add(snapshot(table=table).rows)

    def run(self, publish: object) -> None: ...
    def follow(self) -> None: ...
    def stop(self) -> None: ...


async def _drawn() -> str:
    app = Top(cast(Feed, StillFeed()), snapshot())
    app.console_state._wall = lambda: NOW
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("down", "down")
        await pilot.pause()
        return app.export_screenshot(title="pylvs top")


def picture() -> str:
    """Return the picture: the same bytes on each machine, and without fonts of other hosts."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    svg = re.sub(r"@font-face \{.*?\}\s*", "", asyncio.run(_drawn()), flags=re.DOTALL)
    svg = re.sub(r"font-family: *Fira Code", "font-family: ui-monospace", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    print(picture(), end="")
