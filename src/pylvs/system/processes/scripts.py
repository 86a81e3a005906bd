"""Running an operator's scripts from asyncio: unprivileged, bounded in time, output and number, and ended as a whole.

A script gets a session of its own, nothing on its standard input, no other open file, no signal blocked or ignored,
umask 077 and this process's environment without what systemd meant for this process alone. At its timeout it and
everything that descends from it get SIGTERM, two seconds later SIGKILL. `script_runner` does all that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pylvs
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.system.processes.accounts import SCRIPT_USER, Account, script_account

AT_ONCE = 200  # scripts that run at the same time; two pipes of each fit below 1024 open files
_NOT_FOR_SCRIPTS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_LONGEST_ANSWER = 1 << 20
_ACCOUNT_S = 60.0
_LINES, _LINE_LENGTH = 20, 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended: its exit status, or the signal that ended it, or the trouble that kept it from starting."""

    status: int | None
    signal: int = 0
    timed_out: bool = False
    trouble: str = ""
    unable: bool = False  # the trouble is this machine's, which has no process for it; the script is not to blame
    output: str = ""  # its beginning
    lost_bytes: int = 0  # of the output, beyond that
    seconds: float = 0.0  # of one that timed out, the time that it was given

    def __str__(self) -> str:
        """In a few words, for a history: "exit status 1: no route to host"."""
        if self.trouble:
            return self.trouble
        if self.timed_out:
            return f"timed out after {self.seconds:g} s"
        said = f"exit status {self.status}" if self.status is not None else f"ended by {_signal_name(self.signal)}"
        first = next(iter(self.lines()), "")
        return f"{said}: {first}" if first and self.status != 0 else said

    def lines(self) -> list[str]:
        """The output for a log: few lines, none of them long, nothing that a terminal would obey."""
        found = ["".join(c if c.isprintable() else " " for c in line).strip() for line in self.output.splitlines()]
        found = [line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 1] + "…" for line in found if line]
        more = len(found) - _LINES
        found = found[:_LINES] + ([f"(and {more} more lines)"] if more > 0 else [])
        return found + ([f"(and {self.lost_bytes} more bytes)"] if self.lost_bytes else [])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Processes:
    """Runs scripts; one for a whole daemon. Without a user of its own a script runs as the given one.

    With `security` nothing runs as root that somebody else could have changed.
    """

    def __init__(self, user: str = "", group: str = "", security: bool = False, at_once: int = AT_ONCE) -> None:
        self._user, self._group, self._security = user, group, security
        self._places = asyncio.Semaphore(at_once)
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._last = 0
        self._runner: _Channel | None = None
        self._starting = asyncio.Lock()
        self._warned = False
        self._accounts: dict[tuple[str, str], tuple[Account, float]] = {}

    def configure(self, user: str, group: str, security: bool) -> None:
        """Of a configuration that takes the place of another; what runs already runs on."""
        self._user, self._group, self._security = user, group, security

    async def run(self, script: Script, timeout_s: float, environment: Mapping[str, str] | None = None) -> Ended:
        """Run it to its end; only CancelledError is raised, and kills it. Waiting for a place is not counted."""
        try:
            who = await self._account(script)
        except PylvsError as error:
            return Ended(None, trouble=str(error))
        async with self._places:
            return await self._run(script, who, timeout_s, environment or {})

    async def close(self) -> None:
        """End everything that still runs, at once."""
        if self._runner is not None:
            await self._runner.close()
            self._runner = None

    async def _account(self, script: Script) -> Account:
        """Whom it runs as, looked up once a minute: the answer may come from another machine. Raises PylvsError."""
        wanted = (script.user, script.group) if script.user else (self._user, self._group)
        known, until = self._accounts.get(wanted, (None, 0.0))
        if known is None or time.monotonic() > until:
            known = await asyncio.to_thread(script_account, *wanted)
            self._accounts[wanted] = known, time.monotonic() + _ACCOUNT_S
        if known.uid == 0 and not wanted[0] and not self._warned:
            self._warned = True
            log.warning("scripts run as root: name a script_user, or make the user %s", SCRIPT_USER)
        return known

    async def _run(self, script: Script, who: Account, timeout_s: float, environment: Mapping[str, str]) -> Ended:
        self._last += 1
        number = self._last
        request = {
            "id": number,
            "arguments": script.arguments,
            "environment": dict(environment),
            "user": who.name,
            "uid": who.uid,
            "gid": who.gid,
            "groups": who.groups,
            "secure": self._security,
            "timeout_s": timeout_s,
        }
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            runner = await self._started()
            await runner.send(request)
            return await future
        except OSError as error:
            return Ended(None, trouble=f"cannot be started: {error.strerror or error}", unable=True)
        except asyncio.CancelledError:
            if self._runner is not None:
                self._runner.send_soon({"kill": number})
            raise
        finally:
            del self._waiting[number]

    async def _started(self) -> _Channel:
        async with self._starting:
            if self._runner is None or self._runner.over:
                self._runner = await _Channel.open(self._settle, self._bereft)
            return self._runner

    def _settle(self, answer: dict[str, Any]) -> None:
        future = self._waiting.get(answer.pop("id"))
        if future and not future.done():
            future.set_result(Ended(lost_bytes=answer.pop("lost"), **answer))

    def _bereft(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(Ended(None, trouble="the process that runs scripts has ended", unable=True))


class _Channel:
    """The process that runs the scripts, and the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._reading: asyncio.Task[None] | None = None
        self.over = False

    @classmethod
    async def open(cls, settle: Any, bereft: Any) -> _Channel:
        """Start it; each answer goes to `settle`, and `bereft` is called when it has gone. Raises OSError."""
        ours, its = socket.socketpair()
        with its:
            folder = str(Path(pylvs.__file__).parents[1])
            code = (
                f"import sys; sys.path.insert(0, {folder!r}); "
                f"from pylvs.system.processes.runner import main; main({its.fileno()})"
            )
            environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_SCRIPTS}
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-s", "-c", code),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,
                env=environment,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_ANSWER)
        made = cls(process, reader, writer)
        made._reading = asyncio.create_task(made._read(settle, bereft))
        return made

    async def send(self, request: dict[str, Any]) -> None:
        """Raises OSError if it has gone."""
        self.send_soon(request)
        await self._writer.drain()

    def send_soon(self, request: dict[str, Any]) -> None:
        """Without waiting for room."""
        if not self.over:
            self._writer.write(json.dumps(request).encode() + b"\n")

    async def close(self) -> None:
        """It ends what runs, and itself."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._reading is not None:
            await self._reading

    async def _read(self, settle: Any, bereft: Any) -> None:
        try:
            while line := await self._reader.readline():
                settle(json.loads(line))
        except OSError:
            pass
        finally:
            self.over = True
            self._writer.close()
            bereft()
            await self._process.wait()
