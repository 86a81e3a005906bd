"""The results of BFD sessions for health checks. pylvs-vrrp runs the sessions; `pylvs run` fills this table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

SessionResult = tuple[bool | None, str]  # up or down, None: not known yet; and why


class SessionTable:
    """The last result of each session. `on_change` is called with the names of those that changed."""

    def __init__(self, on_change: Callable[[Collection[str]], None] = lambda names: None) -> None:
        self.on_change = on_change
        self._results: dict[str, SessionResult] = {}
        self._silent = "the process of the BFD sessions has not answered yet"
        self._changed = asyncio.Event()

    def result(self, name: str) -> SessionResult:
        """Return the result of a session; it is unknown while the process of the sessions does not answer."""
        if self._silent:
            return None, self._silent
        return self._results.get(name, (None, "the session is not configured"))

    async def known(self, name: str, timeout_s: float) -> SessionResult:
        """Return the result as soon as it is up or down; the last one after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.result(name)[0] is None:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.result(name)

    def update(self, name: str, up: bool | None, detail: str) -> None:
        """Store one result."""
        self._replace(self._results | {name: (up, detail)}, self._silent)

    def replace(self, results: Mapping[str, SessionResult]) -> None:
        """Store the results of all sessions."""
        self._replace(dict(results), "")

    def lose(self, reason: str) -> None:
        """Take all results for unknown, until the next `replace`: the process of the sessions does not answer."""
        self._replace(self._results, self._silent or reason)

    def _replace(self, results: dict[str, SessionResult], silent: str) -> None:
        before = {name: self.result(name) for name in self._results.keys() | results.keys()}
        self._results, self._silent = results, silent
        changed = {name for name, result in before.items() if self.result(name) != result}
        if changed:
            self._changed.set()
            self._changed = asyncio.Event()
            self.on_change(changed)
