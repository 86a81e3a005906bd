"""The page over a canned daemon, in a thread: the real process, with replies that a test chooses."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pylvs.model.wanted import WebSettings
from pylvs.web import tokens
from pylvs.web.jobs import Jobs
from pylvs.web.parent import WebParent
from tests.waiting import PATIENCE_S, until_async
from tests.web_server import HOSTILE, LOCAL, CannedDaemon, token_file, traced

T = TypeVar("T")


class CannedJobs(Jobs):
    """The reports of commands, with a text in each field that others supply."""

    def __init__(self, text: str = HOSTILE) -> None:
        super().__init__((), lambda: ())
        self._text = text
        self.given: list[Mapping[str, Any]] = []  # of traces

    async def run(self, kind: str, given: Mapping[str, Any], line: Callable[[str], None]) -> bytes:
        text = self._text
        if kind == "trace":
            self.given.append(given)
            line(json.dumps(traced(1, text)))
            return b"{}"
        if kind == "doctor":
            words = dict.fromkeys(("id", "title", "evidence", "why", "fix", "fix_command", "fix_host"), text)
            return json.dumps({"findings": [{**words, "severity": each} for each in ("error", "warning")]}).encode()
        finding = {"file": text, "line": 7, "column": 3, "severity": "warning", "text": text, "advice": text}
        block = {"block": text, "head": text, "lines": [text], "values": [{"name": text, "value": text, "how": text}]}
        whole = {"block": "configuration", "blocks": [{**block, "blocks": [block]}]}
        return json.dumps({"file": text, "findings": [finding], "effective": whole}).encode()


class Site:
    """A page that is served; `daemon` may be changed at any time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, daemon: CannedDaemon, parent: WebParent, folder: Path) -> None:
        self.daemon = daemon
        self._loop, self._parent, self._folder = loop, parent, folder
        self.reader, self.operator = token_file(folder / "tokens")
        self.settings = WebSettings((LOCAL, 0), tokens=str(folder / "tokens"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._parent.port}/"

    @property
    def process(self) -> int:
        return self._parent.process.pid

    def connections(self) -> int:
        """Return the number of established connections of browsers."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(each[2].split(":")[1], 16) == self._parent.port and each[3] == "01" for each in lines)

    def do(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step in the thread of the server."""

        async def run() -> T:
            return await step()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_S)

    def serve(self) -> None:
        """Serve these settings, with tokens read again."""
        self.do(lambda: self._parent.follow(self.settings))
        self.do(lambda: until_async(lambda: self._parent.process.up))

    def tokens(self) -> list[str]:
        """Return the lines of the file."""
        return (self._folder / "tokens").read_text().splitlines()

    def write_tokens(self, lines: Iterable[str]) -> None:
        """Let these be the tokens."""
        (self._folder / "tokens").write_text("".join(f"{line}\n" for line in lines))
        self.serve()

    def expire(self) -> None:
        """Let all tokens be of the past."""
        self.write_tokens(" ".join([*line.split()[:3], "2020-01-01"]) for line in self.tokens())

    def token(self, name: str, role: str, last: str = "") -> str:
        """Make one more token."""
        token, line = tokens.new(name, role)
        self.write_tokens([*self.tokens(), f"{line} {last}"])
        return token

    def edits(self) -> list[str]:
        """Return the paths of the operations that the daemon got since the last call."""
        found = [each.path for each in self.daemon.edits()]
        self.daemon.asked.clear()
        return found


@contextmanager
def served(
    folder: Path, make: Callable[[], CannedDaemon] = CannedDaemon, jobs: Callable[[], Jobs] = CannedJobs
) -> Iterator[Site]:
    """Serve the page until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:

        async def made() -> tuple[CannedDaemon, WebParent]:
            daemon = make()
            return daemon, WebParent(daemon.send, daemon.events, jobs())

        daemon, parent = asyncio.run_coroutine_threadsafe(made(), loop).result(PATIENCE_S)
        site = Site(loop, daemon, parent, folder)
        try:
            site.serve()
            yield site
        finally:
            site.do(parent.close)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
