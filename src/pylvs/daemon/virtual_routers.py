"""The process of the virtual routers, as the daemon sees it: started, adopted, told the configuration, ended.

It outlives the daemon. Whoever runs `pylvs run` next connects to its socket in the state directory and goes on with
it; one of another version is asked to end, and a new one started.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from pylvs.daemon.api.news import News
from pylvs.daemon.router_link import RouterLink, Unanswered
from pylvs.daemon.state_dir import StateDirectory
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger
from pylvs.vrrp.client import Message, NoRouters

Start = Callable[[], "subprocess.Popen[bytes]"]

START_S = 15.0  # until a process that was started answers
STOP_S = 22.0  # until it has told its scripts and ended
LOOK_EVERY_S = 0.02  # while it starts
STATUS_S = 2.0  # for a status; whoever asks the daemon waits for it
STEADY_S = 10.0  # whoever ran so long is started again at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before one that does not run is started again


class VirtualRouters:
    """Keeps the process running while the configuration has virtual routers."""

    def __init__(self, state: StateDirectory, news: News, start: Start) -> None:
        self._state = state
        self._news = news
        self._start = start
        self._wanted: Configuration | None = None
        self._link: RouterLink | None = None
        self._process: subprocess.Popen[bytes] | None = None  # where it is this daemon's child
        self._began = 0.0  # of the link, monotonic
        self._data_plane: tuple[bool, str] | None = None
        self._over = False
        self._trouble = ""  # why the process is not as it should be
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._log = get_logger()

    # --- what the daemon says ---

    async def configure(self, configuration: Configuration) -> Told:
        """This holds from now on. Where the process cannot be told, that is said, and tried again.

        Raises PylvsError where the process refuses it; then the one before still holds.
        """
        async with self._lock:
            before = self._wanted
            self._wanted = configuration if needed(configuration.vrrp) else None
            try:
                warnings = await self._settle()
            except PylvsError as error:
                if before is not None and not isinstance(error, _Trouble):
                    self._wanted = before
                    raise
                self._say(str(error))
                return Told(trouble=str(error))
        for warning in warnings:
            self._log.warning(warning)
        return Told(warnings)

    async def data_plane(self, well: bool, words: str) -> None:
        """Whether services are forwarded here; said again to each new process."""
        self._data_plane = (well, words)
        if self._link is not None and not self._link.closed.is_set():
            with contextlib.suppress(PylvsError):  # the link's end is seen elsewhere
                await self._link.ask("data_plane", well=well, words=words)

    async def stop(self) -> None:
        """Give up mastership and end the process, in bounded time."""
        async with self._lock:
            self._wanted, self._over = None, True
            try:
                await self._settle()
            except PylvsError as error:
                self._log.error(str(error))

    async def ask(self, verb: str, **more: Any) -> Any:
        """What the process answers. Raises PylvsError."""
        if self._link is None or self._link.closed.is_set():
            raise NoRouters(self._trouble or "no virtual routers run here: the configuration has no vrrp_instance")
        return await self._link.ask(verb, **more)

    async def status(self) -> Mapping[str, Any]:
        """How they stand; `trouble` says why nothing is known, and is empty where there are none."""
        none: Mapping[str, Any] = {"instances": [], "groups": [], "trouble": ""}
        if self._wanted is None:
            return none
        try:
            found: Mapping[str, Any] = await self.ask("status", patience_s=STATUS_S)
        except PylvsError as error:
            return {**none, "trouble": str(error)}
        return {**none, **found, "trouble": self._trouble}

    def close(self) -> None:
        """End the connection; the process goes on."""
        if self._link is not None:
            self._link.close()

    async def run(self) -> None:
        """Without an end: start the process again when it has ended, and say again what it was not told."""
        pause_s = 0.0
        while not self._over:
            await self._wake.wait()
            if self._wanted is not None and self._link is not None and self._link.closed.is_set():
                await self._tell_gone(self._link)
                self._link = None
                if time.monotonic() - self._began > STEADY_S:
                    pause_s = 0.0
            await asyncio.sleep(pause_s)
            pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)
            async with self._lock:
                self._wake.clear()
                if not self._over:
                    try:
                        await self._settle()
                    except PylvsError as error:
                        self._say(str(error))
        await asyncio.Event().wait()  # there is nothing more to be done

    # --- how ---

    async def _settle(self) -> tuple[str, ...]:
        """The process is there and has the configuration; or there is none. Raises _Trouble, PylvsError."""
        if self._wanted is None:
            try:
                await self._end()
            except PylvsError as error:
                raise _Trouble(str(error)) from None
            self._trouble = ""
            return ()
        link = await self._linked()
        try:
            told = await link.ask("configure", configuration=self._wanted.vrrp, settings=self._wanted.settings)
            if self._data_plane is not None:
                well, words = self._data_plane
                await link.ask("data_plane", well=well, words=words)
        except Unanswered as unanswered:
            raise _Trouble(str(unanswered)) from None
        if self._trouble:
            self._log.info("the virtual routers are as configured again")
        self._trouble = ""
        return tuple(map(str, told.get("warnings", ())))

    async def _linked(self) -> RouterLink:
        if self._link is not None and not self._link.closed.is_set():
            return self._link
        try:
            link = await self._opened()
            self._log.info("goes on with the virtual routers' process", process=link.pid)
        except NoRouters:
            link = await self._started()
            self._log.info("the virtual routers have a process", process=link.pid)
        except PylvsError as error:
            raise _Trouble(str(error)) from None
        self._link, self._began = link, time.monotonic()
        try:
            await link.ask("subscribe")
        except PylvsError as error:
            raise _Trouble(str(error)) from None
        return link

    async def _opened(self) -> RouterLink:
        """To the process there is, if it is of this version. Raises NoRouters, PylvsError."""
        link, other = await RouterLink.open(self._state.routers_path, self._heard, self._wake.set)
        if other is None:
            return link
        self._log.warning("the virtual routers' process is of another version; it is replaced", reason=str(other))
        await self._ended(link)
        raise NoRouters("it has ended")

    async def _started(self) -> RouterLink:
        try:
            self._process = await asyncio.to_thread(self._start)
        except OSError as error:
            raise _Trouble(f"no process could be made for the virtual routers: {error.strerror}") from None
        deadline = time.monotonic() + START_S
        while True:
            try:
                return await self._opened()
            except NoRouters:
                pass
            except PylvsError as error:
                raise _Trouble(str(error)) from None
            if self._process.poll() is not None:
                raise _Trouble(f"the virtual routers' process {_end_of(self._process)} at its start")
            if time.monotonic() > deadline:
                raise _Trouble(f"the virtual routers' process {self._process.pid} does not answer")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _end(self) -> None:
        """Of the process that runs, this daemon's or one that was left behind, if there is any."""
        link = self._link
        if link is None or link.closed.is_set():
            try:
                link, _ = await RouterLink.open(self._state.routers_path, self._heard, self._wake.set)
            except NoRouters:
                return
        self._log.info("the virtual routers give up their addresses", process=link.pid)
        await self._ended(link)

    async def _ended(self, link: RouterLink) -> None:
        """After "stop", which is answered when begun; the end of the connection is the end. Raises PylvsError."""
        who = f"the virtual routers' process {link.pid or ''}".rstrip()
        try:
            await link.ask("stop")
            async with asyncio.timeout(STOP_S):
                await link.closed.wait()
        except Unanswered:
            if not link.closed.is_set():
                raise PylvsError(f"{who} does not answer; it may still hold its addresses: kill it") from None
        except TimeoutError:
            raise PylvsError(f"{who} does not end within {STOP_S:g} s: its scripts still run, or kill it") from None
        finally:
            link.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 1.0)

    async def _tell_gone(self, link: RouterLink) -> None:
        ended = ""
        if self._process is not None and self._process.pid == link.pid:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 1.0)
            ended = f" ({_end_of(self._process)})"
        self._say(f"the virtual routers' process {link.pid} has gone{ended}; another is started")

    def _say(self, trouble: str) -> None:
        """Once; and try again."""
        if trouble != self._trouble:
            self._log.error(trouble)
            self._news.tell("vrrp_trouble", reason=trouble)
        self._trouble = trouble
        self._wake.set()

    def _heard(self, message: Message) -> None:
        if "event" in message:
            self._news.tell(f"vrrp_{message['event']}", **_told(message))


@dataclass(frozen=True, slots=True)
class Told:
    """How the process took a configuration: what it remarks, and why it could not be told."""

    warnings: tuple[str, ...] = ()
    trouble: str = ""


class _Trouble(PylvsError):
    """The process could not be made, or be told; it is tried again."""


def _told(event: Message) -> dict[str, Any]:
    """An event's words as those of all others: with a `reason`, and without what is empty."""
    words = [str(event[name]) for name in ("words", "why", "detail") if event.get(name)]
    more = {name: value for name, value in event.items() if value not in ("", None)}
    for name in ("event", "time", "words", "why", "detail"):
        more.pop(name, None)
    return more | ({"reason": ": ".join(words)} if words else {})


def needed(routers: VrrpConfiguration) -> bool:
    """Whether there is anything to be held."""
    return bool(routers.instances or routers.addresses or routers.routes or routers.rules)


def _end_of(process: subprocess.Popen[bytes]) -> str:
    status = process.poll()
    if status is None:
        return "runs on"
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
